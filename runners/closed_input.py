"""Standard input kept from engines: a library that asks a question on it would wait, or hear whoever is there."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def closed_input() -> Iterator[None]:
    """While inside, standard input is at its end: for Python, for libraries below it and for processes they start."""
    try:
        kept = os.dup(0)
    except OSError:  # it was closed before
        kept = None
    nothing = os.open(os.devnull, os.O_RDONLY)
    if nothing != 0:
        os.dup2(nothing, 0)
        os.close(nothing)
    os.set_inheritable(0, True)
    before = sys.stdin
    try:
        with Path(os.devnull).open(encoding="utf-8") as sys.stdin:
            yield
    finally:
        sys.stdin = before
        if kept is None:
            os.close(0)
        else:
            os.dup2(kept, 0)
            os.close(kept)
