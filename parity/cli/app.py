"""The command `parity`: one verb a file, each a thin layer over a library call."""

import atexit
import os
import sys
import traceback
from typing import NoReturn

import typer

from parity.cli import (
    amplify,
    bless,
    calibrate,
    case,
    check_runner,
    diff,
    doctor,
    explain,
    fetch,
    forge,
    gate,
    identify,
    isolate,
    mutate,
    new_runner,
    perf,
    rejudge,
    report,
    run,
    suite,
)
from parity.cli.interrupt import listen_for_interrupts
from parity.cli.verb import COULD_NOT_JUDGE

app = typer.Typer(
    name="parity",
    help="Is it still the official LTX-2.3? Run it, compare it, gate it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (
    *(forge.forge, run.run, case.case, diff.diff, explain.explain, isolate.isolate, amplify.amplify),
    *(identify.identify, gate.gate, report.report, suite.suite, bless.bless, fetch.fetch),
    *(calibrate.calibrate, mutate.mutate, rejudge.rejudge, perf.perf, doctor.doctor),
    *(new_runner.new_runner, check_runner.check_runner),
):
    app.command(verb.__name__.replace("_", "-"))(verb)


def main() -> None:
    """Entry point of the console script. Exit codes: 0 good, 1 not at parity or too slow, 2 could not judge."""
    listen_for_interrupts()
    try:
        app()
    except SystemExit as end:
        if end.code in (0, 1):
            raise
        _leave()
    except BaseException:  # one that no verb could say, as where the disk is full, would end in Python's 1
        try:
            traceback.print_exc()
        finally:
            _leave()


def _leave() -> NoReturn:
    """End with exit code 2, past everything that could make another of it.

    An interrupt that fell into `exec`, as in an import, makes Python end by that signal whatever is returned. Streams
    may be closed, or be pipes that nobody reads.
    """
    try:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    finally:
        os._exit(COULD_NOT_JUDGE)


if __name__ == "__main__":
    main()
