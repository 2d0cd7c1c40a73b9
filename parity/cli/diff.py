"""`parity diff`: numbers only, no judgement."""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from parity.cli.verb import out, verb


@verb
def diff(
    reference: Annotated[Path, typer.Argument(help="Run taken as true.")],
    candidate: Annotated[Path, typer.Argument(help="Run under test.")],
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    save: Annotated[Path | None, typer.Option("--out", help="Save the numbers, to be judged again later.")] = None,
) -> int:
    """Compare two runs and show every number; exits 0 whatever the numbers are."""
    from parity.diff.metric import METRICS
    from parity.diff.runs import compare_runs
    from parity.report.words import number
    from parity.trace.atomic import plain, write_json_atomic
    from parity.trace.bundle import read_run

    found = compare_runs(read_run(reference), read_run(candidate))
    if save is not None:
        write_json_atomic(save, found.document())
    if json:
        typer.echo(json_module.dumps(plain(found.document()), indent=2))
        return 0
    for phrase in found.environment:
        out.print(f"environment differs: {phrase}", markup=False)
    table = Table("metric", "value", "unit", "better", title=f"{candidate} against {reference}")
    for name, value in found.metrics.items():
        metric = METRICS[name]
        table.add_row(name, number(value), metric.unit, metric.direction)
    out.print(table)
    for finding in found.findings:
        out.print(f"{finding.code} at {finding.where}: {finding.message}", markup=False)
    return 0
