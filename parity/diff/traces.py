"""Two traces against each other: what must be there, what is there, and the relative L2 of every tap.

What must be there follows from the case (`parity.taps.dataflow`), not from either trace, so a tap missing on both sides
is named too. Where a trace was recorded by a pattern, only the taps that both patterns chose are wanted; what lies in
both is compared whatever either pattern, or the candidate's runner, says. Of taps that a golden kept no sketch of, it
is known whether their bits are equal, and whether the other side's hold NaN.

Taps that are not of one thing on both sides are left out, and the result says which. `text/{pos,neg}/hidden` are the
prompt's real tokens. Older traces, those of the goldens at full size among them, hold them with the padding around
them, which nothing reads and no two engines agree on. Where one of two traces is such a one, these taps are left out on
both sides; what is computed from them is compared as ever. An old reference excuses that. A candidate that says it is
old where the reference is not was not compared in what it owes, which is a finding.

A guidance pass that another pass has taken the place of (a negative prompt that never arrived, two passes exchanged) is
named as such: its predictions of both streams equal those of another pass of the reference, and not their own.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Final, Literal

from parity.diff.comparison import Finding, non_finite_findings
from parity.diff.sketches import EQUAL_BITS, SketchDiff, relative_l2
from parity.runs.difference import Difference
from parity.taps.dataflow import Dataflow
from parity.taps.name import BLOCK_PARTS, PASS_WORDS, STREAMS
from parity.taps.pattern import chosen
from parity.trace.consistency import unequal_statistics
from parity.trace.file import Trace
from parity.trace.sketch import TapSketch

SWAP_RATIO: Final = 3.0  # how much closer another pass must be to be taken for the one that ran
SWAP_DRIFT: Final = 0.1  # relative L2 up to which two passes are equal; harmless noise moves a prediction by less
ELSEWHERE: Final = "environment_mismatch"  # the one finding that equal bits answer
SideName = Literal["reference", "candidate"]
SIDES: Final[tuple[SideName, ...]] = ("reference", "candidate")
_NON_FINITE: Final = ("nan_candidate", "inf_candidate", "nan_reference", "inf_reference")


@dataclass(frozen=True, kw_only=True)
class OmittedTaps:
    """Taps that both traces should have and that were not compared; `padded` are the sides with padding in them."""

    taps: tuple[str, ...] = ()
    padded: tuple[SideName, ...] = ()

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


@dataclass(frozen=True, kw_only=True)
class TraceDiff:
    """All taps compared, in data-flow order, and everything that keeps the two traces from being comparable."""

    taps: dict[str, SketchDiff]
    findings: tuple[Finding, ...]
    is_wanted: Callable[[str], bool]  # which taps were wanted from both
    by_bits: Mapping[str, bool] = field(default_factory=dict)  # of taps without sketches: whether bits are equal
    left_out: OmittedTaps = field(default_factory=OmittedTaps)  # what could not be compared, and is not wanted

    @cached_property  # read once for each tap by whoever looks for the worst of 55,092
    def errors(self) -> dict[str, float]:
        """Estimated relative L2 of each tap; 0 where bits are equal, nan where a finding says why there is none."""
        return {tap: diff.estimate for tap, diff in self.taps.items()}

    @property
    def bit_equal(self) -> bool:
        """True if every wanted tap is there and equal in every bit, wherever the two were made."""
        whole = all(finding.code == ELSEWHERE for finding in self.findings)
        return whole and bool(self.taps) and not self.bit_different

    def same_bits(self, tap: str) -> bool:
        """True if a tap that was compared is equal in every bit, by its sketches or by bits alone."""
        return self.by_bits[tap] if tap in self.by_bits else self.taps[tap].bit_equal

    @property
    def compared(self) -> int:
        """Number of taps that were compared, by sketches or by bits alone."""
        return len(self.taps) + len(self.by_bits)

    @property
    def bit_different(self) -> int:
        """Number of them that have other bits."""
        return sum(not self.same_bits(tap) for tap in (*self.taps, *self.by_bits))


@dataclass(frozen=True, kw_only=True)
class DriftGrid:
    """Relative L2 of one branch in one guidance pass: `values[step][block]`, nan where no such tap was compared.

    Steps of a second stage follow those of the first.
    """

    guidance_pass: str
    stream: str
    part: str
    values: tuple[tuple[float, ...], ...]


def compare_traces(
    reference: Trace,
    candidate: Trace,
    flow: Dataflow,
    *,
    offered: str | None = None,
    environment: Sequence[Difference] = (),
) -> TraceDiff:
    """Compare two traces of one case.

    Args:
        reference: trace taken as true.
        candidate: trace under test.
        flow: the case's taps.
        offered: pattern of the taps that the candidate's runner can offer: no other is missed. None for all.
        environment: differences between the environments of the two runs.
    Returns: a TraceDiff. Whatever is missing, extra, not finite, of another shape, exchanged, recorded elsewhere or cut
        short is a finding in it. Of NaN and infinities only the first in data-flow order are findings.
    Raises: ShapeError if the sketches have different numbers of buckets.
    """

    omitted = left_out(reference, candidate, flow, offered)

    @cache  # asked three times of each tap, 55,092 of them at full size
    def is_wanted(tap: str) -> bool:
        if tap in omitted.taps:
            return False
        patterns = (reference.pattern, candidate.pattern, offered)
        return (tap in reference and tap in candidate) or all(chosen(tap, pattern) for pattern in patterns)

    wanted = [tap for tap in flow.taps if tap not in omitted.taps]
    by_bits, missed = _by_bits(reference, candidate, wanted, offered, is_wanted)
    findings = [
        Finding(code="incomplete_trace", where=side, message=f"the {side} ended after {len(trace)} taps")
        for side, trace in (("reference", reference), ("candidate", candidate))
        if not trace.complete
    ]
    findings += [
        Finding(
            code=ELSEWHERE,
            where="environment",
            message=f"{one.beside} (reference against candidate), so bits cannot be expected to agree",
        )
        for one in environment
    ]
    findings += _coverage(reference, candidate, flow, is_wanted)
    findings += missed
    findings += _contradictions(reference, candidate, omitted)
    taps = _sketched(reference, candidate, [tap for tap in flow.taps if is_wanted(tap)])
    if not taps:
        findings.append(Finding(code="empty", where="trace", message="the traces have no wanted tap in common"))
    damaged = taps | _not_finite(by_bits, reference, candidate)
    findings += _damage({tap: damaged[tap] for tap in flow.taps if tap in damaged}, flow)
    findings += swapped_passes(reference, candidate, flow)
    return TraceDiff(taps=taps, findings=tuple(findings), is_wanted=is_wanted, by_bits=by_bits, left_out=omitted)


def left_out(reference: Trace, candidate: Trace, flow: Dataflow, offered: str | None = None) -> OmittedTaps:
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
    return OmittedTaps(taps=taps, padded=padded) if taps else OmittedTaps()


def _contradictions(reference: Trace, candidate: Trace, omitted: OmittedTaps) -> Iterable[Finding]:
    """Taps of either side that cannot be, and taps of both that have equal bits and unequal statistics."""
    for side, trace in (("reference", reference), ("candidate", candidate)):
        for tap, words in trace.contradictions.items():
            yield Finding(code="contradictory_trace", where=tap, message=f"of the {side}: {words}")
    if reference.buckets != candidate.buckets:
        return
    old, new = reference.bits, candidate.bits
    alike = [tap for tap in candidate if tap in reference and tap not in omitted.taps and old[tap] == new[tap]]
    for row in unequal_statistics(reference.rows_of(alike), candidate.rows_of(alike)):
        message = "both sides have the same checksum of it, and other statistics"
        yield Finding(code="contradictory_trace", where=alike[row], message=message)


def _sketched(reference: Trace, candidate: Trace, wanted: Iterable[str]) -> dict[str, SketchDiff]:
    """The differences that both sides' sketches give; those with equal bits and nothing amiss, most, at once."""
    old, new = reference.clean_bits, candidate.clean_bits
    alike = reference.buckets == candidate.buckets
    return {
        tap: EQUAL_BITS
        if alike and tap in old and old[tap] == new.get(tap)
        else relative_l2(reference[tap], candidate[tap], where=tap)
        for tap in wanted
        if tap in reference and tap in candidate
    }


