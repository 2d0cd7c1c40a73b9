"""The reach of harmless variation: how far from perfect agreement a metric may yet go, given how far it was seen to go.

Every metric is first turned into a distance from perfect agreement, zero or more, where larger is worse:

* direction "lower": the value itself (an error, a difference);
* direction "higher" in dB: 10^(-value/20), the amplitude ratio of error to full scale, so that inf dB is 0;
* direction "higher" without a unit: 1 - value (SSIM, cosine, correlation).

Let f be the largest distance among the harmless variations (the floor). The reach is at least

* `MARGIN` times f;
* what two variations do at once, as another kernel on another machine would: errors that have nothing to do with each
  other add their squares, so that is sqrt(f^2 + g^2), with g the largest distance of another variation than the one
  of f. A distance without a unit, 1 - value, is itself the square of an error: there it is f + g. Not so of a part
  alone, fed the reference's own inputs: what varies there is one place, and all rewrites of it at once were measured;
* what a draw may do that was not seen. Some variations are drawn again and again (`noise_ulp_0`, `noise_ulp_1` and so
  on are draws of one kind). Where `MIN_SPREAD_SAMPLES` of these or more moved the metric, that is m exp(`SPREADS` s),
  with m the median of a kind, the largest of all kinds', and s the root mean square of log(distance / median of its
  kind) over the upper half of each kind. Norms of many elements hardly spread; the largest error of a single element
  spreads widely, and one draw more may be the largest yet. How far one kind is from another says nothing of how far a
  draw is from the next, so kinds are not mixed.

Of a metric of whole numbers (a median of 2 ULP, a byte 3 steps off) the reach is at least f + 1 where f is not zero: a
quarter of 2 is no room at all.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

from parity.diff.metric import Direction, Metric

MARGIN: Final = 1.25
MIN_SPREAD_SAMPLES: Final = 8  # fewer show no spread
SPREADS: Final = 4.0  # from the median to what harmless variation may yet reach
REACH: Final = (
    f"the largest of {MARGIN} x floor; floor and the largest distance of another kind of variation together (root of "
    "the sum of squares, or the sum of distances that are squares), but for parts alone; with "
    f"{MIN_SPREAD_SAMPLES} or more draws of repeated kinds above zero, a kind's median x exp({SPREADS:g} x rms of "
    "log(distance / median of the kind) over upper halves); and of whole numbers one more than a floor that is not zero"
)
_DRAW: Final = re.compile(r"_\d+$")
Distances = Mapping[str, Sequence[float]]  # harmless variation -> of its samples, from perfect agreement


def distance(value: float, unit: str, direction: Direction) -> float:
    """The distance of a value from perfect agreement, by the table at the top of this file; `nan` stays `nan`."""
    if math.isnan(value):
        return math.nan
    if direction == "lower":
        return value
    if unit == "dB":
        return _amplitude(-value)
    return max(0.0, 1.0 - value)  # a cosine may exceed 1 by rounding


def distances_of(floor: Mapping[str, Sequence[float]], unit: str, direction: Direction) -> Distances:
    """Distances of every sample of some harmless variations from perfect agreement."""
    return {name: [distance(value, unit, direction) for value in values] for name, values in floor.items()}


def reach(distances: Distances, metric: Metric) -> float:
    """The reach of a metric, as a multiple of the largest distance that a harmless variation moved it."""
    kinds: dict[str, list[float]] = {}
    for name, values in distances.items():
        kinds.setdefault(_DRAW.sub("", name), []).extend(value for value in values if value > 0)
    moved = {name: sorted(values) for name, values in kinds.items() if values}
    if not moved:
        return MARGIN
    largest, other = [*sorted((values[-1] for values in moved.values()), reverse=True), 0.0][:2]
    together = 0.0 if metric.isolated else largest + other if metric.squared else math.hypot(largest, other)
    farthest = max(MARGIN * largest, together, _unseen(list(moved.values())), largest + 1 if metric.whole else 0.0)
    return farthest / largest


def _unseen(kinds: Sequence[Sequence[float]]) -> float:
    """The distance that an unseen draw of a repeated kind may reach; 0 where too few were seen. Each kind is sorted."""
    repeated = [values for values in kinds if len(values) > 1]
    if sum(map(len, repeated)) < MIN_SPREAD_SAMPLES:
        return 0.0
    medians = [math.sqrt(values[(len(values) - 1) // 2] * values[len(values) // 2]) for values in repeated]
    logs = [
        math.log(value / median)
        for values, median in zip(repeated, medians, strict=True)
        for value in values[len(values) // 2 :]
    ]
    spread = math.sqrt(math.fsum(value * value for value in logs) / len(logs))
    return max(medians) * math.exp(SPREADS * spread)


def _amplitude(level_db: float) -> float:
    """10^(level/20), infinite where it is too large to hold."""
    return math.inf if level_db > 6000 else 10.0 ** (level_db / 20)
