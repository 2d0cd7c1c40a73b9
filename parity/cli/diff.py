"""`parity diff`: numbers only, no judgement."""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer

from parity.cli.verb import out, verb


@verb
def diff(
    reference: Annotated[str, typer.Argument(help="Run taken as true, or 'golden', or 'whole-golden' from the store.")],
    candidate: Annotated[Path, typer.Argument(help="Run under test.")],
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    isolated: Annotated[Path | None, typer.Option(help="What `parity isolate REF --out FILE` left.")] = None,
    save: Annotated[Path | None, typer.Option("--out", help="Save the numbers, to be judged again later.")] = None,
) -> int:
    """Compare two runs and show every number; exits 0 whatever the numbers are."""
    from parity.diff.runs import compare_runs
    from parity.report.numbers import draw_diff
    from parity.trace.atomic import plain, write_json_atomic
    from parity.trace.bundle import read_run
    from parity.trace.golden import reference_run

    run = read_run(candidate)
    found = compare_runs(reference_run(reference, run.case_id), run, isolated)
    if save is not None:
        write_json_atomic(save, found.document())
    if json:
        typer.echo(json_module.dumps(plain(found.document()), indent=2))
        return 0
    draw_diff(out, found, f"{candidate} against {reference}")
    return 0
