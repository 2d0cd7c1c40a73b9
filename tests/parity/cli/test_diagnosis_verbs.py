"""`parity explain`, `isolate` and `amplify` from the command line, on runs that they made themselves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from parity.cli.admit import admit
from parity.cli.amplify import amplify
from parity.cli.explain import explain
from parity.cli.isolate import isolate
from parity.runs.execute import run_to_folder, writing_trace
from runners.case import Case
from runners.catalogue import open_runner
from runners.clock import Quiet
from runners.protocol import RunOptions
from runners.weights import WeightsFolder

pytestmark = pytest.mark.slow
app = typer.Typer()
for name, function in (("admit", admit), ("explain", explain), ("isolate", isolate), ("amplify", amplify)):
    app.command(name)(function)


@pytest.fixture(scope="module")
def case_file(pictures: Path, micro_case: Callable[..., Case]) -> Path:
    """The micro case as a file, one step long."""
    request = micro_case().request
    path = pictures / "micro.toml"
    path.write_text(
        f"""
id = "micro"
pipeline = "one_stage"
request = {{ prompt = "{request.prompt}", seed = 3, height = 64, width = 96, num_frames = 9, frame_rate = 45.0,
num_inference_steps = 1 }}
guidance = {{ video = {{ cfg_scale = 2.0 }}, audio = {{}} }}
""".replace(",\n", ", ")
    )
    return path


def called(*arguments: Any) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_verbs_diagnose_a_run(case_file: Path, micro_weights: WeightsFolder, tmp_path: Path) -> None:
    from runners.case import load_case

    case, options = load_case(case_file), RunOptions(device=torch.device("cpu"))
    for runner in ("official", "native"):
        engine = open_runner(runner, micro_weights, options)
        run_to_folder(engine, case, micro_weights, options, tmp_path / runner, Quiet(), writing_trace("*", "sketch"))
    weights = ("--weights", micro_weights.folder)

    decisions = called("explain", tmp_path / "native", "--against", tmp_path / "official", "--drift", "out")
    assert "taps are equal in every bit" in decisions and "cond, video (worst 0)" in decisions
    document = json.loads(called("explain", tmp_path / "native", "--against", tmp_path / "official", "--json"))
    assert document["bit_equal"] is True and document["taps"]["init/video"]["relative_l2"] == 0

    saved = tmp_path / "added.json"
    shown = called("isolate", case_file, *weights, "--steps", "0", "--no-harmless", "--quiet", "--all", "--out", saved)
    assert "every one has the reference's bits" in shown and "decode/waveform" in shown
    assert json.loads(saved.read_text())["bit_equal"] is True
    wrong = CliRunner().invoke(app, ["isolate", str(case_file), "--weights", str(micro_weights.folder), "--steps", "x"])
    assert wrong.exit_code == 2

    free = ("--run", tmp_path / "native", "--against", tmp_path / "official")
    tried = ("admit", "native", "--case", case_file, *weights, "--taps", "*/block/*", "--quiet")
    shown = called(*tried, *free, "--out", saved)
    assert "ADMITTED: native, 40 places" in shown and "first half" in shown
    document = json.loads(saved.read_text())
    assert document["outcome"] == "admitted" and document["drift_of"] == " against ".join(
        str(one) for one in free[1::2]
    )
    assert document["groups"][0]["drift"] == {"first_step": 0.0}
    answers = (
        (("--no-drift", "--error-ratio", "0.5"), 1, "REFUSED: native"),  # stricter than the official code itself
        (free[:2], 2, "--run and --against go together"),
        (("--steps", "1"), 2, "has steps from 0 to 0"),
        ((*free, "--case", "tiny_ti2v"), 2, "what is to be admitted is tiny_ti2v / native / exact"),
    )
    for more, code, said in answers:
        result = CliRunner().invoke(app, [str(argument) for argument in (*tried, *more)])
        assert result.exit_code == code and said in " ".join(result.output.split()), result.output

    floors = tmp_path / "floors.json"
    grown = called("amplify", "--case", case_file, *weights, "--runner", "native", "--out", floors, "--quiet")
    assert "initial latents" in grown and "waveform" in grown
    called("explain", tmp_path / "native", "--against", tmp_path / "official", "--floors", floors)