def _by_bits(
    reference: Trace, candidate: Trace, wanted: Iterable[str], offered: str | None, sketched: Callable[[str], bool]
) -> tuple[dict[str, bool], list[Finding]]:
    """Taps that a golden kept no sketch of: whether bits are equal, and a finding for each that is missing."""
    if reference.checksums is None and candidate.checksums is None:
        return {}, []
    patterns = (reference.pattern_of_bits, candidate.pattern_of_bits, offered)
    old, new = reference.bits, candidate.bits
    same: dict[str, bool] = {}
    missed = []
    for tap in wanted:
        if sketched(tap):
            continue
        if tap in old and tap in new:
            same[tap] = old[tap] == new[tap]
        elif all(chosen(tap, pattern) for pattern in patterns):
            code, side = ("extra_tensor", "reference") if tap in new else ("missing_tensor", "candidate")
            missed.append(Finding(code=code, where=tap, message=f"the {side} lacks this tap of the case"))
    return same, missed


def _not_finite(by_bits: Iterable[str], reference: Trace, candidate: Trace) -> dict[str, SketchDiff]:
    """Of taps held to bits alone, those in which the side that has a sketch shows NaN or infinities."""
    sketched = {*reference, *candidate} - reference.clean_bits.keys() - candidate.clean_bits.keys()
    found = {}
    for tap in by_bits:
        if tap not in sketched:
            continue
        old, new = reference.get(tap), candidate.get(tap)
        findings = non_finite_findings(
            tap,
            nan_reference=0 if old is None else old.nan_count,
            nan_candidate=0 if new is None else new.nan_count,
            inf_reference=0 if old is None else old.inf_count,
            inf_candidate=0 if new is None else new.inf_count,
        )
        if findings:
            found[tap] = SketchDiff(bit_equal=False, findings=findings)
    return found


