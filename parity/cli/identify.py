"""`parity identify`: which official release a run follows, and which switches differ from it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from parity.cli.threads import MOST_THREADS, compute_on, within_cores
from parity.cli.two_runs import Runs, two_runs
from parity.cli.verb import err, out, save_or_print, verb

if TYPE_CHECKING:
    from parity.identify.identification import Identification


@verb
def identify(
    runs: Runs,
    weights: Annotated[str, typer.Option(help="The weights it was run with: a folder, or forge:PRESET:SEED.")],
    against: Annotated[
        str | None, typer.Option(metavar="REF", help="Say first which bits of this run, or golden, it has.")
    ] = None,
    case: Annotated[
        Path | None, typer.Option(help="Its case file, whose folder holds its pictures; default golden/ID/case.toml.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to compute the native model: cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(callback=within_cores, help="CPU threads; default those of the run.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="For machines; every switch with its evidence.")] = False,
    save: Annotated[Path | None, typer.Option("--out", help="Save the answer as JSON, for `parity report`.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> int:
    """Say which release a run follows, which switches differ, and what stays unexplained; exits 0 whatever it finds.

    With --taps '*' --keep full of the run most can be told. A reference is not needed: the native model is computed.
    """
    from parity.identify.identification import identify as find
    from parity.report.explanation import story_of_runs
    from parity.report.identification import identification_document, identification_lines
    from parity.runs.case import case_with_pictures
    from parity.runs.execute import device_named
    from parity.runs.folder import read_run
    from parity.runs.golden import reference_run
    from parity.trace.atomic import require_named_target
    from runners.forge.weights import weights_named

    against, run = two_runs(runs, against)
    require_named_target(save)
    candidate = read_run(run)
    said = None if against is None else story_of_runs(reference_run(against, candidate.case_id), candidate)
    made_with = candidate.manifest.environment.get("threads")
    if made_with is not None and made_with > MOST_THREADS:
        err.print(f"note: the run computed on {made_with} CPU threads; here are {MOST_THREADS}, so bits may differ")
        made_with = MOST_THREADS
    wanted = threads if threads is not None else made_with
    where = device_named(device)
    if wanted is not None:
        compute_on(wanted, where)
    found = find(
        candidate,
        case_with_pictures(candidate, None if case is None else case.parent),
        weights_named(weights, where),
        where,
        lambda site: None if quiet or json else err.print(f"identify {candidate.case_id}: {site}"),
    )
    beside = {} if said is None else {"beside_reference": said}
    if save_or_print(lambda: {**identification_document(found), **beside}, save, json):
        return 0
    if said is not None:
        out.print(f"beside {against}: {said}", soft_wrap=True)
    _draw(found)
    for line in identification_lines(found):
        out.print(line)
    return 0


def _draw(found: "Identification") -> None:
    from parity.report.words import number

    table = Table("switch", "since", "found", "verdict", "first seen at", "error", "error if flipped")
    for name, one in found.decisions.items():
        if one.verdict != "idle":
            value = "-" if one.verdict == "undecided" else "on" if one.on else "off"
            errors = (number(one.error), number(one.flipped_error))
            table.add_row(name, one.switch.since or "-", value, one.verdict, one.tap or "-", *errors)
    out.print(table)
