"""`parity new-runner`: a runner, its test and a README to begin with."""

from pathlib import Path
from typing import Annotated

import typer

from parity.cli.verb import out, verb


@verb
def new_runner(
    name: Annotated[str, typer.Argument(help="Name of the runner and of its module, such as my_engine.")],
    folder: Annotated[Path | None, typer.Option("--out", help="Folder to write; default: the name.")] = None,
) -> int:
    """Write a runner that runs as it is and is at parity; replace its stages by your engine's, one by one."""
    from parity.suite.new_runner import write_runner

    made = write_runner(name, Path(name) if folder is None else folder)
    for path in made:
        out.print(f"wrote {path}", soft_wrap=True)
    class_name = next(line for line in made[0].read_text(encoding="utf-8").splitlines() if line.startswith("class "))
    out.print(f"next: parity check-runner {made[0]}:{class_name[6:-1]}", soft_wrap=True)
    return 0
