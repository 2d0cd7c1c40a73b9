"""`parity admit`: each operation of a candidate beside the official one in float64, and the drift of the whole run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from parity.cli.isolate import step_numbers
from parity.cli.progress import progress_of
from parity.cli.threads import Threads, compute_on
from parity.cli.verb import out, save_or_print, verb
from runners.errors import RunError, RunnerError

if TYPE_CHECKING:
    from parity.admit.admission import Admission

SHOWN = 12  # refused places


@verb
def admit(
    candidate: Annotated[str, typer.Argument(metavar="RUNNER[:TIER]", help="native, native:fast, diffusers ...")],
    case: Annotated[str, typer.Option(help="Id under golden/ or TOML file.")],
    weights: Annotated[str, typer.Option(help="Folder of the model's files, or forge:PRESET:SEED.")],
    taps: Annotated[str, typer.Option(help="Try the operations that leave these taps, such as '*/video/ff'.")] = "*",
    steps: Annotated[str | None, typer.Option(help="Try these denoising steps; default the first two.")] = None,
    error_ratio: Annotated[
        float, typer.Option(help="Largest error from float64, in multiples of the official code's; SGLang's limit.")
    ] = 1.5,
    bias: Annotated[
        float, typer.Option(help="Largest mean of the error, in multiples of its RMS; SGLang's limit.")
    ] = 0.25,
    run: Annotated[
        Path | None, typer.Option(help="A free run of the candidate there is already, with a trace.")
    ] = None,
    against: Annotated[Path | None, typer.Option(help="The official run that --run drifts from.")] = None,
    drift: Annotated[
        bool, typer.Option("--drift/--no-drift", help="Run the candidate freely, too, if no --run.")
    ] = True,
    copies: Annotated[
        bool | None, typer.Option(help="Give native weights of its own: what changes weights shows. Default: on a CPU.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    threads: Threads = None,
    dtype: Annotated[str, typer.Option(help="bf16 or fp32.")] = "bf16",
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    save: Annotated[Path | None, typer.Option("--out", help="Save every place as JSON.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> int:
    """Admit a candidate by its operations, each held to float64: 0 admitted, 1 refused, 2 could not be tried."""
    from parity.admit.admission import AdmissionLimits
    from parity.admit.admission import admit as measure
    from parity.isolate.saved import existing_steps, steps_to_isolate
    from parity.runs.execute import device_named
    from parity.runs.golden import find_case
    from parity.trace.atomic import require_named_target
    from runners.catalogue import runner_and_tier
    from runners.forge.weights import weights_named
    from runners.protocol import DTYPES, RunOptions

    require_named_target(save)
    limits = AdmissionLimits(error_ratio=error_ratio, bias=bias)
    runner, tier = runner_and_tier(candidate)
    if dtype not in DTYPES:
        raise RunnerError(f"--dtype is {dtype!r}; take {' or '.join(DTYPES)}.")
    if (run is None) != (against is None):
        raise RunError("--run and --against go together: a free run of the candidate, and the official one beside it.")
    found = find_case(case)
    options = RunOptions(device=device_named(device), dtype=DTYPES[dtype], tier=tier)
    compute_on(threads, options.device)
    wanted = steps_to_isolate(found, ()) if steps is None else existing_steps(found, step_numbers(steps))
    drifted = None if run is None or against is None else _drift_of(run, against, found.id, runner, tier)
    with progress_of(f"admit {candidate}, {found.id}", quiet or json) as progress:
        admission = measure(
            weights_named(weights, options.device),
            found,
            options,
            runner=runner,
            taps=taps,
            steps=wanted,
            limits=limits,
            copies=options.device.type == "cpu" if copies is None else copies,
            drift=drifted,
            drift_of="" if run is None else f"{run} against {against}",
            free_run=drift,
            progress=progress,
        )
    if not save_or_print(admission.document, save, json):
        _draw(admission)
    return admission.exit_code


def _drift_of(run: Path, against: Path, case: str, runner: str, tier: str) -> dict[str, float]:
    """The drift of a run that there is. Raises: RunError if it is of another case, runner or tier."""
    from parity.diff.comparable import flow_of
    from parity.diff.runs import drift_metrics
    from parity.explain.diagnosis import diagnose
    from parity.runs.folder import read_run

    reference, candidate = read_run(against), read_run(run)
    of = (candidate.case_id, candidate.manifest.runner, candidate.manifest.tier)
    if of != (case, runner, tier):
        raise RunError(f"{run} is a run of {' / '.join(of)}; what is to be admitted is {case} / {runner} / {tier}.")
    return drift_metrics(diagnose(reference, candidate).traces, flow_of(reference, candidate, reference.trace))


def _draw(found: "Admission") -> None:
    from parity.report.admission import GROUP_COLUMNS, PLACE_COLUMNS, closing_line, group_cells, place_cells

    groups = Table(*GROUP_COLUMNS, title="operations held to float64, the worst place of each group of taps")
    for group in found.groups():
        groups.add_row(*group_cells(group), style="red" if group.refused else None)
    out.print(groups)
    if found.refused:
        places = Table(*PLACE_COLUMNS, title=f"refused, the first {SHOWN} of {len(found.refused)} in data-flow order")
        for row, why in found.refused[:SHOWN]:
            places.add_row(*place_cells(row, why))
        out.print(places)
    out.print(closing_line(found), style="bold red" if found.refused else "bold green", soft_wrap=True)
