"""`parity bless`: make an official run the ground truth of its case, or move the case to another release."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parity.cli.verb import err, out, verb

if TYPE_CHECKING:
    from parity.calibrate.populations import Populations
    from parity.judge.registry import Registry
    from parity.runs.folder import Run
    from runners.weights import WeightsFolder


@verb
def bless(
    run: Annotated[Path, typer.Argument(help="Folder of an official run.")],
    reason: Annotated[str, typer.Option(help="Why this run is the ground truth now.")],
    reference: Annotated[
        str | None, typer.Option(help="Release to move the case to; the run must be of it. Needs --weights.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Those of the run, to measure what moved and what the limits are now.")
    ] = None,
    reduced: Annotated[
        bool, typer.Option("--reduced", help="Keep three frames and small copies; the whole run goes to the store.")
    ] = False,
    drop_previous: Annotated[
        bool, typer.Option("--drop-previous", help="Let go of the goldens of earlier releases.")
    ] = False,
) -> int:
    """Record an official run as the golden of its case, with a reason.

    With --reference, the case follows another release from now on: the named changes and their effect are shown, limits
    are derived anew, and the golden until then stays readable as golden@RELEASE unless --drop-previous is given.
    """
    from parity.cli.diff import release_change
    from parity.diff.comparable import require_same_weights
    from parity.diff.runs import compare_runs
    from parity.judge.registry import save_registry
    from parity.report.numbers import draw_diff
    from parity.report.release_change import draw_release_change
    from parity.runs import golden
    from parity.runs.folder import read_run
    from parity.runs.places import limits_path
    from parity.trace.atomic import changing
    from runners.errors import RunError

    new = read_run(run)
    golden.require_blessable(new, reason, reference)  # before minutes are spent, or anything is changed
    golden.undo_interrupted(new.case_id)
    try:
        old = golden.golden_of(new.case_id)
    except RunError as error:
        old = None
        out.print(f"no golden before: {error}")
    files = None
    if old is not None and reference is not None:  # also for a move that was stopped before its limits were saved
        files = _weights_for_limits(new, weights)
    if old is not None and new.manifest.reference != old.manifest.reference:
        draw_release_change(out, release_change(old, new, weights, None))
    elif old is not None:
        require_same_weights(old, new)
        draw_diff(out, compare_runs(old, new), f"{run} against the golden it replaces")
    populations = None if files is None else _populations(new, files, reduced)
    with nullcontext() if populations is None else changing(limits_path()):  # another process may calibrate a case
        limits = None if files is None or populations is None else _limits(new, files, populations, reason)
        folder = golden.bless(new, reason, reference=reference, reduced=reduced, drop_previous=drop_previous)
        if limits is not None:
            save_registry(limits_path(), limits)
    out.print(f"{folder} now holds {run}: {reason}")
    if older := golden.releases_kept(new.case_id):
        out.print(f"kept: {', '.join(f'golden@{release}' for release in older)}")
    return 0


def _weights_for_limits(new: "Run", weights: str | None) -> "WeightsFolder | None":
    """The samples to derive limits anew from; None if the case has none. Raises: RunError if they are missing."""
    from parity.judge.limit_table import TableKey
    from parity.judge.registry import load_registry
    from parity.runs.places import limits_path
    from runners.errors import RunError
    from runners.weights import WeightsFolder

    registry = load_registry(limits_path()) if limits_path().exists() else None
    if registry is not None and (devices := [name for name in registry.devices_of(new.case_id) if name]):
        raise RunError(
            f"Case {new.case_id!r} has limits on {', '.join(devices)}, which do not hold at another release and are "
            "not derived here. Give the other release a case of its own, with an id of its own."
        )
    if registry is None or TableKey(new.case_id) not in registry.cases:
        return None
    if weights is None or not Path(weights).is_dir():
        raise RunError(
            f"Case {new.case_id!r} has limits, which do not hold at another release; give the run's --weights as a "
            "folder, so that they can be derived anew."
        )
    return WeightsFolder(Path(weights))


def _populations(new: "Run", files: "WeightsFolder", reduced: bool) -> "Populations":
    """The samples that the limits that hold from now on follow from."""
    from parity.calibrate.populations import measure
    from parity.diff.runs import subset_of_new
    from parity.identify.release_effects import compute_as
    from parity.runs.case import case_of_run
    from parity.runs.places import case_folder

    case = case_of_run(new, case_folder(new.case_id))
    compute_as(new)
    subset = subset_of_new(new, reduced)
    return measure(files, case, err.print, golden=new, subset=subset)


def _limits(new: "Run", files: "WeightsFolder", populations: "Populations", reason: str) -> "Registry":
    """The limits that hold from now on."""
    from parity.calibrate.limits import propose_limits
    from parity.judge.registry import load_registry
    from parity.report.tables import draw_changes
    from parity.runs.places import limits_path

    command = f"parity bless --reference {new.manifest.reference}, a run of {new.case_id}"
    proposal = propose_limits(load_registry(limits_path()), files, {new.case_id: populations}, command)
    draw_changes(out, proposal.changes)
    accepted = proposal.accept(reason)
    accepted.verify()  # before the golden moves
    return accepted
