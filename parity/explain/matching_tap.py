"""The reference's tap that another one holds: that of another block, step, pass, stream, prompt or picture.

Two blocks exchanged, a step repeated, a pass that got another's context: each leaves, at the place where a run first
departs, a tensor that the reference has elsewhere. Taps of the same part and shape are searched, and the nearest counts
where it is `NEARER` times closer than the tap's own, so that a mere resemblance of neighbours does not.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from parity.diff.sketches import relative_l2
from parity.taps.name import is_tap, place_of
from parity.trace.sketch import TapSketch

NEARER: Final = 3.0


@dataclass(frozen=True, kw_only=True)
class MatchingTap:
    """The reference's tap that a candidate's holds. `nearer`: own error over the error to it; `inf` for equal bits."""

    tap: str
    nearer: float


def matching_tap(
    tap: str, reference: Mapping[str, TapSketch], candidate: Mapping[str, TapSketch]
) -> MatchingTap | None:
    """The other tap of the reference whose value the candidate has at `tap`; None where there is none, or no number."""
    if tap not in reference or tap not in candidate:
        return None
    found, part = candidate[tap], place_of(tap).part
    own = relative_l2(reference[tap], found)
    if own.bit_equal or own.findings or own.estimate == 0:
        return None
    best: MatchingTap | None = None
    for name in reference:
        if name == tap or not is_tap(name) or place_of(name).part != part:
            continue
        diff = relative_l2(reference[name], found)
        if diff.findings:
            continue
        nearer = math.inf if diff.estimate == 0 else own.estimate / diff.estimate
        if nearer >= NEARER and (best is None or nearer > best.nearer):
            best = MatchingTap(tap=name, nearer=nearer)
    return best
