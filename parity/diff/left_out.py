"""Taps that two traces cannot be compared by, because they are not of one thing on both sides.

`text/{pos,neg}/hidden` are the prompt's real tokens. Older traces, those of the goldens at full size among them, hold
them with the padding around them, which nothing reads and no two engines agree on. Where one of two traces is such a
one, these taps are left out on both sides; what is computed from them is compared as ever. An old reference excuses
that. A candidate that says it is old where the reference is not was not compared in what it owes, which is a finding.
"""

from dataclasses import dataclass
from typing import Final, Literal

from parity.diff.finding import Finding
from parity.taps.dataflow import Dataflow
from parity.taps.pattern import chosen
from parity.trace.file import Trace

Side = Literal["reference", "candidate"]
SIDES: Final[tuple[Side, ...]] = ("reference", "candidate")


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Taps that both traces should have and that were not compared; `padded` are the sides with padding in them."""

    taps: tuple[str, ...] = ()
    padded: tuple[Side, ...] = ()

    @property
    def words(self) -> str:
        """The taps and the reason; empty if there are none."""
        if not self.taps:
            return ""
        sides = " and ".join(f"the {side}" for side in self.padded)
        return (
            f"{' and '.join(self.taps)} left out: {sides} "
            f"{'were' if len(self.padded) > 1 else 'was'} recorded when they still held padding"
        )

    @property
    def owed(self) -> tuple[Finding, ...]:
        """A finding for each of them where the reference has the tokens alone and could have been compared."""
        message = "the candidate was recorded when it still held padding, the reference was not; run the case again"
        taps = self.taps if self.padded == ("candidate",) else ()
        return tuple(Finding(code="missing_trace", where=tap, message=message) for tap in taps)


def left_out(reference: Trace, candidate: Trace, flow: Dataflow, offered: str | None = None) -> LeftOut:
    """Taps that a comparison must leave out.

    Args:
        reference: trace taken as true.
        candidate: trace under test.
        flow: the case's taps.
        offered: pattern of the taps that the candidate's runner can offer; None for all.
    """
    padded = tuple(side for side, trace in zip(SIDES, (reference, candidate), strict=True) if trace.padded_text)
    patterns = (reference.pattern_of_bits, candidate.pattern_of_bits, offered)
    both = reference.bits.keys() & candidate.bits.keys() if padded else set[str]()
    taps = tuple(
        tap for tap in flow.text_taps if padded and (tap in both or all(chosen(tap, pattern) for pattern in patterns))
    )
    return LeftOut(taps=taps, padded=padded) if taps else LeftOut()
