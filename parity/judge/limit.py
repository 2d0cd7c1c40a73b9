"""A limit: the bound between how far harmless variation moves a metric and how far the weakest known defect moves it.

Values are distances from perfect agreement here (`parity.judge.reach`). Let f be the largest distance among harmless
variations of the reference (the floor), d the smallest among the defects that this metric should catch, and h the
reach: how far harmless variation may yet be expected to go, which is farther than f.

The limit is the distance sqrt(f d), halfway between floor and defect in ratio, and it counts as calibrated only if it
lies at h or beyond. Otherwise the two populations overlap, the status is `OVERLAP`, and the bound is h: it
may fail a case, but a case cannot pass on it alone.

Where arithmetic bounds what harmless variation can do (elementwise places of an isolation,
`parity.calibrate.isolated_floors`), that bound is the limit, however far away the weakest defect is. It counts as
calibrated if every defect lies beyond it. If a harmless variation does, too, the arithmetic is wrong here, and the
bound is h.
"""

import datetime
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal

import msgspec

from parity.diff.metric import DRIFT, ISOLATED, Direction, Metric
from parity.judge.reach import MARGIN, REACH, Distances, distance, distances_of, reach
from parity.runs.difference import Difference
from runners.errors import RegistryError
from runners.strict import Strict

MIN_FLOOR_SAMPLES: Final = 2  # one sample shows no variation
# How many times the reach of harmless variation an output must move for a limit to fail it that was measured elsewhere.
# Another machine is one draw more of what the population holds already: other kernels, another CPU capability, threads,
# fp32, every rewrite at once. The reach allows for draws that were not seen, and eight times it is at least ten times
# the worst of those that were. What is so far away is no machine's doing.
ELSEWHERE_FACTOR: Final = 8.0
METHOD: Final = (
    "limit = sqrt(floor x weakest defect), as distances from perfect agreement, if that is at least the reach of "
    f"harmless variation and there are at least {MIN_FLOOR_SAMPLES} floor samples; else OVERLAP at that "
    f"reach. Reach = {REACH}. Where "
    "arithmetic bounds harmless variation (samples.bound), limit = that bound, if floor <= bound < weakest defect"
)

POPULATION: Final = "compared"  # key of a difference in what is compared
TEXT_METRICS: Final = (f"{DRIFT}text", f"{ISOLATED}text.hidden")

Status = Literal["calibrated", "OVERLAP", "exact"]


class Calibration(Strict, frozen=True, kw_only=True):
    """The provenance of a set of limits. The limits expire when one of `expires_with` changes in the environment."""

    date: str  # YYYY-MM-DD
    command: str
    runs: tuple[str, ...]
    environment: dict[str, str]  # torch, device, driver, sdpa_backends, threads, weights_sha256, ...
    expires_with: tuple[str, ...]  # keys of environment
    compared_on: dict[str, str] = msgspec.field(default_factory=dict)  # case -> what, where it was not everything
    padded_text: bool = True  # whether `TEXT_METRICS` are of padded prompts, as they were when this was not said

    def __post_init__(self) -> None:
        """Refuse a provenance that could not be followed up. Raises: RegistryError."""
        try:
            datetime.date.fromisoformat(self.date)
        except ValueError:
            raise RegistryError(f"A calibration date is YYYY-MM-DD; got {self.date!r}.") from None
        if not self.command or not self.runs:
            raise RegistryError(f"The calibration of {self.date} names no command or no runs; say where it came from.")
        unknown = [key for key in self.expires_with if key not in self.environment]
        if unknown or not self.expires_with:
            raise RegistryError(
                f"The calibration of {self.date} expires with {', '.join(unknown) or 'nothing'}; every key of "
                "expires_with must stand in its environment, and there must be one."
            )

    def changed(self, environment: Mapping[str, str]) -> list[Difference]:
        """The differences that expire these limits in another environment; empty if they still hold."""
        return [
            Difference(key=key, old=self.environment[key], new=environment.get(key, "not recorded"))
            for key in self.expires_with
            if self._build(key, self.environment[key]) != self._build(key, environment.get(key))
        ]

    def changed_population(self, case: str, compared_on: str) -> list[Difference]:
        """The same for what is compared: the worst of other frames and taps is another number."""
        then = self.compared_on.get(case, "")
        if then == compared_on:
            return []
        return [Difference(key=POPULATION, old=then or "everything", new=compared_on or "everything")]

    def changed_text(self, metric: str, padded_text: bool) -> list[Difference]:
        """The same for what a metric of text is of: what harmless noise does to padding bounds nothing of a prompt."""
        if metric not in TEXT_METRICS or self.padded_text == padded_text:
            return []
        then, now = ("padding" if padded else "real tokens only" for padded in (self.padded_text, padded_text))
        return [Difference(key=POPULATION, old=f"hidden states of text with {then}", new=f"with {now}")]

    def _build(self, key: str, value: str | None) -> str | None:
        """On a CPU a version of torch without the label of its build: that for CUDA has the same CPU kernels."""
        on_cpu = key == "torch" and self.environment.get("device") == "cpu"
        return value.partition("+")[0] if on_cpu and value is not None else value


