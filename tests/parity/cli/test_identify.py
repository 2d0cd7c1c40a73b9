"""`parity identify` from the command line, on a run that it did not make."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from parity.cli.app import app
from parity.runs.execute import run_to_folder, writing_trace
from runners.case import Case
from runners.clock import Quiet
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions
from runners.weights import WeightsFolder


@pytest.fixture(scope="module")
def run(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    case = micro_case({"request.num_inference_steps": 1, "request.images": [{"path": "coffee.jpg"}]})
    options = RunOptions(device=torch.device("cpu"), behaviours={"guidance_fp32": True})
    folder = tmp_path_factory.mktemp("identify") / "run"
    runner = NativeRunner(micro_weights, options)
    run_to_folder(runner, case, micro_weights, options, folder, Quiet(), writing_trace("*", "sketch"))
    return folder


def called(*arguments: Any) -> Any:
    threads = torch.get_num_threads()
    try:
        return CliRunner().invoke(app, ["identify", *map(str, arguments)])
    finally:
        torch.set_num_threads(threads)  # the verb computes on as many as the run did


def test_the_answer_is_said_saved_and_given_to_machines(
    run: Path, micro_weights: WeightsFolder, pictures: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "answer.json"
    with_pictures = ("--weights", micro_weights.folder, "--case", pictures / "case.toml")
    result = called(run, "--against", run, *with_pictures, "--out", saved, "--quiet")
    assert result.exit_code == 0, result.output
    assert re.match(r"beside .*/run: all \d+ taps are equal in every bit\n", result.output)
    assert "as 1.0.0, but guided combination in fp32 (since 1.2.0)" in result.output
    assert "confidence: certain" in result.output and "cannot be told: keyframe_spans_one_frame" in result.output
    document = json.loads(saved.read_text())
    assert document["confidence"] == "certain" and document["release"] == "1.0.0"
    assert document["beside_reference"].endswith("taps are equal in every bit")
    assert [one["name"] for one in document["differences"]] == ["guidance_fp32"]


def test_without_its_pictures_or_weights_it_could_not_judge(
    run: Path, micro_weights: WeightsFolder, pictures: Path, tmp_path: Path
) -> None:
    missing = called(run, "--weights", micro_weights.folder, "--case", tmp_path / "case.toml")
    assert missing.exit_code == 2 and "coffee.jpg" in missing.output
    (tmp_path / "coffee.jpg").write_bytes((pictures / "astronaut.png").read_bytes())
    other = called(run, "--weights", micro_weights.folder, "--case", tmp_path / "case.toml")
    assert other.exit_code == 2 and "is not the picture" in other.output
    absent = called(run, "--weights", tmp_path, "--case", pictures / "case.toml")
    assert absent.exit_code == 2
