"""Hints from the pattern of first departures: from where a divergence starts to what to look at.

A tap is taken before the gate that adds it to its stream, so a wrong gate, or the residual sum, shows one tap later.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from parity.taps.name import Place

Kind = Literal[
    "part",  # what computes that part, in the stream or outside the blocks
    "perturbation",  # which blocks are perturbed, and how
    "negative_prompt",  # its context in that pass
    "isolated_pass",  # what it leaves out
    "brought",  # what `stream` brings to both cross-modal attentions
    "cross_modal",  # what both cross-modal attentions share
    "both_streams",  # what both streams share in that part
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
