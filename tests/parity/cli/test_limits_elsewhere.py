"""A run on another GPU or of another release than the limits: named before any number, and never judged by them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from parity.cli.app import app
from parity.diff.metric import METRICS
from parity.judge.limit import Calibration, Limit, derive_limit, exact_limit
from parity.judge.limit_table import TableKey
from parity.judge.registry import Registry, load_registry, save_registry
from parity.runs import golden
from parity.runs.folder import read_run
from runners.errors import RegistryError

LeaveRun = Callable[..., Path]
WANTED = ("video_latent.relative_l2", "frames.count.difference")
H100 = {"device": "cuda", "device_name": "NVIDIA H100 80GB HBM3", "driver": "580.1"}
H200 = {"device": "cuda", "device_name": "NVIDIA H200", "driver": "580.1"}


@pytest.fixture
def root(leave_run: LeaveRun, micro_case_text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose micro case has a golden of an H100, and no limits."""
    (tmp_path / "golden" / "micro").mkdir(parents=True)
    (tmp_path / "golden" / "micro" / "case.toml").write_text(micro_case_text)
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path))
    golden.bless(read_run(leave_run("official", environment=H100)), "first")
    (tmp_path / "thresholds").mkdir()
    write_limits(tmp_path, {})
    return tmp_path


def write_limits(root: Path, devices: dict[str, dict[str, str]]) -> None:
    """Limits at 0.14 from agreement, 8 reaches at 0.2, on devices with the environment they were measured in."""
    calibrations = {
        device: Calibration(
            date="2026-01-02", command="x", runs=("y",), environment=environment, expires_with=tuple(environment)
        )
        for device, environment in devices.items()
    }
    registry = Registry(
        calibrations=calibrations,
        cases={TableKey("micro", device): {name: limit(name, device) for name in WANTED} for device in devices},
        unjudged={name: "not in this test" for name in METRICS if name not in WANTED},
    )
    save_registry(root / "thresholds" / "consistency_threshold.json", registry)


def limit(name: str, calibration: str) -> Limit:
    metric = METRICS[name]
    if metric.direction == "exact":
        return exact_limit(metric)
    near, far = (1 - one if metric.direction == "higher" else one for one in (0.02, 1.0))
    return derive_limit(metric, floor={"a": (near, near)}, defects={"d": (far,)}, calibration=calibration)


def gate(run: Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["gate", str(run)], env={"COLUMNS": "300"})
    return result.exit_code, result.output


def moved(share: float) -> Callable[[dict[str, Any]], None]:
    """Another video latent, by a relative L2."""

    def change(outputs: dict[str, Any]) -> None:
        outputs["video_latent"] = outputs["video_latent"] * (1 + share)

    return change


def test_without_limits_of_the_device_other_bits_are_not_judged_and_equal_bits_are_parity(
    root: Path, leave_run: LeaveRun, tmp_path: Path
) -> None:
    code, said = gate(leave_run("equal", runner="native", environment=H200))
    assert code == 0 and "NVIDIA H100 80GB HBM3 against NVIDIA H200" in said
    code, said = gate(leave_run("other", runner="native", environment=H200, change=moved(0.03)))
    assert code == 2 and "NVIDIA H100 80GB HBM3 against NVIDIA H200" in said
    assert "were measured on NVIDIA H200" in said and "parity calibrate --case micro" in said
    result = CliRunner().invoke(app, ["gate", str(tmp_path / "other"), "--json"])
    document = json.loads(result.stdout)
    assert (result.exit_code, document["outcome"]) == (2, "undecided") and "NVIDIA H200" in document["error"]
    assert document["environment_differences"] == ["device_name: NVIDIA H100 80GB HBM3 against NVIDIA H200"]


def test_limits_of_another_device_let_nothing_pass_and_fail_what_is_far_beyond(root: Path, leave_run: LeaveRun) -> None:
    write_limits(root, {H100["device_name"]: H100})
    for share in (0.03, 0.17):  # within and beyond the limits of the H100
        code, said = gate(leave_run(f"other{share}", runner="native", environment=H200, change=moved(share)))
        assert code == 2 and f"measured: {H100['device_name']}" in said
    code, said = gate(leave_run("far", runner="native", environment=H200, change=moved(0.5)))
    assert code == 1 and "1 outputs are beyond 8 times the reach" in said and "device: NVIDIA H100" in said


