"""`parity diff`: numbers only, no judgement."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parity.cli.two_runs import GOLDEN, Against, Runs, two_runs
from parity.cli.verb import err, out, save_or_print, verb

if TYPE_CHECKING:
    from parity.identify.releases import ReleaseChange
    from parity.runs.folder import Run


@verb
def diff(
    runs: Runs,
    against: Against = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Of official runs of two releases: measure each change with these, a folder or forge:..."),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder of the request's pictures, if not the case's under golden/.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    isolated: Annotated[Path | None, typer.Option(help="What `parity isolate REF --out FILE` left.")] = None,
    as_judged: Annotated[
        bool, typer.Option("--as-judged", help="Compare what a gate does: where limits decide, what the golden keeps.")
    ] = False,
    save: Annotated[Path | None, typer.Option("--out", help="Save the numbers, to be judged again later.")] = None,
) -> int:
    """Compare two runs and show every number; exits 0 whatever the numbers are.

    Of two official runs of different releases, show the named changes between these and what they do.
    """
    from parity.diff.runs import compare_runs
    from parity.judge.gate import compare_as_judged
    from parity.report.numbers import draw_diff
    from parity.report.release_change import draw_release_change
    from parity.runs.folder import read_run
    from parity.runs.golden import reference_run
    from parity.trace.atomic import require_named_target
    from runners.errors import RunError

    against, candidate = two_runs(runs, against)
    reference = against or GOLDEN
    require_named_target(save)
    run = read_run(candidate)
    old = reference_run(reference, run.case_id)
    if old.manifest.reference != run.manifest.reference:
        changed = release_change(old, run, weights, pictures)
        if not save_or_print(changed.document, save, json):
            draw_release_change(out, changed)
        return 0
    if weights is not None:
        raise RunError(
            f"Both runs follow release {run.manifest.reference}, so there is nothing to measure with --weights."
        )
    found = (compare_as_judged if as_judged else compare_runs)(old, run, isolated)
    if not save_or_print(found.document, save, json):
        draw_diff(out, found, f"{candidate} against {reference}")
    return 0


def release_change(old: "Run", new: "Run", weights: str | None, pictures: Path | None) -> "ReleaseChange":
    """The changes between two official runs' releases; each by itself, where there are weights to measure with."""
    from parity.identify.release_effects import measured
    from parity.identify.releases import named
    from parity.runs.execute import device_named
    from parity.runs.places import case_folder
    from runners.forge.weights import weights_named

    if weights is None:
        return named(old, new)
    files = weights_named(weights, device_named(str(old.manifest.environment.get("device", "cpu"))))
    folder = pictures or case_folder(old.case_id)
    return measured(old, new, files, folder, err.print)
