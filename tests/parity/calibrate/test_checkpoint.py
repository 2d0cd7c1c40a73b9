"""Calibrations in several parts: what is kept, what is refused, and limits of a few members only."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from parity.calibrate.checkpoint import CalibrationCheckpoint, Member
from parity.calibrate.harmless import other_capability, variations
from parity.cli.app import app
from parity.judge.limit_table import TableKey
from parity.judge.registry import load_registry
from runners.errors import RegistryError
from runners.weights import WeightsFolder

pytestmark = pytest.mark.slow


def test_a_member_that_is_kept_is_not_measured_again_and_infinities_survive(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    first = CalibrationCheckpoint(kept=kept, origin={"case": {"seed": 3}})
    first.take("a", lambda: Member(metrics={"x": float("inf"), "y": 0.25}, findings=("f",), shown_at=("y",)))

    def never() -> Member:
        raise AssertionError("measured again")

    again = CalibrationCheckpoint(kept=kept, origin={"case": {"seed": 3}}).take("a", never)
    assert again.numbers == {"x": float("inf"), "y": 0.25} and (again.findings, again.shown_at) == (("f",), ("y",))
    with pytest.raises(RegistryError, match="another case"):
        CalibrationCheckpoint(kept=kept, origin={"case": {"seed": 4}})
    kept.write_text(kept.read_text()[:-5])
    with pytest.raises(RegistryError, match="is not valid JSON"):
        CalibrationCheckpoint(kept=kept, origin={"case": {"seed": 3}})


def test_members_of_other_shares_are_joined_and_go_into_the_kept_file(tmp_path: Path) -> None:
    one, two, whole = (tmp_path / f"{name}.json" for name in ("one", "two", "whole"))
    CalibrationCheckpoint(kept=one).take("a", lambda: Member(metrics={"x": 2.0}))
    CalibrationCheckpoint(kept=two).take("b", lambda: Member(metrics={"x": 3.0}))
    joined = CalibrationCheckpoint(kept=whole, others=(one, two))
    taken = [joined.take(name, lambda: Member(metrics={"x": 5.0})).numbers["x"] for name in ("a", "b", "c")]
    assert taken == [2.0, 3.0, 5.0] and list(json.loads(whole.read_text())["members"]) == ["a", "b", "c"]
    assert CalibrationCheckpoint(kept=whole, others=(two,)).take("c", lambda: Member(metrics={})).numbers == {"x": 5.0}


def test_shares_that_are_missing_or_say_different_things_are_refused(tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    CalibrationCheckpoint(kept=one).take("a", lambda: Member(metrics={"x": 2.0}))
    CalibrationCheckpoint(kept=two).take("a", lambda: Member(metrics={"x": 3.0}))
    with pytest.raises(RegistryError, match=r"two.json has another 'a' than an earlier file; leave one of them out"):
        CalibrationCheckpoint(others=(one, two))
    with pytest.raises(RegistryError, match=r"three.json"):
        CalibrationCheckpoint(kept=one, others=(tmp_path / "three.json",))
    with pytest.raises(RegistryError, match=r"one.json was measured with another limits"):
        CalibrationCheckpoint(kept=two, others=(one,), origin={"limits": "b"})


def test_out_of_time_is_said_and_what_was_measured_stays(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    with pytest.raises(RegistryError, match=r"before 'b', with 1 members .* goes on"):
        checkpoint = CalibrationCheckpoint(kept=kept, minutes=1e-9, origin={})
        CalibrationCheckpoint(kept=kept).take("a", lambda: Member(metrics={}))
        CalibrationCheckpoint(kept=kept, minutes=0.0).take("b", lambda: Member(metrics={}))
        checkpoint.take("c", lambda: Member(metrics={}))
    assert list(json.loads(kept.read_text())["members"]) == ["a"]


def test_only_takes_members_that_there_are() -> None:
    checkpoint = CalibrationCheckpoint(only=("b",))
    assert (checkpoint.wants("a"), checkpoint.wants("b"), CalibrationCheckpoint().wants("a")) == (False, True, True)
    with pytest.raises(RegistryError, match="--only names b; there are a, c"):
        checkpoint.require_known(["a", "c"])


def test_a_gpu_varies_attention_kernels_where_a_cpu_varies_threads() -> None:
    there, here = ({one.id for one in variations(range(1), device=torch.device(name))} for name in ("cuda", "cpu"))
    assert there - here == {"without_cudnn", "without_cudnn_and_flash", "unshared"} and here - there == {
        "one_thread",
        "two_threads",
        "without_onednn",
        *(("other_capability",) if other_capability() else ()),
    }
    x = torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(1))
    for variation in variations(range(0), device=torch.device("cuda"))[:4]:
        with variation.apply():
            torch.nn.functional.scaled_dot_product_attention(x, x, x)


def test_limits_from_a_few_members_in_two_calls_say_what_they_rest_on(
    tmp_path: Path, micro_case_text: str, micro_weights: WeightsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    (tmp_path / "golden" / "micro").mkdir(parents=True)
    (tmp_path / "golden" / "micro" / "case.toml").write_text(micro_case_text)
    (tmp_path / "thresholds").mkdir()
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path))
    kept, limits = tmp_path / "kept.json", tmp_path / "thresholds" / "consistency_threshold.json"
    members = ("repeated", "noise_ulp_0", "steps", "text_without_first_token")
    arguments = [
        "calibrate",
        "--case",
        "micro",
        "--weights",
        str(micro_weights.folder),
        "--limits-only",
        "--threads",
        "1",
    ]
    arguments += ["--samples", str(kept), *(word for name in members for word in ("--only", name))]
    stopped = CliRunner().invoke(app, [*arguments, "--minutes", "0"])
    assert stopped.exit_code == 2 and "Out of time" in stopped.output and not limits.exists()
    finished = CliRunner().invoke(app, arguments)
    torch.set_num_threads(threads)
    assert finished.exit_code == 0, finished.output
    assert set(json.loads(kept.read_text())["members"]) == {"native_as_it_is", *members}
    registry = load_registry(limits)
    [calibration] = registry.calibrations.values()
    assert calibration.runs[0].startswith("micro: 3 harmless variations and 1 of ")
    assert "--only steps" in calibration.command
    limit = registry.cases[TableKey("micro")]["video_latent.relative_l2"]
    assert limit.samples is not None and set(limit.samples.defects) == {"text_without_first_token"}
