"""Everything that a page of two runs shows, gathered: what `parity report` and the pytest plugin draw."""

from pathlib import Path

from parity.diff.runs import compare_runs
from parity.explain.diagnosis import diagnosed_or_refused
from parity.judge.gate import calibrated_floors, compare_as_judged, verdict_or_reason
from parity.judge.perf import PerfVerdict, load_perf_registry
from parity.judge.perf_history import HistoryLine, read_history
from parity.judge.registry import device_of, load_registry, root_of_limits
from parity.judge.timed import judge_timed, timed_run
from parity.judge.verdict import Verdict
from parity.report.page import Content
from parity.report.page_identity import read_identified
from parity.runs.folder import IMPORTED, Run
from parity.runs.places import baselines_path, limits_path, perf_history_path
from runners.errors import RegistryError, RunError


def content_of(
    reference: Run,
    candidate: Run,
    *,
    isolated: Path | None = None,
    floors: Path | None = None,
    identified: Path | None = None,
) -> Content:
    """Compare, judge and explain two runs for their page.

    Args:
        reference: run taken as true.
        candidate: run under test.
        isolated: what `parity isolate --out` left.
        floors: measured noise, as `parity amplify --out` leaves it.
        identified: what `parity identify --out` left.
    Raises: RunError for runs that may not be compared at all.
    """
    verdict: Verdict | str
    try:
        found = compare_as_judged(reference, candidate, isolated)
        verdict = verdict_or_reason(found)
    except RunError as error:  # of a golden that says what limits hold for; the runs can be drawn without
        found = compare_runs(reference, candidate, isolated)
        verdict = str(error)
    limits = {}
    if (path := limits_path(root_of_limits(found.case))).is_file():
        limits = load_registry(path).limits_of(found.case, device_of(found.environment_of_candidate))
    calibrated = calibrated_floors(candidate)
    return Content(
        reference=reference,
        candidate=candidate,
        found=found,
        verdict=verdict,
        perf=_speed(candidate),
        history=_history(candidate),
        diagnosis=diagnosed_or_refused(reference, candidate, floors=floors, calibrated=calibrated, isolated=isolated),
        limits=limits,
        identified=None if identified is None else read_identified(identified, candidate),
    )


def _speed(candidate: Run) -> PerfVerdict | str:
    try:
        return judge_timed(load_perf_registry(baselines_path()), [timed_run(candidate.manifest)])
    except RegistryError as error:
        return str(error)


def _history(candidate: Run) -> tuple[HistoryLine, ...]:
    """The lines of the speed history that are of this case, runner and machine; none where there is no project."""
    if IMPORTED in candidate.manifest.details:
        return ()
    key = timed_run(candidate.manifest).key()
    try:
        return tuple(line for line in read_history(perf_history_path()) if line.key() == key)
    except (RegistryError, RunError):
        return ()
