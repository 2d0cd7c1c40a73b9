"""The level of drift: two traces as the worst error of each group of taps, or why two runs have no such thing."""

from dataclasses import replace

from parity.diff.finding import Finding
from parity.diff.levels import EvidenceLevel
from parity.diff.metric import DRIFT
from parity.diff.traces import TraceDiff
from parity.runs.folder import TRACE_FILE, Run
from parity.taps.dataflow import Dataflow
from parity.taps.group import DRIFT_GROUPS, drift_group, worst_by_group
from parity.taps.pattern import chosen
from runners.errors import RunError


def drift_metrics(diff: TraceDiff, flow: Dataflow, pattern: str | None = None) -> dict[str, float]:
    """The worst error of each group of taps, by metric; of the taps that a pattern chooses, if one is given."""
    worst = worst_by_group(
        (drift_group(tap, flow.steps), error) for tap, error in diff.errors.items() if chosen(tap, pattern)
    )
    return {f"{DRIFT}{group}": error for group, error in worst.items()}


def drift_level(diff: TraceDiff, flow: Dataflow, offered: str = "*", pattern: str | None = None) -> EvidenceLevel:
    """Measured if every group of taps that the candidate can offer was recorded, at least in part, on both sides.

    With a pattern, only the taps that it chooses count as recorded. A group whose taps could not be compared
    (`parity.diff.left_out`) is not measured, and nobody owes it.
    """
    wanted = {drift_group(tap, flow.steps) for tap in flow.taps}
    offers = {drift_group(tap, flow.steps) for tap in flow.taps if chosen(tap, offered)}
    there = {drift_group(tap, flow.steps) for tap in flow.taps if diff.is_wanted(tap) and chosen(tap, pattern)}
    omitted = {drift_group(tap, flow.steps) for tap in diff.left_out.taps} - there
    if missing := [group for group in DRIFT_GROUPS if group in offers - there - omitted]:
        named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more groups" if len(missing) > 3 else "")
        return EvidenceLevel(
            measured=False, why=f"the traces were recorded by a pattern that leaves out {named}", owed=True
        )
    if not there:
        why = diff.left_out.words if offers else "its runner offers no taps of this case"
        return EvidenceLevel(measured=False, why=why)
    return EvidenceLevel(
        measured=True,
        without=tuple(f"{DRIFT}{group}" for group in DRIFT_GROUPS if group in wanted - offers - there),
        left_out=tuple(f"{DRIFT}{group}" for group in DRIFT_GROUPS if group in omitted),
    )


def without_trace(reference: Run, candidate: Run) -> EvidenceLevel:
    """The reason that there is no drift of two runs, of which one has no trace."""
    if not reference.has(TRACE_FILE):
        which = "the reference has no trace" if candidate.has(TRACE_FILE) else "neither run has a trace"
        return EvidenceLevel(
            measured=False, why=f"{which}; record {'it' if candidate.has(TRACE_FILE) else 'both'} with --taps '*'"
        )
    runner = candidate.manifest.runner
    lacking = len(reference.trace.bits)
    if candidate.offers:
        why = f"runner {runner!r} offers taps and its run has no trace; record it with --taps '*'"
        return EvidenceLevel(measured=False, why=why, owed=True, lacking=lacking)
    return EvidenceLevel(measured=False, why=f"runner {runner!r} offers no internals", lacking=lacking)


def trace_damage(reference: Run, candidate: Run) -> Finding | None:
    """The reason that a candidate's trace is no evidence, though it has one; None if it can be compared.

    What its outputs show is there all the same, and decides if it fails. Raises: RunError for the reference's trace.
    """
    old = reference.trace
    try:
        buckets = candidate.trace.buckets
    except RunError as error:
        return Finding(code="unreadable_trace", where="drift", message=str(error))
    if buckets == old.buckets:
        return None
    message = f"its sketches have {buckets} buckets, the reference's {old.buckets}; record it with the same number"
    return Finding(code="unreadable_trace", where="drift", message=message)


def isolated_level(level: EvidenceLevel, candidate: Run) -> EvidenceLevel:
    """`level`, put better for a candidate that no isolation is for."""
    if not level.measured and candidate.manifest.runner == "official":
        return replace(level, why="the official code is what isolation compares with")
    return level
