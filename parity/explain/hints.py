"""Hints from the pattern of first departures: from where a divergence starts to what to look at.

A tap is taken before the gate that adds it to its stream, so a wrong gate, or the residual sum, shows one tap later.
What all blocks share no free run shows, since every block but the first inherits it; isolated errors do.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from parity.taps.name import Place, is_tap, place_of

ALIKE: Final = 3.0  # how many times the least of the blocks' own errors the largest may be to be about the same
SDPA: Final = "/sdpa"  # ends the place of an isolation where attention is measured alone

Kind = Literal[
    "begun",  # what a second stage begins with
    "part",  # what computes that part, in the stream or outside the blocks
    "perturbation",  # which blocks are perturbed, and how
    "negative_prompt",  # its context in that pass
    "isolated_pass",  # what it leaves out
    "brought",  # what `stream` brings to both cross-modal attentions
    "cross_modal",  # what both cross-modal attentions share
    "both_streams",  # what both streams share in that part
    "every_block",  # what all blocks share, since each adds about the same by itself
    "every_kernel",  # the same of attention alone
]


@dataclass(frozen=True, kw_only=True)
class Cause:
    """The cause to look at. `part` is where the run departs; `since_step` is set where earlier steps do not depart."""

    kind: Kind
    part: str
    stream: str | None = None
    since_step: int | None = None


def likely_cause(places: Sequence[Place]) -> Cause:
    """The hint to follow, from all places at which a run first departs (at least one, in data-flow order)."""
    first = places[0]
    together = [place for place in places if (place.step, place.block) == (first.step, first.block)]
    if first.scope and first.part == "init":
        return Cause(kind="begun", part=first.part)
    if first.block is None:
        return Cause(kind="part", part=first.part)
    streams = {place.stream for place in together if place.part == first.part}
    passes = {place.guidance_pass for place in together}
    if first.part == "self_attn" and passes == {"perturbed"}:
        return Cause(kind="perturbation", part=first.part)
    if passes == {"uncond"} and first.part == "text_attn":
        return Cause(kind="negative_prompt", part=first.part)
    if passes == {"isolated"}:
        return Cause(kind="isolated_pass", part=first.part)
    if len(streams) == 2 and first.part == "av_attn":
        # Where nothing crosses, a stream that departs by itself brought what both cross-modal attentions see.
        own = {place.stream for place in together if place.guidance_pass == "isolated" and place.part in ("ff", "out")}
        return Cause(kind="brought" if len(own) == 1 else "cross_modal", part=first.part, stream=next(iter(own), None))
    if len(streams) == 2:
        return Cause(kind="both_streams", part=first.part)
    return Cause(kind="part", part=first.part, since_step=first.step or None)


def shared_by_blocks(origins: Iterable[str], added: Mapping[str, float]) -> Cause | None:
    """The cause that all blocks share, from an isolation; None where they do not depart alike, each by itself.

    Args:
        origins: its places where an error begins, in data-flow order.
        added: relative L2 that each of its places adds, fed the reference's own inputs.
    """
    began: dict[int, float] = {}  # block -> the largest error that begins in it
    parts: list[str] = []
    alone = False  # whether attention alone is wrong already
    for where in origins:
        tap = where.removesuffix(SDPA)
        at = place_of(tap) if is_tap(tap) else None
        if at is not None and at.block is not None and added.get(where, 0.0) > 0:  # nor nan
            began[at.block] = max(began.get(at.block, 0.0), added[where])
            parts.append(at.part)
            alone = alone or tap != where
    there = {place_of(where).block for where in added if is_tap(where)} - {None}
    if len(there) < 2 or there != began.keys() or not max(began.values()) <= ALIKE * min(began.values()):
        return None
    return Cause(kind="every_kernel" if alone else "every_block", part=parts[0])