class Samples(Strict, frozen=True, kw_only=True, omit_defaults=True):
    """The raw values of the metric, so that its limit can be worked out again without running anything."""

    floor: dict[str, tuple[float, ...]]  # harmless variation -> values
    defects: dict[str, tuple[float, ...]]  # defect -> values
    targets: tuple[str, ...]  # the defects that this metric should catch
    bound: float | None = None  # what harmless variation does at most, where arithmetic says so
    bound_from: str = ""  # how it says so


class Limit(Strict, frozen=True, kw_only=True):
    """One limit with its origin. Values are in the metric's own unit; `separation` is a ratio of distances."""

    value: float
    unit: str
    direction: Direction
    status: Status
    reason: str
    floor: float | None = None
    floor_from: str | None = None
    weakest_defect: float | None = None
    weakest_defect_from: str | None = None
    separation: float | None = None
    calibration: str | None = None  # key of Registry.calibrations
    samples: Samples | None = None

    def __post_init__(self) -> None:
        """Refuse a limit that contradicts itself or that nothing could fail. Raises: RegistryError."""
        if not self.reason.strip():
            raise RegistryError("A limit needs a reason; got an empty one.")
        if (self.direction == "exact") != (self.status == "exact"):
            raise RegistryError(f"Direction {self.direction!r} and status {self.status!r} contradict each other.")
        never_fails = {"lower": math.inf, "higher": -math.inf, "exact": math.nan}[self.direction]
        if math.isnan(self.value) or self.value == never_fails:
            raise RegistryError(f"A {self.direction!r} limit of {self.value} could never fail; give a finite one.")
        if self.status != "exact" and (self.samples is None or self.calibration is None or self.floor is None):
            raise RegistryError(f"A {self.status} limit needs floor, samples and calibration, to be followed up.")


def wanted_value(metric: Metric) -> float:
    """The one right value of an "exact" metric: 1 for an equality, 0 for a difference or a count of faults."""
    return 1.0 if ".bit_equal." in metric.name else 0.0


def exact_limit(metric: Metric) -> Limit:
    """The limit of a metric whose wanted value is known beforehand."""
    return Limit(value=wanted_value(metric), unit=metric.unit, direction="exact", status="exact", reason=metric.meaning)


