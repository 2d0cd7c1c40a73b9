"""The reach of harmless variation: how far from perfect agreement a metric may yet go, given how far it was seen to go.

Every metric is first turned into a distance from perfect agreement, zero or more, where larger is worse:

* direction "lower": the value itself (an error, a difference);
* direction "higher" in dB: 10^(-value/20), the amplitude ratio of error to full scale, so that inf dB is 0;
* direction "higher" without a unit: 1 - value (SSIM, cosine, correlation).

Let f be the largest distance among the harmless variations (the floor). The reach is at least `MARGIN` times f. Some
variations are drawn again and again (`noise_ulp_0`, `noise_ulp_1` and so on are draws of one kind), and where these are
`MIN_SPREAD_SAMPLES` or more that moved the metric, their spread s tells how far a draw may go that was not seen: the
reach is at least m exp(`SPREADS` s), with m the median of a kind, the largest of all kinds', and s the root mean square
of log(distance / median of its kind) over the upper half of each kind. Norms of many elements hardly spread, and the
margin decides; the largest error of a single element spreads widely, and one draw more may be the largest yet. How far
one kind is from another says nothing of how far a draw is from the next, so kinds are not mixed.

Of a metric of whole numbers (a median of 2 ULP, a byte 3 steps off) the reach is at least f + 1 where f is not zero: a
quarter of 2 is no room at all.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

from parity.diff.metric import Direction

MARGIN: Final = 1.25
MIN_SPREAD_SAMPLES: Final = 8  # fewer show no spread
SPREADS: Final = 4.0  # from the median to what harmless variation may yet reach
REACH: Final = (
    f"{MARGIN} x floor, or with {MIN_SPREAD_SAMPLES} or more draws of repeated kinds above zero the larger of that and "
    f"a kind's median x exp({SPREADS:g} x rms of log(distance / median of the kind) over upper halves), and of whole "
    "numbers at least one more than a floor that is not zero"
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
    """How far every sample of some harmless variations is from perfect agreement."""
    return {name: [distance(value, unit, direction) for value in values] for name, values in floor.items()}


def reach(distances: Distances, *, whole: bool = False) -> float:
    """The reach, as a multiple of the largest distance seen. `whole`: distances are whole numbers."""
    kinds: dict[str, list[float]] = {}
    for name, values in distances.items():
        kinds.setdefault(_DRAW.sub("", name), []).extend(value for value in values if value > 0)
    largest = max((value for values in kinds.values() for value in values), default=0.0)
    least = max(MARGIN, 1 + 1 / largest) if whole and largest else MARGIN
    repeated = [sorted(values) for values in kinds.values() if len(values) > 1]
    if sum(map(len, repeated)) < MIN_SPREAD_SAMPLES:
        return least
    medians = [math.sqrt(values[(len(values) - 1) // 2] * values[len(values) // 2]) for values in repeated]
    logs = [
        math.log(value / median)
        for values, median in zip(repeated, medians, strict=True)
        for value in values[len(values) // 2 :]
    ]
    spread = math.sqrt(math.fsum(value * value for value in logs) / len(logs))
    return max(least, max(medians) * math.exp(SPREADS * spread) / largest)


def _amplitude(level_db: float) -> float:
    """10^(level/20), infinite where it is too large to hold."""
    return math.inf if level_db > 6000 else 10.0 ** (level_db / 20)
