"""A verb opens what is large once: each run's trace and outputs, to be hashed and to be read."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from parity.cli.app import app
from parity.runs import folder as run_folder
from parity.runs.folder import OUTPUTS_FILE, TRACE_FILE
from parity.runs.outputs import read_outputs

LeaveRun = Callable[..., Path]
counting: Counter[str] | None = None


def count_opens(event: str, arguments: tuple[Any, ...]) -> None:
    if counting is not None and event == "open" and str(arguments[0]).endswith(TRACE_FILE):
        counting[str(arguments[0])] += 1


sys.addaudithook(count_opens)  # stays for the life of the process, and does nothing outside these tests


@pytest.mark.parametrize(
    "arguments",
    [("gate",), ("explain",), ("diff", "--json"), ("report", "--out", "page.html")],
    ids=lambda arguments: str(arguments[0]),
)
def test_a_run_is_hashed_once_and_read_once(
    leave_run: LeaveRun, checkout: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    global counting
    monkeypatch.chdir(checkout)
    official = leave_run("official")
    native = leave_run("native", runner="native", first="init/video", error=0.25)
    read: Counter[str] = Counter()

    def counted(path: Path, *arguments: Any, **named: Any) -> Any:
        read[str(path)] += 1
        return read_outputs(path, *arguments, **named)

    monkeypatch.setattr(run_folder, "read_outputs", counted)
    verb, *more = arguments
    sides = [str(official), str(native)] if verb == "diff" else [str(native), "--against", str(official)]
    counting = Counter()
    try:
        result = CliRunner().invoke(app, [verb, *sides, *more])
        opened = dict(counting)
    finally:
        counting = None
    assert result.exit_code in (0, 1), result.output
    assert opened == {str(run / TRACE_FILE): 1 for run in (official, native)}
    assert read == {str(run / OUTPUTS_FILE): 1 for run in (official, native)}
