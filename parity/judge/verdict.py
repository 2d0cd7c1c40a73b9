"""A verdict: saved metrics and findings, judged by exact equality or by the limits of the registry.

Only numbers enter, so a run can be judged again after limits change, without its tensors and without a GPU. There are
three outcomes. "parity": nothing failed, and at least one metric that can tell a defect from harmless variation passed.
"not_at_parity": a metric is beyond a limit that holds here. "undecided": something is missing, unmatched, NaN or
otherwise found, so the numbers cannot be believed; or only limits that were measured in another environment failed; or
nothing failed, but every limit that held is uncalibrated or was measured in another environment, so nothing was shown.
What prevents judging at all (no limit for a metric, nothing to judge) is raised.

By limits a run is judged on the levels of evidence that were measured (`parity.diff.levels`): outputs always, drift of
taps and isolated errors where they are there. A level that is not there is named in the verdict with the reason, and
what the rest is worth: how many known defects it catches. A level that the candidate could have offered is a failure.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Literal

import msgspec

from parity.diff.compared import Comparison
from parity.diff.levels import LEVELS, OUTPUTS, EvidenceLevel, level_of
from parity.diff.metric import ISOLATED, METRICS, Direction, Metric, metric_named
from parity.judge.limit import Limit, Status, distance, exact_limit
from parity.judge.registry import Registry, device_of
from parity.judge.strength import Caught, Strength
from parity.runs.difference import Difference
from runners.errors import RegistryError, RunError

Profile = Literal["exact", "limits"]
Outcome = Literal["parity", "not_at_parity", "undecided"]
JUDGED: Final = "judged"
NOT_MEASURED: Final = EvidenceLevel(measured=False, why="it was not measured")
EXIT_CODES: Final[dict[Outcome, int]] = {"parity": 0, "not_at_parity": 1, "undecided": 2}
BIT_EQUALITIES: Final = tuple(name for name in METRICS if ".bit_equal." in name)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One metric against its limit."""

    metric: str
    unit: str
    direction: Direction
    value: float
    limit: float
    margin: float  # how far inside the limit, in the metric's unit; negative is how far beyond
    used: float  # distance from perfect agreement over that of the limit; above 1 fails
    passed: bool
    decisive: bool  # whether a case may pass on this metric
    waived: str  # reason of the waiver, or ""
    status: Status
    expired: tuple[Difference, ...]  # what changed in the environment since the limit was measured
    reason: str  # of the limit

    @property
    def failed(self) -> bool:
        """True if it counts against parity: beyond its limit and not waived."""
        return not self.passed and not self.waived


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Something that fails whatever the limits are."""

    code: str
    where: str
    message: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The gate's findings, ready to be drawn or saved."""

    schema_version: Literal[1] = 1
    case: str
    profile: Profile
    outcome: Outcome
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    unjudged: dict[str, str]  # metrics that are measured but not judged here, with the reason
    levels: dict[str, str] = {}  # level of evidence -> "judged", or why it was not; empty where equality is judged
    evidence: dict[str, EvidenceLevel] = {}  # the levels as they were measured
    caught: Caught | None = None  # how many known defects the levels that judged catch, where that was counted

    @property
    def exit_code(self) -> int:
        """0 parity, 1 not at parity, 2 could not judge."""
        return EXIT_CODES[self.outcome]

    def failed_rows(self) -> tuple[Row, ...]:
        """The rows that count against parity."""
        return tuple(row for row in self.rows if row.failed)


