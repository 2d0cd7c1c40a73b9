"""What a pattern of roots usually means: from where a divergence starts to what to look at.

A tap is taken before the gate that adds it to its stream, so a wrong gate, or the residual sum, shows one tap later.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from parity.taps.dataflow import Dataflow
from parity.taps.name import Place

_OUTSIDE: Final = {
    "hidden": "tokens (padding side, length, template) or Gemma's layers and weights",
    "connector": "the text connector: projection, registers, mask, or the prompts batched instead of one by one",
    "image": "the picture's way in: H.264 round trip, resize and crop, or the video VAE's encoder",
    "init": "the noise: seed, its dtype, video drawn before audio; or how pictures enter the first latent",
    "x0": "the output head, or x0 = x - sigma v with each token's own sigma",
    "guided": "the guided combination: scales, its rescale, its dtype, the order of its operations",
    "latent": "the Euler step: sigmas, their dtype, or the pull of given tokens to their clean values",
    "frames": "the video VAE's decoder, its tiling, or the way to bytes",
    "mel": "the audio VAE's decoder or its latent statistics",
    "waveform": "the vocoder or its bandwidth extension, and the dtype they run in",
}
_PART: Final = {
    "self_attn": "that stream's own rotary positions, its modulation, or queries' and keys' norm",
    "text_attn": "the text context's modulation, that attention's norms, or the gate of self-attention before it",
    "av_attn": "that direction's modulation rows, weights or rotary tables, or the gate of text attention before it",
    "ff": "the feed-forward branch (activation, modulation), or the gate of cross-modal attention before it",
    "out": "the gate of the feed-forward branch, or the residual sum",
}


def likely_cause(places: Sequence[Place], flow: Dataflow) -> str:
    """What to look at, from all places at which a run first departs (at least one, in data-flow order)."""
    first = places[0]
    together = [place for place in places if (place.step, place.block) == (first.step, first.block)]
    if first.block is None:
        return _OUTSIDE[first.part]
    streams = {place.stream for place in together if place.part == first.part}
    passes = {place.guidance_pass for place in together}
    if first.part == "self_attn" and passes == {"perturbed"}:
        blocks = " and ".join(f"{sorted(flow.perturbed_blocks[stream])} for {stream}" for stream in ("video", "audio"))
        return f"which blocks are perturbed, and how (values in place of attention): the case asks for {blocks}"
    if passes == {"uncond"} and first.part == "text_attn":
        return "the negative prompt's context in that pass"
    if passes == {"isolated"}:
        return "what the isolated pass leaves out: both cross-modal attentions, in every block"
    # Where nothing crosses, a stream that departs by itself brought what both cross-modal attentions see.
    alone = {place.stream for place in together if place.guidance_pass == "isolated" and place.part in ("ff", "out")}
    if len(streams) == 2 and first.part == "av_attn" and len(alone) == 1:
        return (
            f"what {alone.pop()} brings there, which departs in the isolated pass too: the gate of its text attention"
        )
    if len(streams) == 2 and first.part == "av_attn":
        return (
            "what both cross-modal attentions share: rotary positions in time (their scale, per stream) or modulation"
        )
    if len(streams) == 2:
        return f"what both streams share there: {_PART[first.part].replace('that stream', 'each stream')}"
    later = "" if not first.step else f"only from step {first.step} on, so look at what changes between steps; "
    return later + _PART[first.part]


def passes_said(places: Iterable[Place], flow: Dataflow) -> str:
    """In which guidance passes, for a person; empty if there are none."""
    passes = dict.fromkeys(place.guidance_pass for place in places if place.guidance_pass)
    if not passes:
        return ""
    if len(passes) == len(flow.passes) > 1:
        return f"in all {len(passes)} passes"
    return f"in {len(passes)} of {len(flow.passes)} passes ({', '.join(str(name) for name in passes)})"