def test_limits_of_the_device_are_used(root: Path, leave_run: LeaveRun) -> None:
    write_limits(root, {"NVIDIA H200": H200})
    assert gate(leave_run("near", runner="native", environment=H200, change=moved(0.03)))[0] == 0
    code, said = gate(leave_run("far", runner="native", environment=H200, change=moved(0.3)))
    assert code == 1 and "video_latent.relative_l2" in said


def test_another_driver_on_the_same_device_passes_nothing_and_fails_what_is_far_beyond(
    root: Path, leave_run: LeaveRun
) -> None:
    write_limits(root, {H100["device_name"]: H100})
    newer = {**H100, "driver": "590.7"}
    for share, wanted in ((0.03, 2), (0.17, 2), (0.5, 1)):
        code, said = gate(leave_run(f"newer{share}", runner="native", environment=newer, change=moved(share)))
        assert code == wanted and "driver: 580.1 -> 590.7" in said
    assert gate(leave_run("equal", runner="native", environment=newer))[0] == 0  # needs no limit


def test_speed_of_another_device_is_not_compared(root: Path, leave_run: LeaveRun) -> None:
    def perf(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["perf", *map(str, arguments)], env={"COLUMNS": "300"})
        return result.exit_code, result.output

    assert perf(root / "official", "--update", "--few", "--reason", "first")[0] == 0
    assert perf(leave_run("again", environment=H100))[0] == 0
    code, said = perf(leave_run("elsewhere", environment=H200, stage_s={"denoising": 99.0}))
    assert code == 2 and "NVIDIA H100 80GB HBM3 -> NVIDIA H200" in said


def test_limits_of_another_release_judge_nothing_but_equal_bits_are_parity(root: Path, leave_run: LeaveRun) -> None:
    write_limits(root, {"NVIDIA H200": H200})  # of 1.0.0, which the case file names
    reference = leave_run("reference", environment=H100, reference="1.2.0")

    def against(run: Path) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["gate", str(run), "--against", str(reference)], env={"COLUMNS": "300"})
        return result.exit_code, result.output

    later = {"runner": "native", "environment": H200, "reference": "1.2.0"}
    assert against(leave_run("equal", **later))[0] == 0
    for share in (0.03, 0.3):  # within and beyond the limits of 1.0.0
        code, said = against(leave_run(f"later{share}", **later, change=moved(share)))
        assert code == 2 and "Limits of case 'micro' hold at release 1.0.0" in said and "bless RUN" in said


def test_a_limit_that_its_samples_do_not_give_judges_nothing_wherever_it_stands(
    root: Path, leave_run: LeaveRun
) -> None:
    write_limits(root, {H100["device_name"]: H100})
    run = leave_run("fast", runner="native", tier="fast", environment=H100, change=moved(0.3))
    code, said = gate(run)
    assert code == 1 and f"limits and goldens: those of {root}, not those that ship with" in said
    path = root / "thresholds" / "consistency_threshold.json"
    document = json.loads(path.read_text())
    document["tables"][0]["limits"][WANTED[0]]["value"] = 1e9
    path.write_text(json.dumps(document))
    code, said = gate(run)
    assert code == 2 and "says value 1000000000.0; its samples give 0.14" in said and str(path) in said
    checks = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)["checks"]
    assert "PROBLEM: The registry contradicts itself: micro on NVIDIA H100" in checks["limits"]


def test_a_case_is_judged_by_its_own_limits_whatever_another_one_says(root: Path, leave_run: LeaveRun) -> None:
    write_limits(root, {H100["device_name"]: H100})
    path = root / "thresholds" / "consistency_threshold.json"
    registry = load_registry(path)
    of_micro = registry.cases[TableKey("micro", H100["device_name"])]
    edited = {WANTED[0]: msgspec.structs.replace(of_micro[WANTED[0]], value=1e9)}
    registry = msgspec.structs.replace(registry, cases={**registry.cases, TableKey("other"): edited})
    registry.verify_case("micro")
    for case, message in (("other", "other: video_latent.relative_l2 says value"), (None, "contradicts itself")):
        with pytest.raises(RegistryError, match=message):
            registry.verify() if case is None else registry.verify_case(case)
