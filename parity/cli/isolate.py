"""`parity isolate`: the error that each stage and block adds by itself, beside what it inherits."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from parity.cli.progress import progress_of
from parity.cli.threads import Threads, compute_on
from parity.cli.two_runs import two_runs
from parity.cli.verb import out, save_or_print, verb
from runners.errors import RunnerError

if TYPE_CHECKING:
    from parity.isolate.isolation import Isolation
    from parity.runs.folder import Run
    from runners.case import Case

SHOWN = 20  # rows, unless --all


@verb
def isolate(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="REF [RUN]",
            help="A reference run, 'golden' of RUN, or a case (id under golden/ or TOML file); the candidate's free "
            "run: what it inherits, and whose gate may judge --out.",
            show_default=False,
        ),
    ],
    weights: Annotated[str, typer.Option(help="Folder of the model's files, or forge:PRESET:SEED.")],
    runner: Annotated[str, typer.Option(help="Candidate, NAME[:TIER]; only native runs in lockstep.")] = "native",
    stage: Annotated[list[str] | None, typer.Option(help="Measure these stages only; default all.")] = None,
    block: Annotated[list[int] | None, typer.Option(help="Measure these blocks of denoising only.")] = None,
    steps: Annotated[str | None, typer.Option(help="Measure these denoising steps only, such as 0,15,29.")] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="REF", help="RUN --against REF is REF RUN; REF --against RUN is, too."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Threads = None,
    dtype: Annotated[str, typer.Option(help="bf16 or fp32.")] = "bf16",
    harmless: Annotated[bool, typer.Option("--harmless/--no-harmless", help="Measure each block's floor, too.")] = True,
    oracle: Annotated[bool, typer.Option("--oracle", help="Hold both sides of each block to fp32.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Show every row.")] = False,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    save: Annotated[Path | None, typer.Option("--out", help="Save all rows as JSON.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> int:
    """Feed each stage and block the reference's own inputs and show what it adds; exits 0 whatever it finds."""
    from parity.diff.isolated import bound_runs
    from parity.isolate.isolation import isolate as measure
    from parity.runs.execute import device_named
    from parity.runs.folder import read_run
    from parity.trace.atomic import require_named_target
    from runners.catalogue import runner_and_tier
    from runners.clock import STAGES
    from runners.forge.weights import weights_named
    from runners.protocol import DTYPES, RunOptions

    require_named_target(save)
    name, tier = runner_and_tier(runner)
    if name != "native":
        raise RunnerError(f"--runner is {runner!r}; only native runs in lockstep with the official code.")
    if dtype not in DTYPES:
        raise RunnerError(f"--dtype is {dtype!r}; take {' or '.join(DTYPES)}.")
    reference, candidate = reference_and_run(runs, against)
    case = _case(reference, candidate)
    options = RunOptions(device=device_named(device), dtype=DTYPES[dtype], tier=tier)
    compute_on(threads, options.device)
    pair = None if candidate is None else (_reference(reference, case), read_run(candidate))
    stages = tuple(stage or (("denoising",) if block else STAGES))
    with progress_of(f"isolate {case.id}", quiet or json) as progress:
        found = measure(
            weights_named(weights, options.device),
            case,
            options,
            stages=stages,
            steps=None if steps is None else step_numbers(steps),
            blocks=block or None,
            harmless=harmless,
            oracle=oracle,
            inherited=_inherited(pair),
            progress=progress,
        )
    bound = None if pair is None else bound_runs(pair[:1], pair[1])
    if not save_or_print(lambda: found.document(bound), save, json):
        _draw(found, every)
    return 0


def reference_and_run(runs: list[str], against: str | None) -> tuple[str, Path | None]:
    """The reference and the folder of the candidate's free run, None where none is named.

    `RUN --against REF` is as every verb has it, `REF --against RUN` as this one had it. They are told by the run under
    test: it is of a candidate, and the one that is of the official code, or no run at all, is the reference. Of two
    candidates, the second is under test.
    Raises: RunError for more than two runs, or a reference named twice.
    """
    if against is None or len(runs) > 1:
        reference, run = two_runs(runs, against)
        return (str(run), None) if reference is None else (reference, run)
    if _of_candidate(runs[0]) and not _of_candidate(against):
        return against, Path(runs[0])
    return runs[0], Path(against)


def _of_candidate(name: str) -> bool:
    """True for a run that is not of the official code."""
    from parity.runs.folder import RUN_FILE, read_run

    return (Path(name) / RUN_FILE).is_file() and read_run(Path(name)).manifest.runner != "official"


def _case(reference: str, candidate: Path | None) -> "Case":
    from parity.runs.case import case_with_pictures
    from parity.runs.folder import RUN_FILE, read_run
    from parity.runs.golden import find_case, names_golden

    if (Path(reference) / RUN_FILE).is_file():
        return case_with_pictures(read_run(Path(reference)))
    if candidate is not None and names_golden(reference):
        return case_with_pictures(read_run(candidate))
    return find_case(reference)


def _reference(name: str, case: "Case") -> "Run":
    """The reference run; of a case its golden."""
    from parity.runs.folder import RUN_FILE
    from parity.runs.golden import golden_of, names_golden, reference_run

    is_run = names_golden(name) or (Path(name) / RUN_FILE).is_file()
    return reference_run(name, case.id) if is_run else golden_of(case.id)


def _inherited(runs: "tuple[Run, Run] | None") -> dict[str, float]:
    """The error of each tap in the free run, where both runs have a trace."""
    from parity.diff.comparable import require_same_weights
    from parity.explain.diagnosis import diagnose
    from parity.runs.folder import TRACE_FILE

    if runs is None or not all(run.has(TRACE_FILE) for run in runs):
        return {}
    require_same_weights(*runs)
    return diagnose(*runs).traces.errors


def step_numbers(text: str) -> list[int]:
    """Denoising steps that an option names. Raises: ConfigError."""
    from runners.errors import ConfigError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"Steps are numbers such as 0,15,29; got {text!r}.") from None


def _draw(found: "Isolation", every: bool) -> None:
    from parity.explain.hints import shared_by_blocks
    from parity.report.causes import cause_words
    from parity.report.words import number

    culprits, origins = found.culprits, found.origins
    rows = found.rows if every else origins[:SHOWN]
    if rows:
        columns = ["where", "adds", "harmless", "times", "inherits"]
        oracle = any(row.oracle is not None for row in rows)
        table = Table(*columns, *(["to oracle / official's"] if oracle else []), "", title="added error, relative L2")
        for row in rows:
            cells = [row.where, number(row.error), number(row.harmless), number(row.ratio)]
            cells.append(number(found.inherited.get(row.where)))
            if oracle:
                cells.append("-" if row.oracle is None else number(row.oracle.ratio))
            table.add_row(*cells, row.note)
        out.print(table)
    if found.bit_equal:
        out.print(f"{len(found.rows)} places measured: every one has the reference's bits")
        return
    differ = sum(row.error != 0 for row in found.rows)
    more = f", the first {SHOWN} of them shown" if len(origins) > SHOWN and not every else ""
    out.print(
        f"{len(found.rows)} places measured: {differ} differ, {len(culprits)} by more than harmless noise; "
        f"{len(origins)} of these no earlier branch of the same block explains{more}",
    )
    shared = shared_by_blocks([row.where for row in origins], {row.where: row.error for row in found.rows})
    if shared is not None:
        out.print(f"look at {cause_words(shared, found.flow)}", soft_wrap=True)
