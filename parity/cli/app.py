"""The command `parity`: one verb a file, each a thin layer over a library call."""

# First of all, since what comes below may fail. Scripts installed before there was `parity.cli.main` ask here.
from parity.cli import COULD_NOT_JUDGE
from parity.cli.main import main as main

if __name__ == "__main__":
    main()

import os
from collections.abc import Callable
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
    demo,
    diff,
    doctor,
    explain,
    fetch,
    forge,
    gate,
    identify,
    imported,
    init,
    isolate,
    matrix,
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
COMPLETION: Final = "_PARITY_COMPLETE"  # by which a shell asks what could come next
app = typer.Typer(
    name="parity",
    no_args_is_help=True,
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


# In the order of use; Python keeps the name `import` for itself.
GROUPS: Final[dict[str, dict[str, Callable[..., None]]]] = {
    "Run": {
        "demo": demo.demo,
        "init": init.init,
        "forge": forge.forge,
        "run": run.run,
        "suite": suite.suite,
        "matrix": matrix.matrix,
        "import": imported.import_outputs,
        "case": case.case,
        "new-runner": new_runner.new_runner,
        "check-runner": check_runner.check_runner,
    },
    "Judge": {"gate": gate.gate, "diff": diff.diff, "perf": perf.perf, "report": report.report},
    "Diagnose": {
        "explain": explain.explain,
        "identify": identify.identify,
        "isolate": isolate.isolate,
        "admit": admit.admit,
        "amplify": amplify.amplify,
        "doctor": doctor.doctor,
    },
    "Maintain": {
        "bless": bless.bless,
        "fetch": fetch.fetch,
        "calibrate": calibrate.calibrate,
        "rejudge": rejudge.rejudge,
        "mutate": mutate.mutate,
    },
}
for group, verbs in GROUPS.items():
    for name, verb in verbs.items():
        app.command(name, rich_help_panel=group)(verb)


def call() -> int:
    """Run the verb that the command line names. Returns: its exit code, 0 or 1 only if the verb came to that."""
    try:
        code = app(standalone_mode=False)  # else typer itself ends the process, with 1 for more than one reason
    except SystemExit as ended:  # of completion, or of the printing of help, whose reader has gone
        if COMPLETION in os.environ and isinstance(ended.code, int):
            return ended.code
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
