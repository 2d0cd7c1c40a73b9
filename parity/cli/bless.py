"""`parity bless`: make an official run the ground truth of its case."""

from pathlib import Path
from typing import Annotated

import typer

from parity.cli.verb import out, verb


@verb
def bless(
    run: Annotated[Path, typer.Argument(help="Folder of an official run.")],
    reason: Annotated[str, typer.Option(help="Why this run is the ground truth now.")],
) -> int:
    """Record an official run as the golden of its case, with a reason."""
    from parity.diff.runs import compare_runs
    from parity.report.numbers import draw_diff
    from parity.trace import golden
    from parity.trace.bundle import read_run
    from runners.errors import RunError

    new = read_run(run)
    try:
        old = golden.golden_of(new.case_id)
    except RunError as error:
        out.print(f"no golden before: {error}", markup=False)
    else:
        draw_diff(out, compare_runs(old, new), f"{run} against the golden it replaces")
    folder = golden.bless(new, reason)
    out.print(f"{folder} now holds {run}: {reason}", markup=False)
    return 0
