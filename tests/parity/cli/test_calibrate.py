"""`parity calibrate` measures what the golden of a case keeps, and says so where it is read again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from parity.calibrate import populations
from parity.calibrate.checkpoint import CalibrationCheckpoint, Member
from parity.calibrate.populations import Populations
from parity.cli.app import app
from parity.diff.runs import GoldenSubset, subset_of_case, subset_phrase
from parity.judge.limit_table import TableKey
from parity.judge.registry import load_registry
from parity.runs import golden
from parity.runs.folder import read_run
from parity.runs.places import limits_path
from runners.weights import WeightsFolder

LeaveRun = Callable[..., Path]


@pytest.mark.parametrize("reduced", [False, True], ids=["whole", "reduced"])
def test_what_a_golden_keeps_is_measured_recorded_and_asked_of_kept_samples(
    reduced: bool,
    checkout: Path,
    micro_weights: WeightsFolder,
    leave_run: LeaveRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    official = read_run(leave_run("official"))
    golden.bless(official, "first", reduced=reduced)
    seen: list[GoldenSubset | None] = []

    def measure(*_: Any, subset: GoldenSubset | None, checkpoint: CalibrationCheckpoint, **__: Any) -> Populations:
        seen.append(subset)
        checkpoint.take("repeated", lambda: Member(metrics={}))
        moved = {"video_latent.relative_l2": 0.01}
        floor = {"repeated": moved, "noise": moved}
        return Populations(
            case="micro", floor=floor, defects={}, findings={}, shown_at={}, compared_on=subset_phrase(subset)
        )

    monkeypatch.setattr(populations, "measure", measure)
    samples, threads = checkout / "samples.json", torch.get_num_threads()
    arguments = ["--case", "micro", "--weights", str(micro_weights.folder), "--limits-only", "--samples", str(samples)]
    try:
        for _ in range(2):  # the second goes on with the samples of the first
            result = CliRunner().invoke(app, ["calibrate", *arguments])
            assert result.exit_code == 0, result.output
        if reduced:
            monkeypatch.setattr(golden, "LARGEST_WHOLE_BYTES", 1 << 40)
            golden.bless(official, "all of it")
            result = CliRunner().invoke(app, ["calibrate", *arguments])
            assert result.exit_code == 2 and "was measured with another compared_on" in result.output.replace("\n", " ")
    finally:
        torch.set_num_threads(threads)
    assert (seen[0] is not None) == reduced and seen[0] == seen[1]
    assert json.loads(samples.read_text())["origin"]["compared_on"] == subset_phrase(seen[0])
    assert reduced or subset_of_case("micro") is None


def test_extending_measures_what_the_kept_samples_lack_and_joins_it(
    checkout: Path, micro_weights: WeightsFolder, leave_run: LeaveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden.bless(read_run(leave_run("official")), "first")
    asked: list[set[str]] = []

    def measure(*_: Any, checkpoint: CalibrationCheckpoint, **__: Any) -> Populations:
        asked.append(set(checkpoint.only))
        floor = {name: {"video_latent.relative_l2": 0.03} for name in checkpoint.only or ("repeated", "noise_ulp_0")}
        return Populations(case="micro", floor=floor, defects={}, findings={}, shown_at={})

    monkeypatch.setattr(populations, "measure", measure)
    arguments = [
        "calibrate",
        "--case",
        "micro",
        "--weights",
        str(micro_weights.folder),
        "--threads",
        "1",
        "--limits-only",
    ]
    threads = torch.get_num_threads()
    try:
        for more in ([], ["--extend", "--reason", "more draws"], ["--extend"]):
            result = CliRunner().invoke(app, [*arguments, *more])
            assert result.exit_code == 0, result.output
        refused = CliRunner().invoke(app, [*arguments, "--extend", "--only", "repeated"])
    finally:
        torch.set_num_threads(threads)
    assert refused.exit_code == 2 and "leave --only" in " ".join(refused.output.split())
    first, second, *rest = asked
    assert not first and not rest, "a third call finds nothing lacking and measures nothing"
    assert {"noise_ulp_1", "text_ulp_0"} <= second and not {"repeated", "noise_ulp_0"} & second
    limit = load_registry(limits_path()).cases[TableKey("micro")]["video_latent.relative_l2"]
    assert limit.samples is not None and set(limit.samples.floor) == second | {"repeated", "noise_ulp_0"}
