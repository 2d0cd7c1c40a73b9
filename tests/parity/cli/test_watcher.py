"""An engine that ends the process is exit code 2; everything else ends as it does without a watcher."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# The command line with one verb in place of all, which runs what the engine's file says.
CODE = (
    "import runpy, sys\n"
    "from parity.cli import app, main\n"
    "app.call = lambda: runpy.run_path(sys.argv[-1].partition(':')[0])['code']\n"
    "main.main()\n"
)


def started(text: str, folder: Path, verb: str = "run") -> "subprocess.Popen[str]":
    engine = folder / "engine.py"
    engine.write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CODE, verb, f"{engine}:Engine"]
    # A shell starts what it puts into the background with interrupts ignored, and children inherit that.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=heard
    )


def ended(text: str, folder: Path, verb: str = "run") -> tuple[int, str]:
    process = started(text, folder, verb)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize("verb", ["run", "check-runner"])
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("import os; os._exit(0)", 0),
        ("import os; os._exit(1)", 1),
        ("import ctypes; ctypes.CDLL(None).exit(0)", 0),
        ("import os; os.execv('/bin/true', ['true'])", 0),
        ("import os; os.closerange(3, 100); os._exit(0)", 0),
    ],
)
def test_an_engine_that_ends_the_process_is_exit_2(verb: str, text: str, code: int, tmp_path: Path) -> None:
    found, said = ended(text, tmp_path, verb)
    assert found == 2 and f"the engine ended the process (exit code {code})" in said and said.count("\n") == 1


@pytest.mark.parametrize("code", [0, 1, 2])
def test_what_a_verb_comes_to_is_passed_on(code: int, tmp_path: Path) -> None:
    assert ended(f"import os; os.closerange(3, 100); code = {code}", tmp_path) == (code, "")


def test_a_signal_that_ends_the_engine_ends_the_watcher_by_it(tmp_path: Path) -> None:
    for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT):
        assert ended(f"import os; os.kill(os.getpid(), {int(number)})", tmp_path) == (-number, "")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_reaches_the_engine_which_clears_up(sent: signal.Signals, tmp_path: Path) -> None:
    text = (
        "import pathlib, time\n"
        f"there = pathlib.Path({str(tmp_path)!r})\n"
        "try:\n    (there / 'begun').touch(); time.sleep(60)\nfinally:\n    (there / 'cleared').touch()\n"
    )
    process = started(text, tmp_path)
    waited_for(tmp_path / "begun")
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and "interrupted" in said and (tmp_path / "cleared").exists()


def test_a_watcher_that_is_killed_takes_the_engine_with_it(tmp_path: Path) -> None:
    process = started(
        f"import os, pathlib, time\npathlib.Path({str(tmp_path / 'pid')!r}).write_text(f'{{os.getpid()}}.')\n"
        "time.sleep(60)",
        tmp_path,
    )
    waited_for(tmp_path / "pid", "1234567890.")
    engine = int((tmp_path / "pid").read_text().rstrip("."))
    assert engine != process.pid
    process.kill()
    process.communicate(timeout=30)  # which waits for everybody who holds its streams, the engine's 60 s else


def waited_for(path: Path, last: str = "") -> None:
    for _ in range(600):
        if path.exists() and (not last or path.read_text()[-1:] == "."):
            return
        time.sleep(0.1)
    raise AssertionError(path)
