"""Saved verdicts: reached again from their numbers, and refused if the golden, a limit or a number was changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from parity.cli.app import app
from parity.diff.metric import METRICS
from parity.diff.runs import RunsDiff, compare_runs, subset_of_case, subset_phrase
from parity.judge.limit import Calibration, derive_limit, exact_limit
from parity.judge.limit_table import TableKey
from parity.judge.registry import Registry, load_registry, save_registry
from parity.judge.saved import load_verdict, require_of_golden, saved_verdicts
from parity.runs import golden
from parity.runs.folder import read_run
from parity.trace.atomic import write_json_atomic
from runners.errors import RunError
from runners.files import sha256_of

LeaveRun = Callable[..., Path]
WANTED = {"frames.count.difference", "audio.channels.difference"}


@pytest.fixture(params=[8 << 20, 1000], ids=["whole", "reduced"])
def root(
    request: pytest.FixtureRequest,
    checkout: Path,
    leave_run: LeaveRun,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A checkout whose micro case has a golden, with numbers of a native run against it and a registry."""
    monkeypatch.setattr(golden, "LARGEST_WHOLE_BYTES", request.param)
    official = read_run(leave_run("official"))
    golden.bless(official, "first")
    limits = {name: exact_limit(METRICS[name]) for name in WANTED}
    unjudged = {name: "not in this test" for name in METRICS if name not in WANTED}
    save_registry(checkout / "thresholds" / "consistency_threshold.json", Registry(defaults=limits, unjudged=unjudged))
    save(checkout / "exact.json", compare_runs(official, read_run(leave_run("native", runner="native"))))
    fast = read_run(leave_run("fast", runner="native", tier="fast"))
    save(checkout / "limits.json", compare_runs(official, fast))
    return checkout


