"""`parity perf`: times of runs against the baselines of the same machine, or new baselines from them."""

import json as json_module
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from parity.cli.verb import out, verb


@verb
def perf(
    runs: Annotated[list[Path], typer.Argument(help="Runs of one case by one runner on this machine.")],
    update: Annotated[bool, typer.Option("--update", help="Make these runs the baseline.")] = False,
    reason: Annotated[str, typer.Option(help="Why the baseline changes; needed where it is loosened.")] = "",
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """Compare the times of runs with their baseline: 0 as fast, 1 slower, 2 not comparable or inconclusive."""
    from parity.judge import perf as judge
    from parity.judge.timed import baseline_of, judge_timed, timed_run
    from parity.report.tables import draw_perf, draw_perf_changes
    from parity.trace.bundle import read_run
    from parity.trace.places import baselines_path
    from runners.errors import RunError

    records = [read_run(path).record for path in runs]
    timed = [timed_run(record) for record in records]
    if any(item.key() != timed[0].key() for item in timed):
        raise RunError("These runs are not of one case, runner, machine and weights; give runs that are.")
    path = baselines_path()
    registry = judge.load_perf_registry(path)
    if not update:
        verdict = judge_timed(registry, timed)
        if json:
            typer.echo(json_module.dumps(verdict.document(), indent=2))
        else:
            draw_perf(out, verdict)
        return verdict.exit_code
    baseline = baseline_of(
        timed,
        date=datetime.now(UTC).date().isoformat(),
        command=f"parity perf --update with {len(runs)} runs",
        code_version=str(records[0].environment.get("source_hash")),
        reason=reason or "first baseline",
    )
    changed, changes = judge.update_baseline(registry, baseline, reason)
    judge.save_perf_registry(path, changed)
    draw_perf_changes(out, changes)
    return 0
