"""Equality of bits over a trace: how many taps are equal, and which differ first, although their inputs are equal.

It needs no noise floor and no limit. Where the two environments differ, other bits are only to be expected: then a tap
is pointed at if most taps are equal all the same, so that this environment changes no bits by itself.
"""

import math
from dataclasses import dataclass
from typing import Final

from parity.diff.traces import ELSEWHERE, TraceDiff
from parity.explain.divergence import first_divergence
from parity.taps.dataflow import Dataflow

_OF_ONE_SIDE: Final = ("missing_tensor", "extra_tensor")


@dataclass(frozen=True, kw_only=True)
class BitEquality:
    """The taps of a case by their bits. `firsts` differ while nothing they are computed from does; data-flow order."""

    compared: int
    different: int
    missing: int  # taps of the case that one side or both lack
    firsts: tuple[str, ...]
    equal_inputs: tuple[str, ...]  # of the first of `firsts`: its inputs, all equal; empty if one was not compared
    elsewhere: bool  # whether the two environments differ in what can change bits

    @property
    def equal(self) -> int:
        """Number of taps that have the reference's bits."""
        return self.compared - self.different

    @property
    def conclusive(self) -> bool:
        """True if nothing but the candidate itself explains the first difference."""
        return self.different > 0 and (not self.elsewhere or 2 * self.equal > self.compared)


def bit_equality(diff: TraceDiff, flow: Dataflow) -> BitEquality:
    """Count equal taps, and find those that differ first."""
    same = {tap: diff.same_bits(tap) for tap in flow.taps if tap in diff.taps or tap in diff.by_bits}
    errors = {tap: 0.0 if equal else math.nan for tap, equal in same.items()}
    found = first_divergence(errors, lambda _: 0.0, flow, is_wanted=lambda _: False)
    firsts = tuple(root.tap for root in found.roots)
    inputs = flow.inputs_of(firsts[0]) if firsts else ()
    lacking = {tap for tap in flow.taps if tap not in same and diff.is_wanted(tap)}
    lacking |= {finding.where for finding in diff.findings if finding.code in _OF_ONE_SIDE}
    return BitEquality(
        compared=len(same),
        different=found.above,
        missing=sum(tap in flow for tap in lacking),
        firsts=firsts,
        equal_inputs=inputs if all(tap in same for tap in inputs) else (),
        elsewhere=any(finding.code == ELSEWHERE for finding in diff.findings),
    )
