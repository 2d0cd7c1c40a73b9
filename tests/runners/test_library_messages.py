"""Messages of libraries: whatever stands in them, no handler and no warning steers a terminal or CI by it."""

import io
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from runners.library_messages import printable_messages

EVIL = "model\x1b[2J\x07.safetensors\n::error::x"
GOOD = "model\\x1b[2J\\x07.safetensors\n\\x3a:error::x"


@pytest.fixture
def heard() -> Iterator[io.StringIO]:
    """The text that a library's own handler writes to its own stream, no matter what the root logger does."""
    stream, logger = io.StringIO(), logging.getLogger("a_library")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("[%(name)s] %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    yield stream
    logger.removeHandler(handler)
    logger.propagate = True


def test_what_a_library_logs_is_printable_and_stays_readable(heard: io.StringIO) -> None:
    logger = logging.getLogger("a_library")
    with printable_messages():
        logger.warning("loaded %s in %.1f s", EVIL, 2.5)
    logger.warning("after")
    assert heard.getvalue() == f"[a_library] loaded {GOOD} in 2.5 s\n[a_library] after\n"


def test_tracebacks_and_arguments_that_do_not_fit_are_printable_too(heard: io.StringIO) -> None:
    logger = logging.getLogger("a_library")
    with printable_messages():
        try:
            raise ValueError(EVIL)
        except ValueError:
            logger.exception("failed")
        logger.warning("three %s %s %s", EVIL)
    said = heard.getvalue()
    assert f"ValueError: {GOOD}\n" in said and "three %s %s %s\n" in said
    assert "\x1b" not in said and "\n::" not in said


WARNS = f"""
import warnings
from runners.library_messages import printable_messages
with printable_messages():
    warnings.warn({EVIL!r}, UserWarning, stacklevel=1)
print(warnings.formatwarning is warnings._formatwarning_orig)
"""


def test_what_a_library_warns_of_is_printable_on_standard_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WARNS], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert f"UserWarning: {GOOD}\n" in done.stderr and "\x1b" not in done.stderr
    assert done.stdout == "True\n"  # as it was


def test_a_warning_is_still_recorded_by_who_asks(recwarn: pytest.WarningsRecorder) -> None:
    with printable_messages(), warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        warnings.warn(EVIL, UserWarning, stacklevel=1)
    assert [str(one.message) for one in recorded] == [EVIL]
