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
    from parity.trace import golden
    from parity.trace.bundle import read_run

    new = read_run(run)
    try:
        old = golden.golden_of(new.case_id)
    except golden.RunError as error:
        out.print(f"no golden before: {error}", markup=False)
    else:
        difference = compare_runs(old, new)
        for phrase in difference.environment:
            out.print(f"environment differs: {phrase}", markup=False)
        out.print(difference.table())
    folder = golden.bless(new, reason)
    out.print(f"{folder} now holds {run}: {reason}", markup=False)
    return 0
