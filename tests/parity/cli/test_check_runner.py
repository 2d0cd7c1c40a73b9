"""`parity check-runner` from the command line: 0 for nothing to mend, 1 for something, 2 where it could not look."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from parity.cli.app import app
from runners.weights import WeightsFolder

ENGINE = """
import torch
from runners.native.runner import NativeRunner

class Engine(NativeRunner):
    name = "engine"
    def run(self, case, progress):
        outcome = super().run(case, progress)
        outcome.details["seen"] = True
        return outcome

class Wrong(Engine):
    def run(self, case, progress):
        import dataclasses
        outcome = super().run(case, progress)
        return dataclasses.replace(outcome, sample_rate_hz=44100)

class Nothing:
    def __init__(self, weights, options): ...
"""


@pytest.fixture
def micro(tmp_path: Path, micro_weights: WeightsFolder, micro_case_text: str) -> list[str]:
    (tmp_path / "engine.py").write_text(ENGINE)
    (tmp_path / "case.toml").write_text(micro_case_text)
    return ["--weights", str(micro_weights.folder), "--case", str(tmp_path / "case.toml")]


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("Engine", 0, "nothing is wrong with its form"),
        ("Wrong", 1, "sample_rate_hz: 44100; wanted 48000"),
        ("Nothing", 1, "run: nothing; wanted a method"),
        ("Missing", 2, "has no class 'Missing'"),
    ],
)
def test_a_runner_is_checked(micro: list[str], tmp_path: Path, name: str, code: int, said: str) -> None:
    found = CliRunner().invoke(app, ["check-runner", f"{tmp_path}/engine.py:{name}", *micro])
    assert found.exit_code == code, found.output
    assert said in found.output