def save(path: Path, found: RunsDiff) -> None:
    write_json_atomic(path, found.document())


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def edited(path: Path, change: Callable[[Any], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_numbers_are_judged_kept_and_judged_again(root: Path) -> None:
    code, text = invoke("rejudge", "--record", root / "exact.json", "--record", root / "limits.json")
    outcomes = {path.name: load_verdict(path).outcome for path in saved_verdicts()}
    assert outcomes == {"native_exact_bf16_exact.json": "parity", "native_fast_bf16_limits.json": "undecided"}
    assert code == 0, text
    assert invoke("rejudge")[0] == 0


def test_nothing_saved_is_no_pass(root: Path) -> None:
    code, text = invoke("rejudge")
    assert code == 2 and "make parity-gpu" in text


def test_without_a_registry_nothing_was_verified(root: Path) -> None:
    invoke("rejudge", "--record", root / "exact.json")
    (root / "thresholds/consistency_threshold.json").unlink()
    code, text = invoke("rejudge")
    assert code == 2 and "consistency_threshold.json" in text.replace("\n", "")


def test_numbers_that_do_not_say_their_version_are_not_read(root: Path) -> None:
    invoke("rejudge", "--record", root / "exact.json")
    edited(saved_verdicts()[0], lambda document: document.pop("schema_version"))
    code, text = invoke("rejudge")
    assert code == 2 and "schema_version" in text


def test_a_number_that_was_edited_comes_to_another_outcome(root: Path) -> None:
    invoke("rejudge", "--record", root / "exact.json")

    def change(document: Any) -> None:
        document["numbers"]["metrics"]["outputs.bit_equal.frames"] = 0.0

    edited(saved_verdicts()[0], change)
    code, text = invoke("rejudge")
    assert code == 1 and "not_at_parity, but parity was recorded" in text


def test_a_number_that_no_limit_judges_is_held_to_the_equal_bits_beside_it(root: Path) -> None:
    invoke("rejudge", "--record", root / "exact.json")
    for name, value in (("frames.psnr_db.min", 20.0), ("audio.snr_db.min", 60.0), ("video_latent.cosine", 0.9)):
        honest = saved_verdicts()[0].read_text()
        name = name if name in honest else f"small_{name}"
        edited(saved_verdicts()[0], lambda document: document["numbers"]["metrics"].update({name: value}))  # noqa: B023
        code, text = invoke("rejudge")
        assert code == 2 and name in text.replace("\n", " ")
        saved_verdicts()[0].write_text(honest)
    assert invoke("rejudge")[0] == 0


@pytest.mark.parametrize(("device", "wanted"), [("cpu", False), ("cuda", True)])
def test_a_golden_of_a_gpu_wants_its_numbers(root: Path, device: str, wanted: bool) -> None:
    invoke("rejudge", "--record", root / "exact.json")
    shutil.copytree(root / "golden" / "micro", root / "golden" / "other")
    shutil.rmtree(root / "golden" / "other" / "numbers")
    case = root / "golden" / "other" / "case.toml"
    case.write_text(case.read_text().replace('id = "micro"', 'id = "other"'))
    run_file, golden_file = case.parent / "run" / "run.json", case.parent / "golden.json"

    def change(document: Any) -> None:
        document["case"]["id"] = "other"
        document["environment"]["device"] = device

    edited(run_file, change)
    record = json.loads(golden_file.read_text())
    record["case_sha256"], record["history"][-1]["run_sha256"] = sha256_of(case), sha256_of(run_file)
    golden_file.write_text(json.dumps(record))
    code, text = invoke("rejudge")
    assert code == (2 if wanted else 0), text
    assert ("no numbers of a candidate" in text.replace("\n", " ")) == wanted


def test_a_limit_that_was_changed_shows(root: Path) -> None:
    invoke("rejudge", "--record", root / "limits.json")

    def change(document: Any) -> None:
        document["tables"][0]["limits"]["frames.count.difference"]["value"] = 1.0

    edited(root / "thresholds" / "consistency_threshold.json", change)
    code, text = invoke("rejudge")
    assert code != 0 and "frames.count.difference" in text


def test_limits_of_something_else_than_the_golden_keeps_show(root: Path) -> None:
    invoke("rejudge", "--record", root / "exact.json")
    path = root / "thresholds" / "consistency_threshold.json"
    registry, kept = load_registry(path), subset_of_case("micro")
    calibration = Calibration(
        date="2026-01-02",
        command="x",
        runs=("y",),
        environment={"device": "cpu"},
        expires_with=("device",),
        compared_on={} if kept is None else {"micro": subset_phrase(kept)},
    )
    name = "video_latent.relative_l2"
    limit = derive_limit(METRICS[name], floor={"a": (0.1, 0.1)}, defects={"d": (1.0,)}, calibration="c")
    unjudged = {metric: why for metric, why in registry.unjudged.items() if metric != name}
    micro, on_gpu = TableKey("micro"), TableKey("micro", "GPU")
    other = {"micro": "boxes of 99 px, no taps"}
    for where, compared_on, later, wanted in (
        (micro, calibration.compared_on, None, 0),
        (on_gpu, calibration.compared_on, None, 0),
        (micro, other, None, 2),
        (on_gpu, other, None, 2),
        (micro, calibration.compared_on, other, 2),  # another limit, of a later calibration
        (TableKey("elsewhere"), {"elsewhere": other["micro"]}, None, 0),  # a case whose golden is not here
    ):
        measured = msgspec.structs.replace(calibration, compared_on=compared_on)
        tables = {where: {name: limit}}
        calibrations = {"c": measured}
        if later is not None:
            tables[where]["audio_latent.relative_l2"] = msgspec.structs.replace(limit, calibration="d")
            calibrations["d"] = msgspec.structs.replace(calibration, compared_on=later)
            unjudged.pop("audio_latent.relative_l2")
        save_registry(
            path, msgspec.structs.replace(registry, calibrations=calibrations, cases=tables, unjudged=unjudged)
        )
        code, text = invoke("rejudge")
        assert code == wanted, text
        assert ("boxes of 99 px, no taps ->" in text.replace("\n", " ")) == (wanted == 2)


def test_a_golden_that_was_tampered_with_or_replaced_shows(root: Path, leave_run: LeaveRun) -> None:
    invoke("rejudge", "--record", root / "exact.json")
    run_file = root / "golden" / "micro" / "run" / "run.json"
    honest = run_file.read_text()
    run_file.write_text(honest.replace('"end_to_end_s": 4.0', '"end_to_end_s": 3.0'))
    code, text = invoke("rejudge")
    assert code == 2 and "changed without" in text
    run_file.write_text(honest)
    assert invoke("rejudge")[0] == 0
    golden.bless(read_run(leave_run("newer", stage_s={"load": 2.0})), "second")
    code, text = invoke("rejudge")
    assert code == 2 and "another run" in text


def test_a_picture_that_was_changed_shows(root: Path) -> None:
    invoke("rejudge", "--record", root / "exact.json")
    folder = root / "golden" / "micro"
    picture, run_file, golden_file = folder / "a.png", folder / "run" / "run.json", folder / "golden.json"
    picture.write_bytes(b"picture")
    edited(run_file, lambda document: document["inputs"].update({"a.png": sha256_of(picture)}))
    edited(golden_file, lambda document: document["history"][-1].update({"run_sha256": sha256_of(run_file)}))
    assert invoke("rejudge")[0] == 0
    picture.write_bytes(b"another")
    code, text = invoke("rejudge")
    assert code == 2 and "a.png is not the picture" in text.replace("\n", " ")


def test_numbers_against_another_run_than_the_golden_are_not_kept(root: Path, leave_run: LeaveRun) -> None:
    other = read_run(leave_run("other", stage_s={"load": 3.0}))
    save(root / "other.json", compare_runs(other, read_run(root / "native")))
    code, text = invoke("rejudge", "--record", root / "other.json")
    assert code == 2 and "another run" in text and not saved_verdicts()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("runner", "../../../evil"),
        ("runner", "/tmp/evil"),
        ("runner", ".."),
        ("runner", ""),
        ("runner", "x" * 300),
        ("tier", "../exact"),
        ("dtype", "bf16/../../../x"),
    ],
)
def test_numbers_cannot_name_the_file_that_they_are_kept_in(field: str, value: str, root: Path) -> None:
    edited(root / "exact.json", lambda document: document["candidate"].update({field: value}))
    before = sorted(root.rglob("*"))
    code, text = invoke("rejudge", "--record", root / "exact.json")
    assert code == 2 and "names no runner, tier and dtype" in text.replace("\n", " ")
    assert sorted(root.rglob("*")) == before


