"""An engine's word on itself stands first in a verdict, and how it is run is asked for by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer import Exit
from typer.testing import CliRunner

from parity.cli.app import app
from parity.cli.run import run
from runners.names import OWN_ENVIRONMENT
from runners.protocol import CANDIDATE


def test_a_gate_says_first_what_the_candidate_is(leave_run: Callable[..., Path], checkout: Path) -> None:
    reference = leave_run("reference")
    phrases = ["Engine 1.2", "quality \x1b[31mfast"]
    candidate = leave_run("candidate", runner="native", details={CANDIDATE: phrases})
    said = CliRunner().invoke(app, ["gate", str(candidate), "--against", str(reference)])
    assert said.exit_code == 0
    verdict, old, new, *said_of_itself = said.stdout.splitlines()[:5]
    assert verdict.startswith("VERDICT: PARITY (judged by equality of outputs and ")
    assert old.startswith("reference: official, tier exact, bf16, release 1.0.0, ")
    assert new.startswith("candidate: native, tier exact, bf16, release 1.0.0, ")
    assert said_of_itself == ["candidate says: Engine 1.2", r"candidate says: quality \x1b[31mfast"]
    document = json.loads(
        CliRunner().invoke(app, ["gate", str(candidate), "--against", str(reference), "--json"]).stdout
    )
    assert document["candidate"] == phrases


@pytest.mark.parametrize("given", [["quality"], ["=fast"], ["quality=a", "quality=b"]])
def test_an_engine_option_is_a_pair_given_once(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments: dict[str, Any] = {"runner": "native", "case": "tiny_ti2v", "weights": "forge:tiny:0"}
    with pytest.raises(Exit) as exited:
        run(**arguments, folder=tmp_path / "run", engine_option=given, quiet=True)
    assert exited.value.exit_code == 2
    assert f"got {given[-1]!r}" in capsys.readouterr().err


@pytest.mark.parametrize("runner", sorted(OWN_ENVIRONMENT))
def test_an_engine_is_never_run_in_this_process(
    runner: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Exit) as exited:
        run(runner=runner, case="tiny_ti2v", weights="forge:tiny:0", folder=tmp_path / "run", quiet=True)
    assert exited.value.exit_code == 2
    assert f"Runner '{runner}' runs in an environment of its own, never in this process" in said(capsys)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())
