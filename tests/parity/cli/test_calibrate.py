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
from parity.runs import golden
from parity.runs.folder import read_run
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
