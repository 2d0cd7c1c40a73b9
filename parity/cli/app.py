"""The command `parity`: one verb a file, each a thin layer over a library call."""

# First of all, since what comes below may fail. Scripts installed before there was `parity.cli.main` ask here.
from parity.cli import COULD_NOT_JUDGE
from parity.cli.main import main as main

if __name__ == "__main__":
    main()

import os
from importlib import metadata
from typing import Annotated, Any, Final

import typer

from parity.cli import (
    admit,
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
    imported,
    isolate,
    mutate,
    new_runner,
    perf,
    rejudge,
    report,
    run,
    suite,
)
from parity.cli.verb import could_not_judge, err, out
from parity.report.ending import DEBUG

INTERRUPTED: Final = 130  # as typer says it
app = typer.Typer(
    name="parity",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        out.print(f"parity {metadata.version('ltx-parity')}")
        raise typer.Exit


def _show_tracebacks(asked: bool) -> None:
    if asked:
        os.environ[DEBUG] = "1"


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", callback=_show_tracebacks, help="Show the traceback of what ends a verb.")
    ] = False,
) -> None:
    """Is it still the official LTX-2.3? Run it, compare it, gate it."""


for verb in (
    *(forge.forge, run.run, case.case, diff.diff, explain.explain, isolate.isolate, admit.admit, amplify.amplify),
    *(identify.identify, gate.gate, report.report, suite.suite, bless.bless, fetch.fetch),
    *(calibrate.calibrate, mutate.mutate, rejudge.rejudge, perf.perf, doctor.doctor),
    *(new_runner.new_runner, check_runner.check_runner),
):
    app.command(verb.__name__.replace("_", "-"))(verb)
app.command("import")(imported.import_outputs)  # which Python keeps for itself as a name


def call() -> int:
    """Run the verb that the command line names. Returns: its exit code, 0 or 1 only if the verb came to that."""
    try:
        code = app(standalone_mode=False)  # else typer itself ends the process, with 1 for more than one reason
    except SystemExit:  # of the printing of help, whose reader has gone
        return could_not_judge(BrokenPipeError())
    except BaseException as error:
        if not hasattr(error, "format_message"):
            return could_not_judge(error)
        return _misused(error)
    if code == INTERRUPTED:
        return could_not_judge(KeyboardInterrupt())
    return code or 0


def _misused(error: Any) -> int:
    """Say what is wrong with the command line; without a verb, typer has shown what there is."""
    if message := error.format_message():
        command = "parity" if error.ctx is None else error.ctx.command_path
        err.print(f"error: {message} `{command} --help` shows what there is.", style="red")
    return COULD_NOT_JUDGE
