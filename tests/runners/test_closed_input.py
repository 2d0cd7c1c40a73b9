"""An engine that asks on standard input gets no answer, whichever way it asks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runners.closed_input import closed_input

ASKS = """
import os, subprocess, sys
from runners.closed_input import closed_input
with closed_input():
    try:
        input("run the code? ")
        print("answered")
    except EOFError:
        print("nobody")
    print(repr(os.read(0, 10)), repr(sys.stdin.read()))
    print(repr(subprocess.run([sys.executable, "-c", "print(open(0).read())"], capture_output=True).stdout))
print(repr(os.read(0, 10)))
"""


@pytest.mark.parametrize("redirected", ["", "<&-"])
def test_input_is_at_its_end_inside_and_untouched_afterwards(redirected: str, tmp_path: Path) -> None:
    (tmp_path / "asks.py").write_text(ASKS.replace("print(repr(os.read(0, 10)))\n", "") if redirected else ASKS)
    command = f"{sys.executable} {tmp_path / 'asks.py'} {redirected}"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(["bash", "-c", command], input=b"yes\n", capture_output=True, env=environment, check=True)
    lines = done.stdout.decode().removeprefix("run the code? ").splitlines()
    assert lines == ["nobody", "b'' ''", r"b'\n'", *([] if redirected else [r"b'yes\n'"])]


def test_streams_are_put_back_after_an_error() -> None:
    before, number = sys.stdin, os.fstat(0)
    with pytest.raises(KeyError), closed_input():
        assert sys.stdin is not before
        raise KeyError
    assert sys.stdin is before and os.fstat(0) == number
