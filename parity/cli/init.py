"""`parity init`: a project for one's own cases, goldens, limits and speed baselines."""

from pathlib import Path
from typing import Annotated

import typer

from parity.cli.verb import out, verb


@verb
def init(
    case: Annotated[
        list[str] | None,
        typer.Option(help="Copy this case that ships into the project; repeat for more."),
    ] = None,
    root: Annotated[str, typer.Option(help="Folder of the project's data.")] = "parity",
) -> int:
    """Begin a project here: a folder parity/, and in a pyproject.toml a table tool.parity that names it.

    Verbs look for it here and above, read its cases, goldens and limits before those that ship, and write there alone.
    """
    from parity.runs.places import found_project
    from parity.suite.project import begin_project, copy_case

    here = Path.cwd()
    if not case or found_project(here) is None:
        for path in begin_project(here, root):
            out.print(f"wrote {path}", soft_wrap=True)
    for name in case or []:
        out.print(f"wrote {copy_case(name)}", soft_wrap=True)
    out.print(
        "next: put a case into golden/ID/case.toml there (`parity init --case tiny_ti2v` copies one), run the official "
        "model with `parity run --runner official --case ID --weights W --taps '*' --out ref`, and make it the ground "
        "truth with `parity bless ref --reason TEXT`",
        soft_wrap=True,
    )
    return 0
