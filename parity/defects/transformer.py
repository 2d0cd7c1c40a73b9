"""Defects inside the transformer: rotary tables, attention, modulation, branches of a block.

Axes: B sample, T token, C channel, H head.
"""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, Final

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from parity.defects.defect import BOTH, VIDEO, Defect, Reach, edits, replaces, together, wrapped
from parity.defects.variant import PICTURE, V2A_ON
from runners.ltx23 import transformer
from runners.ltx23.attention import Attention
from runners.ltx23.block import (
    FEED_FORWARD_ROWS,
    AudioVideoBlock,
    BlockSkips,
    StreamBranches,
    StreamModulation,
)
from runners.ltx23.latents import AUDIO_LATENT_HOPS
from runners.ltx23.stages import denoising
from runners.ltx23.timestep import ShiftScaleGate
from runners.ltx23.transformer import ModalityInput, Transformer
from runners.native.runner import NativeRunner

Original = Callable[..., Any]
FIRST: Final = "denoise/000/cond/block/00"
VIDEO_ROTARY: Final = ("denoise/000/cond/rotary/video/own",)


def _block(model: Transformer, index: int) -> AudioVideoBlock:
    block = model.transformer_blocks[index]
    assert isinstance(block, AudioVideoBlock)
    return block


def _per_head(attention: Attention) -> Callable[..., Tensor]:
    def normed(norm: Any, inputs: Any, _: Tensor) -> Tensor:
        heads = rearrange(inputs[0], "b t (h d) -> b t h d", h=attention.heads)
        flat = rearrange(F.rms_norm(heads, heads.shape[-1:], eps=norm.eps), "b t h d -> b t (h d)")
        weighted: Tensor = flat * norm.weight
        return weighted

    return normed


def _is_unevenly_noisy(model: Any, own: ModalityInput, **_: Any) -> bool:
    return bool((own.timesteps != own.sigma).any())


def _autocast_entered(original: Original, runner: NativeRunner, case: Any) -> Any:
    config = replace(original(runner, case), disable_autocast=False)
    object.__setattr__(config, "dtype", torch.float32)  # which the configuration itself would refuse
    return config


def _without_warnings(_: Reach) -> AbstractContextManager[Any]:
    """PyTorch remarks on mixed dtypes under autocast; they are what is tried here."""
    return warnings.catch_warnings(action="ignore")


@replaces(transformer, "rotary_table", f"{FIRST}/*/self_attn", isolated_at=VIDEO_ROTARY, shows_in=BOTH)
def rotary_interleaved(original: Original, positions: Tensor, *, config: Any, **options: Any) -> Any:
    """Neighbouring channels are paired instead of halves of a head."""
    return original(positions, config=replace(config, kind="interleaved"), **options)


@replaces(transformer, "rotary_table", f"{FIRST}/*/self_attn", isolated_at=VIDEO_ROTARY)
def rotary_frequencies_float32(original: Original, positions: Tensor, *, config: Any, **options: Any) -> Any:
    """Frequencies are built in float32 instead of float64."""
    return original(positions, config=replace(config, precision="float32"), **options)


@replaces(
    Transformer,
    "_stream_rotary",
    f"{FIRST}/*/av_attn",
    isolated_at=("denoise/000/cond/rotary/audio/cross",),
    when=lambda model, stream, positions, dtype: positions.shape[1] == 1,
)
def rotary_audio_scale_dropped(
    original: Original, model: Any, stream: Any, positions: Tensor, dtype: torch.dtype
) -> Any:
    """Audio's scale factor does not reach its positions in the cross-modal attention."""
    unscaled = original(model, stream, positions / AUDIO_LATENT_HOPS, dtype)  # from latent to mel frames
    return replace(original(model, stream, positions, dtype), cross=unscaled.cross)


@replaces(transformer, "middle_of_cells", f"{FIRST}/*/self_attn", isolated_at=VIDEO_ROTARY)
def rotary_at_cell_starts(original: Original, positions: Any) -> Any:
    """Positions are the starts of cells instead of their middles."""
    return positions[..., 0]


