"""`parity perf`: times of runs against the baselines of the same machine, or new baselines from them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parity.cli.verb import out, verb

if TYPE_CHECKING:
    from parity.judge.timed import TimedSamples


@verb
def perf(
    runs: Annotated[list[Path], typer.Argument(help="Runs of one case by one runner, or files of timing samples.")],
    update: Annotated[bool, typer.Option("--update", help="Make these runs the baseline.")] = False,
    reason: Annotated[str, typer.Option(help="Why the baseline changes; needed where it is loosened.")] = "",
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """Compare the times of runs with their baseline: 0 as fast, 1 slower, 2 not comparable or inconclusive."""
    from parity.judge import perf as judge
    from parity.judge.timed import baseline_of, judge_timed, read_samples
    from parity.judge.verdict import gate_exit_code
    from parity.report.tables import draw_perf, draw_perf_changes
    from parity.runs.places import baselines_path

    measured = [read_samples(path) for path in runs] if all(path.is_file() for path in runs) else [_of_runs(runs)]
    groups = [(group, samples) for samples in measured for group in samples.groups()]
    path = baselines_path()
    registry = judge.load_perf_registry(path) if path.exists() or not update else judge.PerfRegistry()
    if not update:
        verdicts = [judge_timed(registry, timed) for timed, _ in groups]
        if json:
            documents = [verdict.document() for verdict in verdicts]
            out.document(documents[0] if len(documents) == 1 else documents)
        else:
            for verdict in verdicts:
                draw_perf(out, verdict)
        return gate_exit_code(*(verdict.exit_code for verdict in verdicts))
    changes: list[judge.PerfChange] = []
    for timed, samples in groups:
        baseline = baseline_of(
            timed,
            date=samples.date,
            command=samples.command,
            code_version=samples.code_version,
            reason=reason or "first baseline",
            warmup_runs=samples.warmup_runs,
        )
        registry, changed = judge.update_baseline(registry, baseline, reason)
        changes += changed
    judge.save_perf_registry(path, registry)
    draw_perf_changes(out, changes)
    return 0


def _of_runs(folders: list[Path]) -> "TimedSamples":
    """Runs of one case by one runner on one machine. Raises: RunError if they are of several."""
    from parity.judge.timed import TimedSamples, timed_run
    from parity.runs.folder import read_run
    from runners.errors import RunError

    manifests = [read_run(folder).manifest for folder in folders]
    timed = tuple(timed_run(manifest) for manifest in manifests)
    if any(item.key() != timed[0].key() for item in timed):
        raise RunError("These runs are not of one case, runner, machine and weights; give runs that are.")
    return TimedSamples(
        date=datetime.now(UTC).date().isoformat(),
        command=f"parity perf --update with {len(folders)} runs",
        box="",
        code_version=str(manifests[0].environment.get("source_hash")),
        warmup_runs=0,
        environment=manifests[0].environment,
        runs=timed,
    )
