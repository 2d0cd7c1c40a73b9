"""Arbitration by an oracle: of two runs that differ, which is nearer to the official model in higher precision.

Different is not worse: a fused kernel can be nearer to fp32 than the official bf16 run. So both are measured against
the oracle, and their ratio says who is nearer:

    ratio = |candidate - oracle| / |official - oracle|      below 1: the candidate is nearer

In a free run the oracle must have started from the same noise and pictures, or it answers another question: an oracle
whose initial latents are others than the official run's, beyond rounding, is refused. A release may also compute other
things in another dtype by design (1.0.0 rounds video positions to the model's dtype), which moves both runs away from a
free-running oracle alike; block by block, `parity isolate` gives the oracle the very inputs of the official run.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from parity.diff.sketches import relative_l2
from parity.trace.sketch import TapSketch
from runners.errors import RunError

SAME_START: Final = (
    0.1  # relative L2 of initial latents: bf16 rounding of the same noise is below 1e-2, other noise 1.4
)
CLEAR: Final = 1.25  # at 64 buckets two estimates of one distance differ by less than this

Nearer = Literal["candidate", "official", "neither"]


@dataclass(frozen=True, kw_only=True)
class Arbitration:
    """One tap or output before the oracle; both distances are relative L2, nan where one could not be computed."""

    candidate: float
    official: float

    @property
    def ratio(self) -> float:
        """Candidate's distance over the official run's; 1 where both are zero, `inf` where only the official's is."""
        if self.official > 0:
            return self.candidate / self.official
        if math.isnan(self.official) or math.isnan(self.candidate):
            return math.nan
        return 1.0 if self.candidate == 0 else math.inf

    @property
    def nearer(self) -> Nearer | None:
        """The side that is clearly nearer to the oracle; None where a distance could not be computed."""
        if math.isnan(self.ratio):
            return None
        if self.ratio * CLEAR < 1:
            return "candidate"
        return "official" if self.ratio > CLEAR else "neither"


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Number of taps that each side is nearer at. `undecided` could not be computed and must not be passed over."""

    candidate: int
    official: int
    neither: int
    undecided: int


def arbitrate(
    oracle: Mapping[str, TapSketch], official: Mapping[str, TapSketch], candidate: Mapping[str, TapSketch]
) -> dict[str, Arbitration]:
    """Hold two traces to the oracle's, tap by tap; a tap that one of the three lacks is nan.

    Raises: RunError if the oracle has no initial latents, or did not start from the noise that the official run did.
    """
    for stream in ("video", "audio"):
        tap = f"init/{stream}"
        if tap not in oracle or tap not in official:
            raise RunError(f"Oracle and official run must both have the tap {tap!r}; record them with --taps '*'.")
        start = relative_l2(oracle[tap], official[tap]).estimate
        if not start < SAME_START:
            raise RunError(
                f"The oracle started from other noise than the official run: {tap} differs by {start:.2g} relative L2. "
                "Run both with one case and seed on one kind of device."
            )
    taps = dict.fromkeys((*official, *candidate))
    return {
        tap: Arbitration(
            candidate=_distance(oracle, candidate, tap),
            official=_distance(oracle, official, tap),
        )
        for tap in taps
    }


def tally(arbitrations: Mapping[str, Arbitration]) -> Tally:
    """Count who is nearer."""
    votes = [one.nearer for one in arbitrations.values()]
    return Tally(
        candidate=votes.count("candidate"),
        official=votes.count("official"),
        neither=votes.count("neither"),
        undecided=votes.count(None),
    )


def _distance(oracle: Mapping[str, TapSketch], run: Mapping[str, TapSketch], tap: str) -> float:
    return relative_l2(oracle[tap], run[tap]).estimate if tap in oracle and tap in run else math.nan