@edits(Transformer, "denoise/000/cond/block/01/*", shows_in=BOTH)
def blocks_swapped(model: Transformer) -> None:
    """The weights of blocks 1 and 2 are exchanged."""
    blocks = list(model.transformer_blocks)
    blocks[1], blocks[2] = blocks[2], blocks[1]
    model.transformer_blocks = nn.ModuleList(blocks)


@edits(Transformer, f"{FIRST}/video/self_attn", component="attention")
def key_norm_eps_default(model: Transformer) -> None:
    """The RMS norm of video's keys has PyTorch's default epsilon for bfloat16."""
    for index in range(len(model.transformer_blocks)):
        _block(model, index).attn1.k_norm.eps = torch.finfo(torch.bfloat16).eps


@edits(Transformer, f"{FIRST}/video/self_attn", component="attention")
def queries_normed_per_head(model: Transformer) -> None:
    """Video's queries are normalized head by head instead of over the full width."""
    for index in range(len(model.transformer_blocks)):
        attention = _block(model, index).attn1
        attention.q_norm.register_forward_hook(_per_head(attention))


@edits(Transformer, f"{FIRST}/video/text_attn", component="attention", shows_in=VIDEO)
def keys_and_values_exchanged(model: Transformer) -> None:
    """Key and value projections of video's text attention are exchanged."""
    for index in range(len(model.transformer_blocks)):
        attention = _block(model, index).attn2
        attention.to_k, attention.to_v = attention.to_v, attention.to_k


@edits(Transformer, "denoise/000/cond/block/01/video/self_attn", component="attention")
def one_head_gated_off(model: Transformer) -> None:
    """The gate of one head of block 1 is closed."""
    logits = _block(model, 1).attn1.to_gate_logits
    assert logits is not None
    logits.weight[0], logits.bias[0] = 0.0, -100.0


@edits(Transformer, f"{FIRST}/video/text_attn", component="attention")
def text_gates_halved(model: Transformer) -> None:
    """Gates of video's text attention miss their factor of two."""
    for index in range(len(model.transformer_blocks)):
        _block(model, index).attn2.to_out.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 0.5,))


@edits(Transformer, "denoise/000/cond/block/*/audio/ff", component="feed_forward")
def one_linear_scaled(model: Transformer) -> None:
    """One linear layer of audio's last feed-forward is scaled by 1.01."""
    last = _block(model, len(model.transformer_blocks) - 1).audio_ff.net[2]
    assert isinstance(last, nn.Linear)
    last.weight.mul_(1.01)


@edits(Transformer, f"{FIRST}/video/ff", component="feed_forward")
def gelu_exact(model: Transformer) -> None:
    """Video's feed-forward has the exact GELU instead of its tanh approximation."""
    for index in range(len(model.transformer_blocks)):
        widen: Any = _block(model, index).ff.net[0]
        widen.register_forward_hook(lambda module, inputs, _: F.gelu(module.proj(inputs[0])))


@replaces(
    StreamBranches, "modulation", f"{FIRST}/*/ff", shows_in=BOTH, when=lambda branches, rows: rows == FEED_FORWARD_ROWS
)
def feed_forward_rows_exchanged(original: Original, branches: StreamBranches, rows: slice) -> ShiftScaleGate:
    """Scale and shift of the feed-forward are exchanged."""
    mod: ShiftScaleGate = original(branches, rows)
    return mod._replace(shift=mod.scale, scale=mod.shift)


@replaces(StreamBranches, "attend_to_text", f"{FIRST}/*/text_attn")
def prompt_not_modulated(original: Original, branches: StreamBranches, x: Tensor) -> Any:
    """The text context is not modulated by the noise level."""
    modulation = replace(branches.at.modulation, prompt=torch.zeros_like(branches.at.modulation.prompt))
    plain = replace(branches.at, modulation=modulation)
    return original(replace(branches, at=plain, prompt_table=torch.zeros_like(branches.prompt_table)), x)


