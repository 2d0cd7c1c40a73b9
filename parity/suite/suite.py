"""Official and native run the same cases; all outputs are compared, judged, and become the lines of one table."""

import time
from pathlib import Path
from typing import Final

from parity.diff.isolated import read_isolated
from parity.diff.metric import BIT_EQUALITIES, ISOLATED
from parity.explain.diagnosis import diagnose
from parity.judge.gate import calibrated_floors, compare_as_judged, verdict_or_reason
from parity.judge.registry import device_of, load_registry, root_of_limits
from parity.report.suite import SuiteLine, save_suite
from parity.runs.folder import TRACE_FILE, Run, read_run
from parity.runs.golden import golden_of
from parity.runs.places import limits_path
from parity.suite.place import run_place, take_suite_folder
from parity.suite.plan import SuitePlan
from parity.suite.runs import isolation_is_there, make_isolation, make_run, run_is_there
from parity.trace.atomic import own_folder
from runners.case import Case
from runners.errors import OutOfMemoryError, RunError

RUNNERS: Final = ("official", "native")
ISOLATION: Final = "isolation"  # stands beside the runners in the list of what is not there yet


class Suite:
    """A suite on its way. `lines` are the comparisons so far, `missing` what there was no time or memory for."""

    def __init__(self, plan: SuitePlan) -> None:
        """Nothing is run yet."""
        self.lines: list[SuiteLine] = []
        self.missing: list[str] = []
        self._plan = plan
        self._owned = False  # whether runs in its folder may be replaced
        self._longest_s = 0.0  # of the runs so far, which says how long the next may take

    def run(self) -> None:
        """Run and judge every case; what is found is saved after each, so that a call that is stopped leaves it.

        Raises: ParityError as the runners do; OutputError before anything is run if its folder is not free; RunError
            for a live official run that differs from its golden although nothing in the environment says why.
        """
        plan = self._plan
        self._owned = take_suite_folder(plan.folder, plan.cases, RUNNERS, resume=plan.resume, replace=plan.replace)
        for case in plan.cases:
            if self._make_runs(case):
                self._judge(case)
                self._save()
        self._save()

    def _save(self) -> None:
        if self._plan.report is not None:
            save_suite(self._plan.report, self.lines, self.missing, self._plan.left.took_s)

    def _make_runs(self, case: Case) -> bool:
        """Make what is not there of a case's runs; False if there is no time for all of them."""
        plan, whole = self._plan, True
        for runner in RUNNERS[1:] if plan.by_golden_alone(case) else RUNNERS:
            target = run_place(plan.folder, case, runner)
            start_s = time.monotonic()
            if plan.resume and run_is_there(plan, case, runner, target):
                plan.say(f"{target}: kept, it is whole and of this request")
            elif plan.left.fits(self._longest_s):
                make_run(plan, case, runner, target, replace=self._owned)
                self._longest_s = max(self._longest_s, time.monotonic() - start_s)
            else:
                self.missing.append(f"{case.id}/{runner}")
                whole = False
        return whole

    def _isolated(self, case: Case, native: Run) -> Path | None:
        """The errors that native's parts add by themselves, where asked for or wanted by limits, and there is time."""
        plan = self._plan
        wanted = case.id in plan.isolate or (plan.golden and has_isolated_limits(native))
        if case.id not in plan.steps or not wanted:
            return None
        path = own_folder(plan.folder, case.id, "native_isolated.json")
        references = [] if plan.by_golden_alone(case) else [read_run(plan.folder / case.id / "official")]
        references += [golden_of(case.id)] if plan.golden else []
        if plan.resume and isolation_is_there(plan, path, references, native):
            plan.say(f"{path}: kept, it is whole and of this run")
            return path
        if not plan.left.fits(2 * native.manifest.end_to_end_s):  # it runs the official model with native beside it
            self.missing.append(f"{case.id}/{ISOLATION}")
            return None
        try:
            make_isolation(plan, case, path, references, native)
        except OutOfMemoryError as error:  # the runs can still be judged
            self.missing.append(f"{case.id}/{ISOLATION}, {error}")
            return None
        return path

    def _judge(self, case: Case) -> None:
        plan = self._plan
        native = read_run(plan.folder / case.id / "native")
        isolated = self._isolated(case, native)
        if plan.by_golden_alone(case):
            plan.say(f"{case.id}: official {case.reference} is not installed, its golden stands for it")
            self.lines.append(compare_line("native against golden", golden_of(case.id), native))
            return
        official = read_run(plan.folder / case.id / "official")
        if plan.golden:
            self.lines += _against_golden(official, native, isolated)
        self.lines.append(compare_line("native against official", official, native, isolated))


def compare_line(what: str, reference: Run, candidate: Run, isolated: Path | None = None) -> SuiteLine:
    """Compare two runs and judge them as a gate does; a line that cannot be judged says why.

    Raises: RunError for runs that may not be compared.
    """
    found = compare_as_judged(reference, candidate, isolated)
    taps = None
    if reference.has(TRACE_FILE) and candidate.has(TRACE_FILE):
        equal = found.metrics.get("taps.bit_different") == 0.0  # then floors, which take long to read, say nothing
        floors = {} if equal else calibrated_floors(candidate)
        taps = diagnose(reference, candidate, calibrated=floors, isolated=isolated)
    return SuiteLine(
        case=reference.case_id,
        what=what,
        found=found,
        verdict=verdict_or_reason(found),
        taps=taps,
        manifests=(reference.manifest, candidate.manifest),
        alone=None if isolated is None else read_isolated(isolated, [reference], candidate),
    )


def has_isolated_limits(native: Run) -> bool:
    """True if a verdict by limits wants isolated errors: where there is a trace, and a limit for them."""
    path = limits_path(root_of_limits(native.case_id))
    if not native.has(TRACE_FILE) or not path.exists():
        return False
    limits = load_registry(path).limits_of(native.case_id, device_of(native.manifest.environment))
    return any(name.startswith(ISOLATED) for name in limits)


def _against_golden(official: Run, native: Run, isolated: Path | None) -> list[SuiteLine]:
    """The live reference against the golden, then native against it; environment first, numbers after."""
    golden = golden_of(official.case_id)
    lines = [
        compare_line(f"{run.manifest.runner} against golden", golden, run, alone)
        for run, alone in ((official, None), (native, isolated))
    ]
    found = lines[0].found
    same = all(found.metrics.get(name) == 1.0 for name in BIT_EQUALITIES)
    if not same and not found.environment:
        raise RunError(
            f"The live official run of {official.case_id!r} differs from its golden, and nothing in the environment "
            "says why. Look with `parity diff`, and bless the new run if the reference moved on purpose."
        )
    return lines
