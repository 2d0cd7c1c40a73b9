"""The last words of a child are kept for the sentence on its end, and steer no terminal from there."""

import os
from collections import deque

from parity.runs.last_words import collect_said


def test_the_last_lines_that_a_childs_libraries_printed_are_printable() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"loaded x\x1b[2J\x07.bin\n::error::y\n  ::stop-commands::z\n\xff\n")
    os.close(writing)
    said: deque[str] = deque(maxlen=3)
    collect_said(os.fdopen(reading, "rb"), said)
    assert list(said) == ["\\x3a:error::y", "\\x3a:stop-commands::z", "\ufffd"]
