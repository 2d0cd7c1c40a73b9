"""A shell is told what could come next: verbs, cases, runners; said without anything that computes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = "import sys; sys.argv[0] = 'parity'; from parity.cli.main import main; main()"


def completed(words: str) -> list[str]:
    """The words that bash would offer for the last one."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PARITY_ROOT": str(ROOT)}
    environment |= {"_PARITY_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("parity ga", ["gate"]),
        ("parity new", ["new-runner"]),
        ("parity run --runner na", ["native"]),
        ("parity run --case tiny_ti", ["tiny_ti2v", "tiny_ti2v_no_v2a"]),
        ("parity suite --case tiny_un", ["tiny_unguided_30_steps"]),
        ("parity perf --hi", ["--history"]),
    ],
)
def test_what_could_come_next_is_offered(words: str, offered: list[str]) -> None:
    assert completed(words) == offered