def judge(
    found: Comparison, profile: Profile, registry: Registry | None = None, strength: Strength | None = None
) -> Verdict:
    """Judge one comparison.

    Args:
        found: numbers and findings. A metric with a limit that is absent fails, and so does one that is None or `nan`.
        profile: "exact" judges every metric that has one wanted value, holds isolated errors to zero where they were
            measured, and needs no registry; "limits" judges every metric by its limit.
        registry: limits, for the profile "limits"; those of the device of the candidate's environment hold.
        strength: how many known defects the levels catch.
    Raises:
        RegistryError: a metric that does not exist, or that has neither a limit nor a reason to be left unjudged.
        RunError: there is nothing to judge.
    """
    case, metrics, levels = found.case, found.metrics, found.levels
    environment = {key: str(value) for key, value in found.environment_of_candidate.items()}
    known = {name: metric_named(name) for name in metrics}
    failures = [Failure(code=one.code, where=one.where, message=one.message) for one in found.findings]
    if not metrics and not failures:
        raise RunError(f"Case {case!r}: no metric and no finding, so nothing was compared; run `parity diff` first.")
    unjudged: dict[str, str] = {}
    waivers: dict[str, str] = {}
    reached: dict[str, str] = {}
    if profile == "exact":
        limits = {name: exact_limit(metric) for name, metric in known.items() if metric.direction == "exact"}
        limits |= {name: exact_limit(METRICS[name]) for name in BIT_EQUALITIES}
        alone = {name: replace(one, direction="exact") for name, one in known.items() if name.startswith(ISOLATED)}
        known |= alone
        limits |= {name: exact_limit(metric) for name, metric in alone.items()}
        outputs = {name for name in known if level_of(name) == OUTPUTS}
        unjudged = dict.fromkeys(sorted(outputs - limits.keys()), "the exact profile judges equality")
    else:
        if registry is None:
            raise RegistryError(f"Case {case!r} is judged by limits; give the registry.")
        device = device_of(environment)
        limits = registry.limits_of(case, device)
        reached = _reached(levels, limits)
        unmeasured = {name for level in levels.values() for name in level.unmeasured}
        limits = {
            name: limit
            for name, limit in limits.items()
            if reached[level_of(name)] == JUDGED and (name not in unmeasured or name in known)
        }
        known = {name: metric for name, metric in known.items() if reached[level_of(name)] == JUDGED}
        failures += [
            Failure(code="missing_trace", where=level, message=state.why)
            for level, state in levels.items()
            if state.owed and not state.measured
        ]
        unjudged = {name: why for name, why in registry.unjudged.items() if name in known}
        waivers = {waiver.metric: waiver.reason for waiver in registry.waivers if waiver.case == case}
        if without := sorted(known.keys() - limits.keys() - unjudged.keys()):
            raise RegistryError(_no_limits(registry, case, device, without))
    if not limits:
        raise RegistryError(f"No metric of case {case!r} has a limit, so nothing could fail; run `make thresholds`.")
    rows = []
    for name, metric in METRICS.items():
        if name not in limits:
            continue
        value = metrics.get(name)
        if value is None:
            failures.append(Failure(code="missing_metric", where=name, message="has a limit but was not computed"))
        elif math.isnan(value):
            failures.append(Failure(code="nan_metric", where=name, message="is nan: it could not be computed"))
        else:
            origin = None if registry is None else registry.calibrations.get(limits[name].calibration or "")
            expired: tuple[Difference, ...] = ()
            if origin is not None:
                changes = origin.changed(environment), origin.changed_population(case, found.compared_on)
                expired = (*changes[0], *changes[1], *origin.changed_text(name, found.padded_text))
            rows.append(_row(known.get(name, metric), float(value), limits[name], expired, waivers.get(name, "")))
    excused = {row.metric for row in rows if row.waived}
    for name in waivers.keys() - excused:
        failures.append(
            Failure(
                code="unmatched_waiver", where=name, message="is waived but not beyond its limit; remove the waiver"
            )
        )
    failures.sort(key=lambda failure: failure.code)  # within a code in the order found, that of the data flow
    return Verdict(
        case=case,
        profile=profile,
        outcome=_outcome(rows, failures),
        rows=tuple(rows),
        failures=tuple(failures),
        unjudged=unjudged,
        levels=reached,
        evidence=dict(levels),
        caught=None if strength is None else _caught(reached, levels, strength),
    )


