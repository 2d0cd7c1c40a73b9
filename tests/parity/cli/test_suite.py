"""`parity suite --golden` of a release that is not installed: its golden alone stands for the official run."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from parity.cli.app import app
from parity.trace import golden
from parity.trace.bundle import RUN_FILE, read_run
from runners.weights import WeightsFolder


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.fixture
def root(
    tmp_path: Path, micro_case_text: str, micro_weights: WeightsFolder, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A checkout whose micro case has a golden of 1.1.2, made by native, which has its bits."""
    threads = torch.get_num_threads()
    folder = tmp_path / "golden" / "micro"
    folder.mkdir(parents=True)
    text = micro_case_text.replace("[request]", 'reference = "1.1.2"\n[request]', 1)
    (folder / "case.toml").write_text(text.replace("inference_steps = 2", "inference_steps = 1"))
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path))
    arguments = ("--case", "micro", "--weights", micro_weights.folder, "--taps", "*", "--threads", 1, "--quiet")
    assert invoke("run", "--runner", "native", *arguments, "--out", tmp_path / "made")[0] == 0
    document = json.loads((tmp_path / "made" / RUN_FILE).read_text())
    (tmp_path / "made" / RUN_FILE).write_text(json.dumps({**document, "runner": "official"}))
    golden.bless(read_run(tmp_path / "made"), "for this test")
    yield tmp_path
    torch.set_num_threads(threads)


def test_native_is_held_to_the_golden_alone_and_it_is_said(root: Path, micro_weights: WeightsFolder) -> None:
    arguments = ("suite", "--case", "micro", "--weights", micro_weights.folder, "--taps", "*", "--threads", 1)
    code, said = invoke(*arguments, "--out", root / "runs", "--report", root / "report", "--golden", "--quiet")
    assert code == 0, said
    assert "official 1.1.2 is not installed, its golden stands for it" in said and "VERDICT: PARITY" in said
    [line] = json.loads((root / "report" / "suite.json").read_text())["lines"]
    assert line["what"] == "native against golden" and line["verdict"]["profile"] == "exact"
    assert not (root / "runs" / "micro" / "official").exists()
    code, said = invoke(*arguments, "--out", root / "live", "--quiet")  # without the golden there is nothing
    assert code == 2 and "does not run reference release '1.1.2'" in said
