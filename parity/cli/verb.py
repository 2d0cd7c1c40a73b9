"""The frame that every verb shares: errors become one sentence and exit code 2, whatever happens."""

import functools
import json as json_module
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

import typer
from rich.console import Console

from runners.errors import ParityError

P = ParamSpec("P")
COULD_NOT_JUDGE = 2

WIDE = 150  # columns where there is no terminal to ask: logs must not cut numbers off

out = Console(highlight=False, width=None if sys.stdout is not None and sys.stdout.isatty() else WIDE)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def verb(function: Callable[P, int | None]) -> Callable[P, None]:
    """Turn what a verb returns into its exit code, and everything it raises into exit code 2.

    Exit code 1 means "not at parity" to whoever calls, so nothing but a verdict may ever produce it: not an interrupt,
    not a bug of ours.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = function(*args, **kwargs) or 0
        except ParityError as error:
            code = _said(f"error: {error}", error)
        except KeyboardInterrupt as error:
            code = _said("interrupted; nothing was left half-written", error)
        except SystemExit as error:  # an engine that ends the process it runs in
            code = _said(f"error: the code that was run called sys.exit({error.code!r}); nothing was judged.", error)
        except OSError as error:  # a disk that is full or read-only, a folder in a file's place
            reason = " ".join(str(error).split())
            code = _said(
                f"error: a file or folder cannot be read or written ({reason}); make room or take another place.", error
            )
        except Exception:
            err.print(f"internal error, please report it:\n{traceback.format_exc()}", style="red", markup=False)
            code = COULD_NOT_JUDGE
        raise typer.Exit(code)

    return wrapped


def saved_or_said(document: Callable[[], Any], save: Path | None, json: bool) -> bool:
    """Write what a verb found where --out says, and print it if --json asks for it; returns whether it was printed."""
    from parity.trace.atomic import plain, write_json_atomic

    if save is not None:
        write_json_atomic(save, document())
    if json:
        typer.echo(json_module.dumps(plain(document()), indent=2))
    return json


def _said(text: str, error: BaseException) -> int:
    """Say what ended a verb, and what else went wrong on its way out; returns the exit code."""
    for line in (text, *getattr(error, "__notes__", ())):
        err.print(line, style="red", markup=False)
    return COULD_NOT_JUDGE
