"""The way into the command line, of the console script and `python -m parity`: too light to fail.

Exit code 1 says "not at parity" to whoever calls, and Python itself ends with it where an import fails, memory is short
or an interrupt falls before there is anybody to hear it. So everything is imported inside `main`, and whatever is
raised there, or happens to the streams, ends in exit code 2.
"""

import gc
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from parity.cli import COULD_NOT_JUDGE


def main() -> NoReturn:
    """Run the command line. Exit codes: 0 good, 1 not at parity or too slow, 2 could not judge."""
    tell: Callable[[int], None] | None = None
    try:
        _open_streams()
        # Imports make a great many objects that stay; to walk them again for every 700 new ones takes 0.5 s.
        gc.set_threshold(100_000, 10, 10)
        from parity.cli.watcher import watched

        tell = watched(sys.argv[1:])  # from here on there may be a process more
        from parity.cli.interrupt import interrupt_if_heard, listen_for_interrupts

        listen_for_interrupts()
        from parity.cli.app import call

        interrupt_if_heard()  # what is imported may have swallowed one
        code = call()
    except BaseException as error:
        _say_why_not(error)
        code = COULD_NOT_JUDGE
    _leave(code, tell)


def _open_streams() -> None:
    """Give a closed standard stream its number back, lest the next file that is opened be read or written as one.

    Nothing can be written to standard output then, as to a full disk: a verdict that nobody hears is none.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_RDWR)  # the lowest number that is free
            if number == 1:
                sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stdout is not None:
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # of an encoding with few signs


def _say_why_not(error: BaseException) -> None:
    """Say what kept a verb from beginning, with the little that may be left to say it by."""
    try:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        text = f"error: parity cannot start ({said}); install it again, in a checkout by `make setup`."
        if isinstance(error, KeyboardInterrupt):
            text = "interrupted; nothing was done"
        if isinstance(error, MemoryError):
            text = "error: there is not enough memory here to start parity."
        if os.environ.get("PARITY_DEBUG", "0") not in ("", "0"):
            import traceback

            text = "".join(traceback.format_exception(error)) + text
        shown = (mark if mark.isprintable() or mark == "\n" else ascii(mark)[1:-1] for mark in text)
        os.write(2, "".join(shown).encode("utf-8", "backslashreplace") + b"\n")
    except BaseException:  # there is nobody to say it to
        return


def _leave(code: int, tell: Callable[[int], None] | None) -> NoReturn:
    """End the process with the code, or with 2 if what was said did not arrive; whoever watches is told before.

    An interrupt that fell into `exec`, as in an import, makes Python end by that signal whatever is returned; a thread
    may hang, and a stream fail, later than anybody can tell. So it ends past Python's own end.
    """
    try:
        import atexit

        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except BaseException:
        code = COULD_NOT_JUDGE
    finally:
        if tell is not None:
            tell(code)
        os._exit(code)
