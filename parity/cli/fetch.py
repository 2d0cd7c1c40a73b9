"""`parity fetch`: the whole run behind a golden, from the store."""

from pathlib import Path
from typing import Annotated

import typer

from parity.cli.verb import out, verb


@verb
def fetch(
    case: Annotated[str, typer.Argument(help="Id under golden/.")],
    folder: Annotated[Path, typer.Option("--out", help="Run folder to write; another run there wants --replace.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace another run in --out.")] = False,
) -> int:
    """Bring the whole official run of a case from the store that PARITY_STORE names, every file checked."""
    from parity.runs.golden import whole_golden_of

    run = whole_golden_of(case, folder, replace=replace)
    out.print(f"{run.folder} holds the whole golden run of {case}")
    return 0
