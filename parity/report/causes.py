"""Causes in words: one sentence for each cause that `parity.explain.hints` tells apart."""

from typing import Final

from parity.explain.hints import Cause
from parity.taps.dataflow import Dataflow
from parity.taps.name import STREAMS

_OUTSIDE: Final = {
    "hidden": "tokens (padding side, length, template), Gemma's attention mask, its rotary embedding (RoPE, local and "
    "global), or its layers and weights",
    "connector": "the text connector: its rotary tables, attention kernel and mask, registers in place of padding, the "
    "projection before it, or the prompts batched instead of one by one",
    "image": "the picture's way in: H.264 round trip, resize and crop, or the video VAE's encoder",
    "init": "the noise: seed, its dtype, video drawn before audio; or how pictures enter the first latent",
    "upsample": "the spatial upsampler: the video VAE's statistics on either side of it, its blocks and norms, the "
    "order of its pixel shuffle",
    "x0": "the output head, or x0 = x - sigma v with each token's own sigma",
    "guided": "the guided combination: scales, its rescale, its dtype, the order of its operations",
    "latent": "the Euler step: sigmas, their dtype, or the pull of given tokens to their clean values",
    "frames": "the video VAE's decoder, its tiling, or the way to bytes",
    "mel": "the audio VAE's decoder or its latent statistics",
    "waveform": "the vocoder and its resampling filters, the order of its channels, its bandwidth extension, or the "
    "dtype that these run in",
}
_IN_BLOCK: Final = {
    "self_attn": "{whose} stream's own rotary positions, its modulation, queries' and keys' norm, or the attention "
    "kernel",
    "text_attn": "that attention's kernel and mask, rotary positions (it has none), its norms, the text context's "
    "modulation, or the gate of self-attention before it",
    "av_attn": "that direction's modulation rows, weights or rotary tables, or the gate of text attention before it",
    "ff": "the feed-forward branch (activation, modulation), or the gate of cross-modal attention before it",
    "out": "the gate of the feed-forward branch, or the residual sum",
}

_FIRST_BRANCH: Final = "self_attn"  # where a departure that all blocks share shows first
_PERHAPS_EVERY_BLOCK: Final = (
    "or the precision of weights, if every block departs (`parity isolate` tells: each adds about the same)"
)


def cause_words(cause: Cause, flow: Dataflow) -> str:
    """The cause, in words; `flow` says which blocks the case perturbs."""
    match cause.kind:
        case "perturbation":
            asked = " and ".join(f"{sorted(flow.perturbed_blocks[stream])} for {stream}" for stream in STREAMS)
            return f"which blocks are perturbed, and how (values in place of attention): the case asks for {asked}"
        case "negative_prompt":
            return "the negative prompt's context in that pass"
        case "isolated_pass":
            return "what the isolated pass leaves out: both cross-modal attentions, in every block"
        case "brought":
            return (
                f"what {cause.stream} brings there, which departs in the isolated pass too: the gate of its text "
                "attention"
            )
        case "cross_modal":
            return (
                "what both cross-modal attentions share: rotary positions in time (their scale, per stream) or "
                "modulation"
            )
        case "both_streams":
            shared = f"what both streams share there: {_IN_BLOCK[cause.part].format(whose='each')}"
            return f"{shared}; {_PERHAPS_EVERY_BLOCK}" if cause.part == _FIRST_BRANCH else shared
        case "every_block":
            return (
                "what all blocks share, since each adds about the same by itself: the precision that their weights are "
                f"kept in (quantized, cast), or {_IN_BLOCK[cause.part].format(whose='each')}"
            )
        case "every_kernel":
            return "the attention kernel, since attention alone adds about the same in every block"
        case "begun":
            return (
                "what the second stage begins with: its first noise level as the share of noise, which latents it "
                "takes up, the one generator going on, or how pictures enter it"
            )
        case "part":
            if cause.part in _OUTSIDE:
                return _OUTSIDE[cause.part]
            later = f"only from step {cause.since_step} on, so look at what changes between steps; "
            return (later if cause.since_step else "") + _IN_BLOCK[cause.part].format(whose="that")
