"""The rules of a verdict: the limits that a comparison is judged by, those of them that expired, and what it owes.

By limits a run is judged on the levels of evidence that were measured (`parity.diff.comparison`): outputs always, drift
of taps and isolated errors where they are there. A level that is not there is named in the verdict with the reason, and
what the rest is worth: how many known defects it catches. A level that the candidate owes is a failure; by bits, it
owes every tap that the reference has.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from parity.diff.comparison import LEVELS, OUTPUTS, Comparison, EvidenceLevel, Finding, level_of
from parity.diff.metric import BIT_EQUALITIES, ISOLATED, METRICS
from parity.judge.limit import Limit, exact_limit
from parity.judge.registry import Registry, device_of
from parity.runs.difference import Difference

JUDGED: Final = "judged"
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
