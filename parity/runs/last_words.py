"""The last lines that a process says before it ends; light, so that whoever only starts one imports nothing else."""

from collections import deque
from typing import BinaryIO, Final

from runners.printable import printable

MAX_LINE_BYTES: Final = 1 << 16
MOST_OF_A_LINE: Final = 400  # characters


def collect_said(pipe: BinaryIO, said: deque[str]) -> None:
    """Keep the last lines that come through a pipe, printable; ends with the pipe."""
    with pipe:
        while line := pipe.readline(MAX_LINE_BYTES):
            said.append(shortened(line.decode("utf-8", "replace"), MOST_OF_A_LINE))


def shortened(text: str, length: int) -> str:
    """A text as one printable line of so many characters at most."""
    return printable(" ".join(text.split()))[:length]
