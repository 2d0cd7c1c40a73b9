"""A verdict: saved metrics and findings, judged by exact equality or by the limits of the registry.

Only numbers enter, so a run can be judged again after limits change, without its tensors and without a GPU. There are
three outcomes.

"parity": nothing failed, and at least one metric that can tell a defect from harmless variation passed.

"not_at_parity": evidence that is there fails. A metric is beyond a limit that holds here; or an output is so far beyond
one measured elsewhere that no machine explains it (`parity.judge.limit.ELSEWHERE_FACTOR`); or something has another
count, shape or rate than the case fixes; or the run says that its weights are others. That decides before anything that
is missing does.

"undecided": something is missing, unmatched, NaN or otherwise found, so the numbers cannot be believed; or only limits
that were measured in another environment failed; or nothing failed, but every limit that held is uncalibrated or was
measured in another environment, so nothing was shown. What prevents judging at all (no limit for a metric, nothing to
judge) is raised, unless what needs no limit fails already.

By which limits, and on which levels of evidence, a comparison is judged is said in `parity.judge.rules`.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Literal

import msgspec

from parity.diff.comparison import OUTPUTS, Comparison, EvidenceLevel, Finding, Sides, level_of
from parity.diff.metric import BIT_EQUALITIES, METRICS, Direction, Metric, metric_named
from parity.judge.limit import Limit, Status, distance, fails_elsewhere
from parity.judge.registry import Registry
from parity.judge.rules import JUDGED, by_equality, by_limits
from parity.judge.strength import Caught, Strength
from parity.runs.difference import Difference
from runners.errors import RegistryError, RunError

Profile = Literal["exact", "limits"]
Outcome = Literal["parity", "not_at_parity", "undecided"]
EXIT_CODES: Final[dict[Outcome, int]] = {"parity": 0, "not_at_parity": 1, "undecided": 2}
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
    far: bool = False  # so far beyond that it fails wherever the limit was measured
    reason: str  # of the limit

    @property
    def failed(self) -> bool:
        """True if it counts against parity: beyond its limit and not waived."""
        return not self.passed and not self.waived

    @property
    def decides_against(self) -> bool:
        """True if it fails the case by itself: its limit holds here, or it is too far away for that to matter."""
        return self.failed and (not self.expired or self.far)


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
    sides: Sides = Sides()  # the two runs
    form: str = ""  # of imported outputs, a label of `parity.runs.encoding`
    root: str = ""  # folder of the goldens and limits, where it is not the checkout's own

    @property
    def exit_code(self) -> int:
        """0 parity, 1 not at parity, 2 could not judge."""
        return EXIT_CODES[self.outcome]

    def failed_rows(self) -> tuple[Row, ...]:
        """The rows that count against parity."""
        return tuple(row for row in self.rows if row.failed)


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


def _caught(reached: Mapping[str, str], levels: Mapping[str, EvidenceLevel], strength: Strength) -> Caught | None:
    """The strength of the levels that judged; nothing is claimed of levels that were measured in part."""
    judged_by = [level for level, state in reached.items() if state == JUDGED]
    parts = {level: levels[level].unmeasured for level in judged_by if level in levels}
    latents = parts.pop(OUTPUTS, frozenset())
    return strength.caught_by(judged_by, latents) if reached and not any(parts.values()) else None


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
        far=level_of(metric.name) == OUTPUTS and not passed and bool(expired) and fails_elsewhere(value, limit),
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


def _failure(finding: Finding) -> Failure:
    return Failure(code=finding.code, where=finding.where, message=finding.message)


def _outcome(rows: list[Row], failures: list[Failure]) -> Outcome:
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


def gate_exit_code(*codes: int) -> int:
    """One exit code for several verdicts: a known failure (1) outweighs what could not be judged (2), that a pass."""
    return 1 if 1 in codes else max(codes)