def test_numbers_are_not_kept_behind_a_link(root: Path) -> None:
    (root / "elsewhere").mkdir()
    (root / "golden" / "micro" / "numbers").symlink_to(root / "elsewhere")
    code, text = invoke("rejudge", "--record", root / "exact.json")
    assert code == 2 and "is a symbolic link inside" in text.replace("\n", " ")
    assert list((root / "elsewhere").iterdir()) == []


H100 = {"device": "cuda", "device_name": "NVIDIA H100 80GB HBM3", "driver": "580.1"}
H200 = {"device": "cuda", "device_name": "NVIDIA H200", "driver": "580.1"}


@pytest.fixture
def on_gpu(checkout: Path, leave_run: LeaveRun) -> Path:
    """A checkout whose micro case has the golden of an H100 with its numbers, and limits of an H200."""
    official = read_run(leave_run("official", environment=H100))
    golden.bless(official, "first")
    name = "video_latent.relative_l2"
    limit = derive_limit(METRICS[name], floor={"a": (0.02, 0.03)}, defects={"d": (0.5,)}, calibration="c")
    calibration = Calibration(
        date="2026-01-02", command="x", runs=("y",), environment=H200, expires_with=("device_name",)
    )
    wanted = {one: exact_limit(METRICS[one]) for one in WANTED}
    registry = Registry(
        calibrations={"c": calibration},
        defaults=wanted,
        cases={TableKey("micro", "NVIDIA H200"): {name: limit}},
        unjudged={one: "not in this test" for one in METRICS if one not in (*WANTED, name)},
    )
    save_registry(checkout / "thresholds" / "consistency_threshold.json", registry)
    save(
        checkout / "exact.json",
        compare_runs(official, read_run(leave_run("native", runner="native", environment=H100))),
    )
    assert invoke("rejudge", "--record", checkout / "exact.json")[0] == 0
    return checkout


def on_h200(leave_run: LeaveRun, share: float = 0.0, **changes: Any) -> RunsDiff:
    """A fast run beside an official one on an H200, its latent scaled by so much."""

    def scaled(made: dict[str, Any]) -> None:
        made["video_latent"] = made["video_latent"] * (1 + share)

    official = read_run(leave_run(f"official{share}", environment=H200))
    fast = {"runner": "native", "tier": "fast", "environment": H200, **changes}
    return compare_runs(official, read_run(leave_run(f"fast{share}", change=scaled, **fast)))


def test_a_fast_tier_on_another_gpu_is_saved_beside_the_golden_and_judged_again_by_that_gpus_limits(
    on_gpu: Path, leave_run: LeaveRun
) -> None:
    save(on_gpu / "fast.json", on_h200(leave_run, 0.03))
    code, text = invoke("rejudge", "--record", on_gpu / "fast.json")
    assert code == 0, text
    path = on_gpu / "golden/micro/numbers/native_fast_bf16_limits@NVIDIA_H200.json"
    saved = load_verdict(path)
    assert (saved.profile, saved.outcome) == ("limits", "parity")
    assert invoke("rejudge")[0] == 0
    edited(path, lambda document: document["numbers"]["metrics"].update({"video_latent.relative_l2": 0.2}))
    code, text = invoke("rejudge")
    assert code == 1 and "not_at_parity, but parity was recorded" in " ".join(text.split())


@pytest.mark.parametrize(
    "changes",
    [
        {"environment": H100},  # another GPU than the official run beside it
        {"environment": {**H200, "driver": "590.7"}},
    ],
)
def test_numbers_of_two_environments_are_of_no_golden(
    on_gpu: Path, leave_run: LeaveRun, changes: dict[str, Any]
) -> None:
    found = on_h200(leave_run, **changes)
    with pytest.raises(RunError, match="than its golden"):
        require_of_golden(found)


def test_numbers_of_another_gpu_do_not_stand_for_those_of_the_golden(on_gpu: Path, leave_run: LeaveRun) -> None:
    save(on_gpu / "fast.json", on_h200(leave_run))
    invoke("rejudge", "--record", on_gpu / "fast.json")
    (on_gpu / "golden/micro/numbers/native_exact_bf16_exact.json").unlink()
    code, text = invoke("rejudge")
    assert code == 2 and "no numbers of a candidate" in " ".join(text.split())


def test_another_run_of_the_goldens_own_gpu_is_not_its_golden(on_gpu: Path, leave_run: LeaveRun) -> None:
    again = read_run(leave_run("again", environment=H100))
    save(on_gpu / "again.json", compare_runs(again, read_run(leave_run("f", runner="native", environment=H100))))
    code, text = invoke("rejudge", "--record", on_gpu / "again.json")
    assert code == 2 and "than its golden" in " ".join(text.split())