@replaces(
    AudioVideoBlock,
    "_attend_to_each_other",
    f"{FIRST}/audio/av_attn",
    variant=V2A_ON,
    when=lambda block, video, audio, of_video, of_audio, skips: not (skips.a2v or skips.v2a),
)
def v2a_sees_a2v(
    original: Original, block: Any, video: Tensor, audio: Tensor, of_video: Any, of_audio: Any, skips: BlockSkips
) -> Any:
    """Audio looks at video after video has looked at audio, instead of before."""
    video, _ = original(block, video, audio, of_video, of_audio, replace(skips, v2a=True))
    _, audio = original(block, video, audio, of_video, of_audio, replace(skips, a2v=True))
    return video, audio


@edits(Transformer, f"{FIRST}/*", isolated_at=("denoise/000/cond/modulation/*/cross_gate",))
def cross_gate_level_unscaled(model: Transformer) -> None:
    """Gates of the cross-modal attention see sigma instead of 1000 sigma."""
    model.config = replace(model.config, cross_gate_timestep_scale=1.0)


@replaces(denoising, "modality_at", f"{FIRST}/*", isolated_at=("denoise/000/cond/modulation/video/*",), variant=PICTURE)
def given_tokens_told_sigma(original: Original, state: Any, *rest: Any) -> Any:
    """Tokens of the picture are told the step's noise level although they carry none."""
    return original(replace(state, denoise_mask=torch.ones_like(state.denoise_mask)), *rest)


@replaces(StreamBranches, "attend_to_text", f"{FIRST}/*/text_attn")
def rope_in_text_attention(original: Original, branches: StreamBranches, x: Tensor) -> Any:
    """Queries of the text attention are rotated by their positions."""
    rotated: Any = partial(branches.text_attention, query_rotary=branches.at.rotary.own)
    rotated.keys_values = branches.text_attention.keys_values
    return original(replace(branches, text_attention=rotated), x)


@replaces(
    Transformer,
    "_stream_modulation",
    f"{FIRST}/video/*",
    isolated_at=("denoise/000/cond/modulation/video/cross_gate",),
    variant=PICTURE,
    when=_is_unevenly_noisy,
)
def cross_gate_uses_other_sigma(
    original: Original, model: Transformer, own: ModalityInput, **options: Any
) -> StreamModulation:
    """Gates of what a stream takes from the other follow its own tokens' noise, not the other's sigma."""
    made: StreamModulation = original(model, own, **options)
    levels = own.timesteps * model.config.cross_gate_timestep_scale
    gate, _ = options["cross_gate"](levels, own.latent.shape[0], own.latent.dtype)
    return replace(made, cross_gate=gate)


@replaces(Transformer, "_velocity", "denoise/000/cond/x0/*")
def head_rows_exchanged(original: Original, model: Any, x: Any, embedding: Any, table: Any, *rest: Any) -> Any:
    """Scale and shift in the tables of the output heads are exchanged."""
    return original(model, x, embedding, table.flip(0), *rest)


@replaces(
    transformer,
    "denoised_of_velocity",
    "denoise/000/cond/x0/video",
    variant=PICTURE,
    when=lambda latent, velocity, levels: bool((levels != levels[:, :1]).any()),
)
def picture_tokens_use_step_sigma(original: Original, latent: Any, velocity: Any, levels: Any) -> Any:
    """Tokens of the picture are denoised with the step's sigma although they carry no noise."""
    return original(latent, velocity, levels.amax(dim=1, keepdim=True))


autocast_entered = Defect(
    id="autocast_entered",
    component="pipeline_config",
    description="the weights stay in float32, and denoising and decoding run under autocast to bfloat16",
    first_taps=("text/pos/hidden", "init/video", f"{FIRST}/*"),
    apply=together(wrapped(NativeRunner, "pipeline_config", _autocast_entered), _without_warnings),
    alone=False,
)