def derive_limit(
    metric: Metric,
    *,
    floor: Mapping[str, Sequence[float]],
    defects: Mapping[str, Sequence[float]],
    targets: Collection[str] | None = None,
    calibration: str,
    reason: str | None = None,
    bound: float | None = None,
    bound_from: str = "",
) -> Limit:
    """Work a limit out from two measured populations by the method at the top of this file.

    Args:
        metric: what the samples are values of; direction "lower" or "higher".
        floor: for each harmless variation of the reference, the values of the metric.
        defects: for each defect put in on purpose, the values of the metric.
        targets: the defects that this metric should catch; None means all of them.
        calibration: key of the calibration that the samples came from.
        reason: why the limit is what it is; None writes the two populations out.
        bound: what harmless variation does at most, of a metric that is better lower, where arithmetic says so.
        bound_from: how it says so.
    Raises: RegistryError for an exact metric, no floor sample, a NaN, or a value outside the metric's range.
    """
    unit, direction = metric.unit, metric.direction
    if direction == "exact" or (direction == "higher" and unit not in ("", "dB")):
        raise RegistryError(
            f"{metric.name} ({direction}, unit {unit!r}) has no limit between two populations: wanted a metric that is "
            "better lower, or better higher in dB or as a ratio up to 1."
        )
    if bound is not None and (direction != "lower" or not (math.isfinite(bound) and bound >= 0)):
        raise RegistryError(
            f"{metric.name} ({direction}) is given the bound {bound}; wanted a finite one from 0 of a metric that is "
            "better lower."
        )
    wanted = tuple(sorted(defects if targets is None else targets))
    if missing := [name for name in wanted if not defects.get(name)]:
        raise RegistryError(f"{metric.name} should catch {', '.join(missing)}, but no sample of that was measured.")
    for name, values in (*floor.items(), *defects.items()):
        _require_in_range(metric, name, values)
    worst_harmless = _extreme(metric, floor, worst=True)
    if worst_harmless is None:
        raise RegistryError(f"{metric.name} has no floor sample; run the reference with a harmless variation first.")
    floor_from, floor_value = worst_harmless
    f = distance(floor_value, unit, direction)
    if math.isinf(f):
        raise RegistryError(
            f"{metric.name} is {floor_value} under the harmless variation {floor_from!r}; that bounds nothing."
        )
    weakest = _extreme(metric, {name: defects[name] for name in wanted}, worst=False)
    separation = None
    if weakest is not None:
        d = distance(weakest[1], unit, direction)
        separation = d / f if f else (math.inf if d else 1.0)
    distances = distances_of(floor, unit, direction)
    enough, ratio = _enough(distances), reach(distances, metric)
    calibrated = enough and separation is not None and separation >= ratio**2
    within = bound is not None and f <= bound
    if bound is not None:
        calibrated = within and weakest is not None and distance(weakest[1], unit, direction) > bound
    if bound is not None and within:
        value = bound
    elif calibrated and weakest is not None and math.isfinite(distance(weakest[1], unit, direction)):
        value = _halfway(floor_value, weakest[1], unit, direction)
    else:
        value = _widened(floor_value, ratio, unit, direction)
    return Limit(
        value=value,
        unit=unit,
        direction=direction,
        status="calibrated" if calibrated else "OVERLAP",
        reason=reason
        or (
            reason_of_populations(metric, worst_harmless, weakest, separation, distances)
            if bound is None
            else _bound_reason(bound, bound_from, worst_harmless, weakest)
        ),
        floor=floor_value,
        floor_from=floor_from,
        weakest_defect=weakest[1] if weakest else None,
        weakest_defect_from=weakest[0] if weakest else None,
        separation=separation,
        calibration=calibration,
        samples=Samples(
            floor={name: tuple(map(float, values)) for name, values in floor.items()},
            defects={name: tuple(map(float, values)) for name, values in defects.items()},
            targets=wanted,
            bound=bound,
            bound_from=bound_from,
        ),
    )


def fails_elsewhere(value: float, metric: Metric, limit: Limit) -> bool:
    """True if a value is so far beyond a limit that it fails wherever that was measured.

    It is beyond the limit itself and `ELSEWHERE_FACTOR` times the reach of harmless variation, as distances. A limit
    whose harmless variations moved nothing has no such measure, and an exact one holds everywhere anyway.
    """
    if limit.samples is None or limit.direction == "exact":
        return False
    floor = distances_of(limit.samples.floor, limit.unit, limit.direction)
    largest = max((one for values in floor.values() for one in values), default=0.0)
    far = ELSEWHERE_FACTOR * reach(floor, metric) * largest
    allowed = distance(limit.value, limit.unit, limit.direction)
    return far > 0 and distance(value, limit.unit, limit.direction) > max(far, allowed)


def _enough(distances: Distances) -> bool:
    return sum(map(len, distances.values())) >= MIN_FLOOR_SAMPLES


def _require_in_range(metric: Metric, name: str, values: Sequence[float]) -> None:
    for value in values:
        too_good = (metric.direction == "lower" and value < 0) or (
            metric.direction == "higher" and metric.unit == "" and value > 1 + 1e-6
        )
        if math.isnan(value) or too_good:
            wanted = "at least 0" if metric.direction == "lower" else "in dB" if metric.unit == "dB" else "at most 1"
            raise RegistryError(f"{metric.name} of {name!r} is {value}; a sample must be a number {wanted}.")


def _extreme(metric: Metric, population: Mapping[str, Sequence[float]], *, worst: bool) -> tuple[str, float] | None:
    """The member farthest from (or nearest to) perfect agreement; names settle a tie, so the order never counts."""
    members = sorted((name, float(value)) for name, values in population.items() for value in values)
    larger_is_worse = metric.direction == "lower"
    pick = max if worst == larger_is_worse else min
    return pick(members, key=lambda member: member[1]) if members else None


def _halfway(floor: float, defect: float, unit: str, direction: Direction) -> float:
    """The value whose distance is the geometric mean of the two distances."""
    if direction == "lower":
        return math.sqrt(floor) * math.sqrt(defect)
    if unit == "dB":
        return (floor + defect) / 2  # the same mean, taken on the logarithm
    return 1.0 - math.sqrt(distance(floor, unit, direction) * distance(defect, unit, direction))