def _coverage(
    reference: Mapping[str, TapSketch],
    candidate: Mapping[str, TapSketch],
    flow: Dataflow,
    is_wanted: Callable[[str], bool],
) -> Iterable[Finding]:
    for tap in flow.taps:
        if not is_wanted(tap):
            continue
        if tap not in candidate:
            which = "the candidate lacks" if tap in reference else "both runs lack"
            yield Finding(code="missing_tensor", where=tap, message=f"{which} this tap of the case")
        elif tap not in reference:
            yield Finding(code="extra_tensor", where=tap, message="the reference lacks this tap of the case")
    for side, trace in (("reference", reference), ("candidate", candidate)):
        for tap in trace:
            if tap not in flow and (side == "candidate" or tap not in candidate):
                code = "extra_tensor" if side == "candidate" else "missing_tensor"
                yield Finding(code=code, where=tap, message=f"the {side} has this tap, which the case does not leave")


def _damage(taps: Mapping[str, SketchDiff], flow: Dataflow) -> Iterable[Finding]:
    """Findings of single taps; NaN and infinities only where nothing upstream has any, since they spread."""
    spoiled: set[str] = set()
    for tap, diff in taps.items():
        broken = any(finding.code in _NON_FINITE for finding in diff.findings)
        inherited = broken and any(name in spoiled for name in flow.inputs_of(tap))
        if broken:
            spoiled.add(tap)
        if not inherited:
            yield from diff.findings


def swapped_passes(
    reference: Mapping[str, TapSketch], candidate: Mapping[str, TapSketch], flow: Dataflow
) -> tuple[Finding, ...]:
    """Name each guidance pass of the candidate that holds another pass's prediction, once, at the first such step."""
    found: dict[tuple[str, str], list[int]] = {}
    for step in range(flow.steps):
        passes = flow.passes_of(step)
        for name in passes:
            twin = _twin(reference, candidate, step, name, passes, flow)
            if twin is not None:
                found.setdefault((name, twin), []).append(step)
    return tuple(
        Finding(
            code="swapped_pass",
            where=f"denoise/{steps[0]:03d}/{name}",
            message=f"the candidate's {PASS_WORDS[name]} holds what the reference's {PASS_WORDS[twin]} holds, "
            f"in {len(steps)} of {flow.steps} steps",
        )
        for (name, twin), steps in found.items()
    )


def _twin(
    reference: Mapping[str, TapSketch],
    candidate: Mapping[str, TapSketch],
    step: int,
    name: str,
    passes: Sequence[str],
    flow: Dataflow,
) -> str | None:
    """The pass of the reference that a pass of the candidate holds instead of its own, in both streams."""
    head = f"denoise/{step:03d}"
    last = f"block/{flow.num_blocks - 1:02d}"
    for tails in ([f"x0/{stream}" for stream in STREAMS], [f"{last}/{stream}/out" for stream in STREAMS]):
        taps = [{other: f"{head}/{other}/{tail}" for other in passes} for tail in tails]
        if all(one[name] in candidate and all(tap in reference for tap in one.values()) for one in taps):
            twins = {_held(reference, candidate[one[name]], name, one) for one in taps}
            return twins.pop() if len(twins) == 1 else None
    return None


def _held(reference: Mapping[str, TapSketch], sketch: TapSketch, name: str, taps: Mapping[str, str]) -> str | None:
    """The other pass that a sketch equals but for drift, and is much nearer to than to its own; None if it is none."""
    errors = {other: relative_l2(reference[tap], sketch).estimate for other, tap in taps.items()}
    own = errors.pop(name)
    nearest = min(errors, key=lambda other: _orderable(errors[other]), default=None)
    if nearest is None or not errors[nearest] <= SWAP_DRIFT:  # nan is no equality
        return None
    return nearest if errors[nearest] * SWAP_RATIO < own else None


def _orderable(error: float) -> float:
    return math.inf if math.isnan(error) else error


def drift_grids(errors: Mapping[str, float], flow: Dataflow) -> tuple[DriftGrid, ...]:
    """Spread the errors of all block taps over blocks, steps and passes."""
    grids = []
    for name in flow.passes:
        for stream in STREAMS:
            for part in BLOCK_PARTS:
                values = tuple(
                    tuple(
                        errors.get(f"{head}/{name}/block/{block:02d}/{stream}/{part}", math.nan)
                        for block in range(flow.num_blocks)
                    )
                    for head in flow.step_heads
                )
                if any(not math.isnan(value) for row in values for value in row):
                    grids.append(DriftGrid(guidance_pass=name, stream=stream, part=part, values=values))
    return tuple(grids)
