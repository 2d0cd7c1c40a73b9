"""The judge: the rules that a comparison is judged by, and what comes of it.

The rules are the limits, those of them that expired, and what the comparison owes. By limits a run is judged on the
levels of evidence that were measured (`parity.diff.comparison`): outputs always, drift of taps and isolated errors
where they are there. A level that is not there is named in the verdict with the reason, and what the rest is worth: how
many known defects it catches. A level that the candidate owes is a failure; by bits, it owes every tap that the
reference has.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from parity.diff.comparison import LEVELS, OUTPUTS, Comparison, EvidenceLevel, Finding, level_of
from parity.diff.metric import BIT_EQUALITIES, ISOLATED, METRICS, Metric, metric_named
from parity.judge.limit import Limit, exact_limit, fails_elsewhere
from parity.judge.reach import distance
from parity.judge.registry import Registry, device_of
from parity.judge.strength import CatchCount, Strength
from parity.judge.verdict import Failure, MetricRow, Outcome, Profile, Verdict
from parity.runs.difference import Difference
from runners.errors import RegistryError, RunError

JUDGED: Final = "judged"
# Findings that are differences themselves: the case fixes how many frames, channels and samples there are, of what size
# and rate, and which pass computes what. Every other finding says that something could not be compared.
DIFFERENCES: Final = frozenset(
    (
        *("missing_frame", "extra_frame", "missing_channel", "extra_channel", "length_mismatch", "rate_mismatch"),
        *("shape_mismatch", "swapped_pass", "swapped_channels", "wrong_tag"),
    )
)
OTHER_WEIGHTS: Final = ("identity_mismatch", "weights")  # another model by its own word, whatever the bits are
NOT_FIXED_BY_CASE: Final = ("text/", "connector/")  # taps whose size follows from how an engine cuts a prompt up
NOT_MEASURED: Final = EvidenceLevel(measured=False, why="it was not measured")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """By what a comparison is judged."""

    limits: Mapping[str, Limit]
    expired: Callable[[str], tuple[Difference, ...]] = lambda _: ()  # of a metric's limit: what changed since
    owed: Sequence[Finding] = ()
    unjudged: dict[str, str] = field(default_factory=dict)
    waivers: Mapping[str, str] = field(default_factory=dict)
    reached: dict[str, str] = field(default_factory=dict)
    refused: str = ""  # why the limits are too few to pass anything; what fails by them fails all the same


def judge(
    found: Comparison,
    profile: Profile,
    registry: Registry | None = None,
    strength: Strength | None = None,
    *,
    refused: str = "",
) -> Verdict:
    """Judge one comparison.

    Args:
        found: numbers and findings. A metric with a limit that is absent fails, and so does one that is None or `nan`.
        profile: "exact" judges every metric that has one wanted value, holds isolated errors to zero where they were
            measured, and needs no registry; "limits" judges every metric by its limit.
        registry: limits, for the profile "limits"; those of the device of the candidate's environment hold.
        strength: how many known defects the levels catch.
        refused: why no limit of the registry holds for the comparison, if none does.
    Raises:
        RegistryError: a metric that does not exist, or that has neither a limit nor a reason to be left unjudged,
            unless the comparison fails without that limit.
        RunError: there is nothing to judge.
    """
    case, metrics, levels = found.case, found.metrics, found.levels
    for name in metrics:
        metric_named(name)
    failures = [_failure(one) for one in found.findings]
    if not metrics and not failures:
        raise RunError(f"Case {case!r}: no metric and no finding, so nothing was compared; run `parity diff` first.")
    if profile == "limits" and registry is None:
        raise RegistryError(f"Case {case!r} is judged by limits; give the registry.")
    rules = by_equality(found) if registry is None or profile == "exact" else by_limits(found, registry, refused)
    if not rules.limits and not rules.refused:
        raise RegistryError(f"No metric of case {case!r} has a limit, so nothing could fail; run `make thresholds`.")
    failures += [_failure(one) for one in rules.owed]
    rows = []
    for name, metric in METRICS.items():
        if name not in rules.limits:
            continue
        value, limit = metrics.get(name), rules.limits[name]
        if value is None:
            failures.append(Failure(code="missing_metric", where=name, message="has a limit but was not computed"))
        elif math.isnan(value):
            failures.append(Failure(code="nan_metric", where=name, message="is nan: it could not be computed"))
        else:
            judged = replace(metric, direction="exact") if limit.direction == "exact" else metric
            rows.append(_row(judged, float(value), limit, rules.expired(name), rules.waivers.get(name, "")))
    excused = {row.metric for row in rows if row.waived}
    for name in rules.waivers.keys() - excused:
        failures.append(
            Failure(
                code="unmatched_waiver", where=name, message="is waived but not beyond its limit; remove the waiver"
            )
        )
    failures.sort(key=lambda failure: failure.code)  # within a code in the order found, that of the data flow
    outcome = _outcome(rows, failures)
    if rules.refused and outcome != "not_at_parity":
        raise RegistryError(rules.refused)
    return Verdict(
        case=case,
        profile=profile,
        outcome=outcome,
        rows=tuple(rows),
        failures=tuple(failures),
        unjudged=rules.unjudged,
        levels=rules.reached,
        evidence=dict(levels),
        caught=None if strength is None else _caught(rules.reached, levels, strength),
        sides=found.sides,
        form=found.form,
    )


def by_equality(found: Comparison) -> Rules:
    """Every metric that has one wanted value, isolated errors at zero, and every tap that the reference has."""
    metrics = {name: METRICS[name] for name in found.metrics}
    limits = {name: exact_limit(metric) for name, metric in metrics.items() if metric.direction == "exact"}
    limits |= {name: exact_limit(METRICS[name]) for name in BIT_EQUALITIES}
    limits |= {
        name: exact_limit(replace(metric, direction="exact"))
        for name, metric in metrics.items()
        if name.startswith(ISOLATED)
    }
    outputs = {name for name in metrics if level_of(name) == OUTPUTS}
    drift = found.levels.get("drift", NOT_MEASURED)
    why = drift.why or f"{drift.lacking} taps that the reference has are not in the candidate's trace"
    return Rules(
        limits=limits,
        owed=[Finding(code="missing_trace", where="drift", message=why)] if drift.lacking else [],
        unjudged=dict.fromkeys(sorted(outputs - limits.keys()), "the exact profile judges equality"),
    )


def by_limits(found: Comparison, registry: Registry, refused: str) -> Rules:
    """The limits of the case on the device of the candidate, for the levels that were measured.

    Where these are too few to pass anything, what has one wanted value has it all the same, and limits of another
    device stand in for those that are missing: expired, so they can only fail what is far away.
    """
    case, levels = found.case, found.levels
    environment = {key: str(value) for key, value in found.environment_of_candidate.items()}
    device, moved = device_of(environment), tuple[Difference, ...]()
    limits = {} if refused else registry.limits_of(case, device)
    reached = _reached(levels, limits)
    judged = {name for name in found.metrics if reached[level_of(name)] == JUDGED}
    if not refused and (without := sorted(judged - limits.keys() - registry.unjudged.keys())):
        refused = _no_limits(registry, case, device, without)
        others = registry.devices_of(case)
        if device not in others and others:
            limits = {
                name: one for name, one in registry.limits_of(case, others[0]).items() if level_of(name) == OUTPUTS
            }
            moved = (Difference(key="device", old=others[0] or "a CPU", new=device or "a CPU"),)
    if refused:
        exact = (METRICS[name] for name in judged if METRICS[name].direction == "exact")
        limits = {metric.name: exact_limit(metric) for metric in exact if metric.name not in registry.unjudged} | limits
    unmeasured = {name for level in levels.values() for name in level.unmeasured}

    def expired(name: str) -> tuple[Difference, ...]:
        limit = limits[name]
        origin = registry.calibrations.get(limit.calibration or "")
        if origin is None:
            return ()
        changes = origin.changed(environment), origin.changed_population(case, found.compared_on)
        return (*moved, *changes[0], *changes[1], *origin.changed_text(name, found.padded_text))

    return Rules(
        limits={
            name: limit
            for name, limit in limits.items()
            if reached[level_of(name)] == JUDGED and (name not in unmeasured or name in judged)
        },
        expired=expired,
        owed=[
            Finding(code="missing_trace", where=level, message=state.why)
            for level, state in levels.items()
            if state.owed and not state.measured
        ],
        unjudged={name: why for name, why in registry.unjudged.items() if name in judged},
        waivers={waiver.metric: waiver.reason for waiver in registry.waivers if waiver.case == case},
        reached=reached,
        refused=refused,
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


def _caught(reached: Mapping[str, str], levels: Mapping[str, EvidenceLevel], strength: Strength) -> CatchCount | None:
    """The strength of the levels that judged; nothing is claimed of levels that were measured in part."""
    judged_by = [level for level, state in reached.items() if state == JUDGED]
    parts = {level: levels[level].unmeasured for level in judged_by if level in levels}
    latents = parts.pop(OUTPUTS, frozenset())
    return strength.caught_by(judged_by, latents) if reached and not any(parts.values()) else None


def _row(metric: Metric, value: float, limit: Limit, expired: tuple[Difference, ...], waiver: str) -> MetricRow:
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
    return MetricRow(
        metric=metric.name,
        unit=metric.unit,
        direction=metric.direction,
        value=value,
        limit=limit.value,
        margin=margin,
        used=used,
        passed=passed,
        decisive=(limit.status == "calibrated" and not expired) or metric.name in BIT_EQUALITIES,
        far=level_of(metric.name) == OUTPUTS and not passed and bool(expired) and fails_elsewhere(value, metric, limit),
        waived="" if passed else waiver,
        status=limit.status,
        expired=expired,
        reason=limit.reason,
        floor=limit.floor,
        floor_from=limit.floor_from,
        weakest_defect=limit.weakest_defect,
        weakest_defect_from=limit.weakest_defect_from,
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


def _failure(finding: Finding) -> Failure:
    return Failure(code=finding.code, where=finding.where, message=finding.message)


def _outcome(rows: list[MetricRow], failures: list[Failure]) -> Outcome:
    """Evidence that is there and fails decides before evidence that is missing."""
    if any(row.decides_against for row in rows) or any(map(_is_difference, failures)):
        return "not_at_parity"
    if failures or any(row.failed for row in rows):  # a limit of another environment shows nothing this near to it
        return "undecided"
    return "parity" if any(row.passed and row.decisive for row in rows) else "undecided"


def _is_difference(failure: Failure) -> bool:
    if (failure.code, failure.where) == OTHER_WEIGHTS:
        return True
    return failure.code in DIFFERENCES and not failure.where.startswith(NOT_FIXED_BY_CASE)