def _widened(floor: float, ratio: float, unit: str, direction: Direction) -> float:
    """The value whose distance is `ratio` times that of the floor."""
    if direction == "lower":
        return ratio * floor
    if unit == "dB":
        return floor - 20 * math.log10(ratio)
    return 1.0 - ratio * distance(floor, unit, direction)


def reason_of_populations(
    metric: Metric,
    floor: tuple[str, float],
    weakest: tuple[str, float] | None,
    separation: float | None,
    distances: Distances,
) -> str:
    """The reason of a limit between two populations.

    Args:
        metric: what is limited.
        floor: the worst harmless variation and its value.
        weakest: the weakest defect and its value, if any was measured that the metric should catch.
        separation: how many times as far from perfect agreement the defect is as the floor.
        distances: of every harmless sample, from perfect agreement.
    """
    enough, ratio = _enough(distances), reach(distances, metric)
    floor_words = f"floor {floor[1]:.4g} ({floor[0]})"
    if weakest is None or separation is None:
        return f"{floor_words}; no defect was measured that it should catch"
    between = f"{floor_words}, weakest defect {weakest[1]:.4g} ({weakest[0]}), {separation:.3g}x apart"
    if not enough:
        return f"{between}; fewer than {MIN_FLOOR_SAMPLES} floor samples"
    if separation >= ratio**2:
        return between
    spread = f" (harmless variation may reach {ratio:.2f} x its floor)" if ratio > MARGIN else ""
    return f"{between}: too close to tell them apart{spread}"


def _bound_reason(bound: float, bound_from: str, floor: tuple[str, float], weakest: tuple[str, float] | None) -> str:
    words = f"at most {bound:.3g} by arithmetic ({bound_from}), floor {floor[1]:.4g} ({floor[0]})"
    if weakest is None:
        return f"{words}; no defect was measured that it should catch"
    words += f", weakest defect {weakest[1]:.4g} ({weakest[0]})"
    if floor[1] > bound:
        return f"{words}: a harmless variation went beyond the bound"
    return words if weakest[1] > bound else f"{words}: the defect is within the bound"


def again(metric: Metric, limit: Limit) -> Limit:
    """A limit worked out again from its own samples; an exact one stays. Raises: RegistryError as `derive_limit`."""
    if limit.samples is None or limit.calibration is None:
        return limit
    samples = limit.samples
    return derive_limit(
        metric,
        floor=samples.floor,
        defects=samples.defects,
        targets=samples.targets,
        calibration=limit.calibration,
        bound=samples.bound,
        bound_from=samples.bound_from,
    )


def contradiction(metric: Metric, limit: Limit) -> str | None:
    """The claim of a limit that its samples and the method do not bear out, or None; it finds hand-edited limits."""
    if limit.unit != metric.unit or limit.direction != metric.direction:
        return (
            f"says {limit.direction!r} in {limit.unit!r}; the metric is {metric.direction!r} in {metric.unit!r}, "
            "as parity.diff.metric defines it"
        )
    if limit.samples is None or limit.calibration is None:
        wanted = wanted_value(metric)
        return None if limit.value == wanted else f"says {limit.value}; the wanted value is {wanted}"
    try:
        derived = again(metric, limit)
    except RegistryError as error:
        return f"has samples that give no limit: {error}"
    for name in ("value", "floor", "weakest_defect", "separation"):
        if not _same(getattr(limit, name), getattr(derived, name)):
            return f"says {name} {getattr(limit, name)}; its samples give {getattr(derived, name)}"
    for name in ("status", "floor_from", "weakest_defect_from"):
        if getattr(limit, name) != getattr(derived, name):
            return f"says {name} {getattr(limit, name)!r}; its samples give {getattr(derived, name)!r}"
    return None


def _same(stated: float | None, derived: float | None) -> bool:
    if stated is None or derived is None:
        return stated is derived
    return stated == derived or math.isclose(stated, derived, rel_tol=1e-9)  # log10 may differ by a bit elsewhere


def looser(old: Limit, new: Limit) -> bool:
    """True if a new limit lets something pass that the old one stopped, or says less surely what it stops."""
    if (old.unit, old.direction) != (new.unit, new.direction):
        return True
    if old.status != "OVERLAP" and new.status == "OVERLAP":
        return True
    if old.direction == "exact":
        return old.value != new.value
    return new.value > old.value if old.direction == "lower" else new.value < old.value
