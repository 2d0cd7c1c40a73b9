"""`parity report`: one run as one page that needs no network."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parity.cli.two_runs import GOLDEN, Against, Runs, two_runs
from parity.cli.verb import out, verb

if TYPE_CHECKING:
    from parity.judge.perf import PerfVerdict


@verb
def report(
    runs: Runs,
    page: Annotated[Path, typer.Option("--out", help="HTML file to write.")],
    against: Against = None,
    isolated: Annotated[
        Path | None, typer.Option(help="What `parity isolate REF --out FILE` left, to be judged as well.")
    ] = None,
    floors: Annotated[Path | None, typer.Option(help="Measured floors, from `parity amplify --out FILE`.")] = None,
    identified: Annotated[
        Path | None, typer.Option(help="Which release it follows, from `parity identify --out FILE`.")
    ] = None,
) -> int:
    """Draw a run beside its reference; exits 0 once the page is written, whatever it says, and `parity gate` judges."""
    from parity.diff.runs import compare_runs
    from parity.explain.diagnosis import diagnosed_or_refused
    from parity.judge.gate import calibrated_floors, compare_as_judged, verdict_or_reason
    from parity.judge.perf import load_perf_registry
    from parity.judge.registry import device_of, load_registry
    from parity.judge.timed import judge_timed, timed_run
    from parity.report.page import Content, head_word, write_page
    from parity.report.page_identity import read_identified
    from parity.runs.folder import read_run
    from parity.runs.golden import reference_run
    from parity.runs.places import baselines_path, limits_path
    from parity.trace.atomic import require_named_target
    from runners.errors import RegistryError, RunError

    against, run = two_runs(runs, against)
    require_named_target(page)
    candidate = read_run(run)
    reference = reference_run(against or GOLDEN, candidate.case_id)
    try:
        found = compare_as_judged(reference, candidate, isolated)
        verdict = verdict_or_reason(found)
    except RunError as error:  # of a golden that says what limits hold for; the runs can be drawn without
        found = compare_runs(reference, candidate, isolated)
        verdict = str(error)
    limits = {}
    if limits_path().is_file():
        limits = load_registry(limits_path()).limits_of(found.case, device_of(found.environment_of_candidate))
    perf: PerfVerdict | str
    try:
        perf = judge_timed(load_perf_registry(baselines_path()), [timed_run(candidate.manifest)])
    except RegistryError as error:
        perf = str(error)
    calibrated = calibrated_floors(candidate)
    diagnosis = diagnosed_or_refused(reference, candidate, floors=floors, calibrated=calibrated, isolated=isolated)
    content = Content(
        reference=reference,
        candidate=candidate,
        found=found,
        verdict=verdict,
        perf=perf,
        diagnosis=diagnosis,
        limits=limits,
        identified=None if identified is None else read_identified(identified, candidate),
    )
    size = write_page(page, content)
    out.print(f"{page}: {head_word(verdict)}, {size / 1e6:.1f} MB")
    return 0
