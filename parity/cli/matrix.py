"""`parity matrix`: cases, engines and devices as rows, each on a box of its own, here or on a Ray cluster."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from parity.cli.verb import err, out, verb


@verb
def matrix(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="The matrix; docs/fleet.md shows every key.")],
    folder: Annotated[Path, typer.Option("--out", help="The matrix's own folder; one that was begun is gone on with.")],
    executor: Annotated[
        Literal["local", "ray"], typer.Option(help="This machine's cores and GPUs, or Ray (ltx-parity[fleet]).")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster, such as ray://head:10001; without it Ray runs here.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Begin anew, whatever results are in --out.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the grid as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> int:
    """Run every case on every device by every runner, and print the grid.

    Exit code 2 if any row could not be judged, else 1 if any is not at parity, else 0.
    """
    from parity.cli.matrix_progress import MatrixProgress
    from parity.matrix.drive import Submits
    from parity.matrix.matrix import run_matrix
    from parity.report.markdown import say_in_workflow
    from parity.report.matrix import draw_grid, grid_document, grid_markdown
    from parity.runs.store import open_store
    from runners.errors import RunnerError

    if address is not None and executor != "ray":
        raise RunnerError("--address names a Ray cluster; say --executor ray, or leave it out.")

    def made() -> Submits:
        if executor == "ray":
            from parity.fleet.on_ray import RayExecutor

            return RayExecutor(address)
        from parity.fleet.local import this_machine

        return this_machine()

    grid = run_matrix(
        file,
        folder,
        made,
        open_store(),
        replace=replace,
        watcher=lambda plan: MatrixProgress(len(plan.rows), quiet=quiet),
        say=lambda text: err.print(f"no page of {text}"),
    )
    say_in_workflow(grid_markdown(grid), [], err if json else out)
    if json:
        out.document(grid_document(grid))
    else:
        draw_grid(out, grid)
    return grid.code
