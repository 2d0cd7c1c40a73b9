"""`parity perf`: times of runs against the baselines of the same machine, their history, or new baselines from them."""

import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parity.cli.verb import err, out, verb

if TYPE_CHECKING:
    from parity.judge.perf import PerfVerdict
    from parity.judge.timed import TimedRun, TimedSamples, Tolerance


@verb
def perf(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Runs of one case by one runner, or files of timing samples.")
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Make these runs the baseline: three at least.")] = False,
    few: Annotated[bool, typer.Option("--few", help="Fewer than three will do.")] = False,
    save: Annotated[bool, typer.Option("--save", help="Keep these times in the project's history.")] = False,
    history: Annotated[bool, typer.Option("--history", help="Draw the history; of runs, that of their kind.")] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A B", help="Hold B to A: runs, folders of runs, or files of timing samples."),
    ] = None,
    fail_at: Annotated[
        str | None,
        typer.Option(metavar="10%", help="How much slower fails: 10% (and 0.05 s), or 0.2s."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why the baseline changes; needed where it is loosened.")] = "",
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> int:
    """Compare the times of runs with their baseline: 0 as fast, 1 slower, 2 not comparable or inconclusive."""
    from parity.judge.perf_history import history_line, keep_history
    from parity.judge.timed import Tolerance
    from parity.runs.places import perf_history_path
    from runners.errors import RunError

    if sum((update, history, compare is not None)) > 1:
        raise RunError("--update, --history and --compare are three questions; ask one.")
    tolerance = Tolerance() if fail_at is None else _tolerance(fail_at)
    if compare is not None:
        if runs:
            raise RunError("--compare names both sides, A and B; give no more runs.")
        return _compared(*compare, tolerance, json)
    named = [_measured(path) for path in runs or []]
    if history:
        return _history([timed for one in named for timed in one.runs], json)
    if not runs:
        raise RunError("Name runs to judge, or say --history or --compare A B; `parity perf --help` shows how.")
    measured = named if all(path.is_file() for path in runs) else [_together(named, len(runs))]
    groups = [(group, samples) for samples in measured for group in samples.groups()]
    _say_of_load(max(timed.machine.threads for group, _ in groups for timed in group))
    if update:
        return _update([path.name for path in runs], groups, few, reason)
    verdicts = [_judged(timed, tolerance, [shlex.quote(str(path)) for path in runs]) for timed, _ in groups]
    if save:
        lines = [history_line(timed, samples.code_version, baseline=False) for timed, samples in groups]
        keep_history(perf_history_path(), lines)
    return _said(verdicts, json)


def _said(verdicts: "list[PerfVerdict]", json: bool) -> int:
    from parity.judge.verdict import gate_exit_code
    from parity.report.tables import draw_perf

    if json:
        documents = [verdict.document() for verdict in verdicts]
        out.document(documents[0] if len(documents) == 1 else documents)
    else:
        for verdict in verdicts:
            draw_perf(out, verdict)
    return gate_exit_code(*(verdict.exit_code for verdict in verdicts))


def _judged(timed: "list[TimedRun]", tolerance: "Tolerance", runs: list[str]) -> "PerfVerdict":
    from parity.judge.perf import load_perf_registry
    from parity.judge.timed import judge_timed
    from parity.report.perf import missing_baseline
    from parity.runs.places import baselines_path
    from runners.errors import RegistryError

    registry, first = load_perf_registry(baselines_path()), timed[0]
    hint = missing_baseline(first.title(), runs, str(baselines_path()))
    if not any(
        (one.case, one.runner, one.tier) == (first.case, first.runner, first.tier) for one in registry.baselines
    ):
        raise RegistryError(hint)
    verdict = judge_timed(registry, timed, tolerance)
    if verdict.outcome == "not_comparable":
        err.print(f"note: {hint}")
    return verdict


def _compared(old: Path, new: Path, tolerance: "Tolerance", json: bool) -> int:
    from parity.judge.timed import compare_timed
    from runners.errors import RunError

    sides = [_measured(path) for path in (old, new)]
    groups = [side.groups() for side in sides]
    if len(groups[0]) == len(groups[1]) == 1:
        pairs = [(groups[0][0], groups[1][0])]
    else:  # each kind beside its own
        before = {tuple(group[0].key().values()): group for group in groups[0]}
        pairs = [(before[key], group) for group in groups[1] if (key := tuple(group[0].key().values())) in before]
    if not pairs:
        raise RunError(f"{old} and {new} have no times of one case, runner, machine and weights; give runs that have.")
    return _said([compare_timed(*pair, tolerance) for pair in pairs], json)


def _history(of: "list[TimedRun]", json: bool) -> int:
    from msgspec import to_builtins

    from parity.judge.perf_history import read_history
    from parity.report.perf import draw_history
    from parity.runs.places import perf_history_path
    from runners.errors import RegistryError

    keys = {tuple(timed.key().values()) for timed in of}
    path = perf_history_path()
    lines = [line for line in read_history(path) if not keys or tuple(line.key().values()) in keys]
    if not lines:
        raise RegistryError(
            f"There is no history of that in {path}; `parity perf RUN --save` and `parity perf RUN RUN RUN --update` "
            "add to it."
        )
    if json:
        out.document([to_builtins(line) for line in lines])
    else:
        draw_history(out, lines)
    return 0


def _update(names: list[str], groups: "list[tuple[list[TimedRun], TimedSamples]]", few: bool, reason: str) -> int:
    from parity.judge import perf as judge
    from parity.judge.perf_history import history_line, keep_history
    from parity.judge.timed import baseline_of
    from parity.report.tables import draw_perf_changes
    from parity.runs.places import own_baselines_path, perf_history_path
    from parity.trace.atomic import changing
    from runners.errors import RegistryError

    short = [len(timed) for timed, _ in groups if len(timed) < judge.MIN_INTERVAL_SAMPLES]
    if short and not few:
        raise RegistryError(
            f"A baseline wants {judge.MIN_INTERVAL_SAMPLES} runs of each kind; got {min(short)} "
            f"({', '.join(names)[:200]}). Run again and name them all, or say --few: then no interval says how sure a "
            "change is."
        )
    path = own_baselines_path()
    changes: list[judge.PerfChange] = []
    with changing(path):
        registry = judge.load_perf_registry(path)
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
    keep_history(
        perf_history_path(), [history_line(timed, samples.code_version, baseline=True) for timed, samples in groups]
    )
    draw_perf_changes(out, changes)
    out.print(f"{path} has the baseline, {perf_history_path()} the history", soft_wrap=True)
    return 0


def _say_of_load(threads: int) -> None:
    """Warn where others have computed on this machine, by the load of the last five minutes beside its cores."""
    import os

    from parity.judge.timed import busy_with_others

    load = os.getloadavg()[1]
    cores = os.cpu_count() or 1
    if busy_with_others(load, threads, cores):
        err.print(
            f"warning: this machine was busy (load {load:.1f} of the last 5 minutes on {cores} cores, the runs took "
            f"{threads} thread{'s' if threads > 1 else ''}); times of a busy machine say little"
        )


def _tolerance(text: str) -> "Tolerance":
    from parity.judge.timed import Tolerance
    from runners.errors import RunError

    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?) ?(%|s)", text.strip())
    if found is None:
        raise RunError(f"--fail-at is a share such as 10% or a time such as 0.2s; got {text[:40]!r}.")
    value = float(found[1])
    return Tolerance(percent=value) if found[2] == "%" else Tolerance(percent=0.0, abs_s=value)


def _measured(path: Path) -> "TimedSamples":
    """The times of a run, of the runs in a folder, or in a file of samples."""
    from parity.judge.timed import read_samples
    from runners.errors import RunError

    if path.is_file():
        return read_samples(path)
    folders = (
        [path]
        if (path / "run.json").exists() or not path.is_dir()
        else sorted(one.parent for one in path.glob("*/run.json"))
    )
    if not folders:
        raise RunError(f"{path} is neither a run nor a folder of runs; name what `parity run --out` left.")
    return _of_runs(folders)


def _together(measured: "list[TimedSamples]", count: int) -> "TimedSamples":
    """Several runs as one group. Raises: RunError if they are of several kinds, or one is named twice."""
    import msgspec

    from runners.errors import RunError

    timed = tuple(one for samples in measured for one in samples.runs)
    if any(item.key() != timed[0].key() for item in timed):
        raise RunError("These runs are not of one case, runner, machine and weights; give runs that are.")
    if any(item in timed[:index] for index, item in enumerate(timed)):
        raise RunError("One run is named twice, or is the copy of another; a baseline is of runs of their own.")
    command = f"parity perf --update with {count} runs"
    return msgspec.structs.replace(measured[0], runs=timed, command=command)


def _of_runs(folders: list[Path]) -> "TimedSamples":
    from parity.judge.timed import TimedSamples, timed_run
    from parity.runs.folder import read_run

    manifests = [read_run(folder).manifest for folder in folders]
    return TimedSamples(
        date=datetime.now(UTC).date().isoformat(),
        command=f"parity perf with {len(folders)} runs",
        box="",
        code_version=str(manifests[0].environment.get("source_hash")),
        warmup_runs=0,
        environment=manifests[0].environment,
        runs=tuple(timed_run(manifest) for manifest in manifests),
    )
