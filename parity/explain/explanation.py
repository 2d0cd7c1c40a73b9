"""The first departure of a run from its reference, by how much more than harmless noise, and what that points to.

Facts only; `parity.report.explanation` puts them into at most ten lines.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from parity.diff.comparison import Finding
from parity.diff.traces import DriftGrid, TraceDiff, drift_grids
from parity.explain.bits import BitEquality, bit_equality
from parity.explain.divergence import Divergence, first_divergence
from parity.explain.floors import Floors
from parity.explain.hints import Cause, likely_cause
from parity.explain.matching_tap import MatchingTap
from parity.explain.oracle import Arbitration
from parity.runs.difference import Difference
from parity.taps.dataflow import Dataflow
from parity.taps.name import place_of

ALSO_RAISED: Final = 0.5  # an input this near to a root's ratio of error to floor may be where it begins
_ENDS: Final = {"frames": "decode/frames", "waveform": "decode/waveform"}


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Two traces compared, and what follows from their differences."""

    traces: TraceDiff
    flow: Dataflow
    floors: Floors
    divergence: Divergence  # with the findings of the comparison, too
    bits: BitEquality
    runner: str = "native"  # of the candidate
    tier: str = "exact"  # of the candidate
    matching: MatchingTap | None = None  # what the first root holds instead of its own
    shared: Cause | None = None  # the cause that all blocks share, where isolated errors show one
    kernels: tuple[Difference, ...] = ()  # forms of attention that torch gave to another kernel than in the reference
    arbitrations: Mapping[str, Arbitration] | None = None  # the taps before an oracle, where there is one

    @property
    def bit_equal(self) -> bool:
        """True if every wanted tap is there and equal in every bit."""
        return self.traces.bit_equal

    @property
    def harmless(self) -> dict[str, float]:
        """Floor of each root, relative L2."""
        return {root.tap: self.floors.of(root.tap) for root in self.divergence.roots}

    @property
    def ends(self) -> dict[str, str]:
        """The taps of final latents, frames and waveform, by name, as far as they were compared."""
        latents = {f"{stream} latent": tap for stream, tap in self.flow.final_latents.items()}
        return {name: tap for name, tap in {**latents, **_ENDS}.items() if tap in self.traces.errors}

    @cached_property
    def floors_by_rule(self) -> int:
        """Number of compared taps that have a floor that nobody has measured."""
        return self.floors.by_rule(self.traces.errors)

    @cached_property
    def floors_by_registry(self) -> int:
        """Number of compared taps that have the registry's floor."""
        return self.floors.by_registry(self.traces.errors)

    @property
    def drift(self) -> tuple[DriftGrid, ...]:
        """The errors of all block taps over blocks, steps and passes."""
        return drift_grids(self.traces.errors, self.flow)

    @property
    def cause(self) -> Cause:
        """The cause to look at, from all roots, of which there must be one."""
        return self._cause_of([root.tap for root in self.divergence.roots])

    @property
    def cause_by_bits(self) -> Cause:
        """The same from the taps that differ first in their bits, of which there must be one."""
        return self._cause_of(self.bits.firsts)

    @property
    def bits_point(self) -> bool:
        """True if a place can be pointed at by bits: they are conclusive, or the first difference is beyond noise."""
        first = next(iter(self.bits.firsts), None)
        return self.bits.conclusive or (first is not None and first in {root.tap for root in self.divergence.roots})

    def _cause_of(self, taps: Sequence[str]) -> Cause:
        places = [place_of(tap) for tap in taps]
        in_block = places[0].block is not None
        return self.shared if self.shared is not None and in_block else likely_cause(places)

    def times_harmless(self, tap: str) -> float:
        """Error of a compared tap over its floor; an error of zero or nan as it is."""
        return over(self.traces.errors[tap], self.floors.of(tap))

    @property
    def raised_input(self) -> str | None:
        """The input of the first root that is above its floor, too, if by less than is allowed.

        A small defect may begin there.
        """
        root = self.divergence.roots[0]
        ratios = {tap: self.times_harmless(tap) for tap in self.flow.inputs_of(root.tap) if tap in self.traces.errors}
        worst = max(ratios, key=lambda tap: ratios[tap], default=None)
        own = over(root.error, self.floors.of(root.tap))
        return worst if worst is not None and ratios[worst] > max(1.0, ALSO_RAISED * own) else None


def explain(
    diff: TraceDiff,
    flow: Dataflow,
    floors: Floors,
    *,
    bits_expected: bool,
    arbitrations: Mapping[str, Arbitration] | None = None,
    matching: Callable[[str], MatchingTap | None] | None = None,
    runner: str = "native",
    tier: str = "exact",
    kernels: Sequence[Difference] = (),
    shared: Cause | None = None,
) -> Explanation:
    """Find where a run departs.

    Args:
        diff: its trace against the reference's.
        flow: the case's taps.
        floors: how far harmless noise may carry each tap.
        bits_expected: whether the two should agree in every bit (the exact tier in the reference's environment); then
            the first bit that differs is the divergence, and floors only say how large it is.
        arbitrations: the taps before an oracle, where there is one.
        matching: which other tap of the reference the candidate holds at a tap, if any.
        runner: of the candidate: native has `parity isolate` to go on with, and diffusers modules of its own.
        tier: of the candidate: `parity isolate` has the exact one, `parity admit` the others.
        kernels: forms of attention that torch gave to another kernel than in the reference.
        shared: the cause that all blocks share, where isolated errors show one.
    """

    def bits(tap: str) -> float:
        """Other bits exceed what is allowed even where a sketch sees no difference: signs of zero, another dtype."""
        return 0.0 if diff.same_bits(tap) else -1.0

    errors: Mapping[str, float] = diff.errors
    if bits_expected:
        errors = {**errors, **{tap: 0.0 if same else math.nan for tap, same in diff.by_bits.items()}}
    found = first_divergence(errors, bits if bits_expected else floors.bound, flow, is_wanted=diff.is_wanted)
    return Explanation(
        traces=diff,
        flow=flow,
        floors=floors,
        divergence=replace(found, findings=_merged(diff.findings, found.findings)),
        bits=bit_equality(diff, flow),
        shared=shared,
        runner=runner,
        tier=tier,
        matching=None if matching is None or not found.roots else matching(found.roots[0].tap),
        kernels=tuple(kernels),
        arbitrations=arbitrations,
    )


def over(error: float, floor: float) -> float:
    """Error over floor: `inf` over a floor of zero; an error of zero or nan stays what it is."""
    if math.isnan(error) or error == 0:
        return error
    return error / floor if floor > 0 else math.inf


def _merged(*several: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """All findings, each code and place once: traces say on which side a tap is missing, and say it first."""
    merged: dict[tuple[str, str, str], Finding] = {}
    for finding in (finding for findings in several for finding in findings):
        kind = "coverage" if finding.code in ("missing_tensor", "extra_tensor", "empty") else finding.code
        message = finding.message if kind == "environment_mismatch" else ""
        merged.setdefault((kind, finding.where, message), finding)
    return tuple(merged.values())
