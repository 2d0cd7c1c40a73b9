"""The frame that every verb shares: errors become one sentence and exit code 2, whatever happens."""

import functools
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, ParamSpec

import typer
from rich.text import Text

from parity.cli import COULD_NOT_JUDGE
from parity.cli.interrupt import interrupt_if_heard
from parity.cli.memory import require_memory
from parity.report.ending import debugging, sentence_of, traceback_of
from parity.report.terminal import Terminal
from runners.library_messages import printable_messages

P = ParamSpec("P")
WIDE: Final = 150  # columns: logs must not cut numbers off

out = Terminal(width=WIDE)
err = Terminal(stderr=True)


def verb(function: Callable[P, int | None]) -> Callable[P, None]:
    """Turn what a verb returns into its exit code, and everything it raises into exit code 2.

    Exit code 1 means "not at parity" to whoever calls, so nothing but a verdict may ever produce it: not an interrupt,
    not a bug of ours.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            require_memory()
            with printable_messages(), _without_advice():
                code = function(*args, **kwargs) or 0
            interrupt_if_heard()  # one that a library swallowed
        except BaseException as error:
            code = could_not_judge(error)
        raise typer.Exit(code)

    return wrapped


@contextmanager
def _without_advice() -> Iterator[None]:
    """Advice of libraries to whoever writes code against them, kept from who runs it; with --debug it is shown."""
    if debugging():
        yield
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when it is imported, in child processes, too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def could_not_judge(error: BaseException) -> int:
    """Say what ended a verb, or kept it from beginning; returns the exit code."""
    if debugging():
        err.print(Text(traceback_of(error)))
    err.print(Text(sentence_of(error), "red"))
    return COULD_NOT_JUDGE


def save_or_print(document: Callable[[], Any], save: Path | None, json: bool) -> bool:
    """Write what a verb found where --out says, and print it if --json asks for it; returns whether it was printed."""
    from parity.trace.atomic import plain, write_json_atomic

    if save is not None:
        write_json_atomic(save, document())
    if json:
        out.document(plain(document()))
    return json