def _no_limits(registry: Registry, case: str, device: str, without: list[str]) -> str:
    """The reason that metrics cannot be judged: nothing was measured on the device, or not these metrics."""
    others = registry.devices_of(case)
    if device not in others and (device or others):
        measured = ", ".join(other or "a CPU" for other in others) or "nowhere yet"
        return (
            f"No limits of case {case!r} were measured on {device or 'a CPU'}, where the candidate was run (measured: "
            f"{measured}). Measure floors there: `parity calibrate --case {case} --weights W --limits-only --device "
            f"{'cuda' if device else 'cpu'}`."
        )
    return (
        f"Registry entry missing for case {case!r}: {', '.join(without)}. "
        "Calibrate these metrics with `make thresholds`, or say under `unjudged` why they are left out."
    )


def _reached(levels: Mapping[str, EvidenceLevel], limits: Mapping[str, Limit]) -> dict[str, str]:
    """Each level: judged, or why not. One that was measured but has no limit at all in this case is not judged."""
    there = {level_of(name) for name in limits}
    found = {}
    for level in LEVELS:
        state = levels.get(level, NOT_MEASURED)
        if not state.measured:
            found[level] = state.why
        elif level != OUTPUTS and level not in there:
            found[level] = "the registry has no limits of it for this case: `parity calibrate`"
        else:
            found[level] = JUDGED
    return found


def _caught(reached: Mapping[str, str], levels: Mapping[str, EvidenceLevel], strength: Strength) -> Caught | None:
    """The strength of the levels that judged; nothing is claimed of levels that were measured in part."""
    judged_by = [level for level, state in reached.items() if state == JUDGED]
    whole = not any(levels[level].unmeasured for level in judged_by if level in levels)
    return strength.caught_by(judged_by) if whole and reached else None


def _row(metric: Metric, value: float, limit: Limit, expired: tuple[Difference, ...], waiver: str) -> Row:
    if (limit.unit, limit.direction) != (metric.unit, metric.direction):
        raise RegistryError(
            f"The limit of {metric.name} is {limit.direction!r} in {limit.unit!r}; the metric is {metric.direction!r} "
            f"in {metric.unit!r}. Regenerate the registry with `make thresholds`."
        )
    if limit.direction == "exact":
        passed = value == limit.value
        margin = 0.0 if passed else -abs(value - limit.value)
        used = 0.0 if passed else math.inf
    else:
        passed = value <= limit.value if limit.direction == "lower" else value >= limit.value
        margin = _margin(value, limit)
        used = _used(value, limit)
    return Row(
        metric=metric.name,
        unit=metric.unit,
        direction=metric.direction,
        value=value,
        limit=limit.value,
        margin=margin,
        used=used,
        passed=passed,
        decisive=(limit.status == "calibrated" and not expired) or metric.name in BIT_EQUALITIES,
        waived="" if passed else waiver,
        status=limit.status,
        expired=expired,
        reason=limit.reason,
    )


def _margin(value: float, limit: Limit) -> float:
    if value == limit.value:  # also where both are infinite
        return 0.0
    return limit.value - value if limit.direction == "lower" else value - limit.value


def _used(value: float, limit: Limit) -> float:
    if value == limit.value:
        return 1.0
    moved, allowed = (distance(number, limit.unit, limit.direction) for number in (value, limit.value))
    if allowed == 0 or math.isinf(moved):
        return math.inf if moved > 0 else 0.0
    return moved / allowed


def _outcome(rows: list[Row], failures: list[Failure]) -> Outcome:
    if failures:
        # A tap of another shape is itself a difference: beside an output whose bits differ it leaves nothing undecided.
        only_taps = all(failure.code == "shape_mismatch" and "/" in failure.where for failure in failures)
        apart = any(row.metric.startswith("outputs.bit_equal.") and row.value == 0 and not row.waived for row in rows)
        return "not_at_parity" if only_taps and apart else "undecided"
    if failed := [row for row in rows if row.failed]:  # a limit of another environment shows nothing either way
        return "undecided" if all(row.expired for row in failed) else "not_at_parity"
    return "parity" if any(row.passed and row.decisive for row in rows) else "undecided"


def gate_exit_code(*codes: int) -> int:
    """One exit code for several verdicts: a known failure (1) outweighs what could not be judged (2), that a pass."""
    return 1 if 1 in codes else max(codes)
