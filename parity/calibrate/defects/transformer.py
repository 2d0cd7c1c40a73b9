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

from parity.calibrate.defects.defect import BOTH, SUBTLE, VIDEO, Defect, Reach, edited, together, wrapped
from parity.calibrate.defects.variant import PICTURE, V2A_ON
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


def _rotary_config(**changes: Any) -> Callable[..., Any]:
    return lambda original, positions, **options: original(
        positions, **{**options, "config": replace(options["config"], **changes)}
    )


def _audio_scale_dropped(original: Original, model: Any, stream: Any, positions: Tensor, dtype: torch.dtype) -> Any:
    """Cross-modal positions of audio that miss the factor from latent to mel frames."""
    unscaled = original(model, stream, positions / AUDIO_LATENT_HOPS, dtype)
    return replace(original(model, stream, positions, dtype), cross=unscaled.cross)


def _swap_blocks(model: Transformer) -> None:
    blocks = list(model.transformer_blocks)
    blocks[1], blocks[2] = blocks[2], blocks[1]
    model.transformer_blocks = nn.ModuleList(blocks)


def _block(model: Transformer, index: int) -> AudioVideoBlock:
    block = model.transformer_blocks[index]
    assert isinstance(block, AudioVideoBlock)
    return block


def _default_key_eps(model: Transformer) -> None:
    for index in range(len(model.transformer_blocks)):
        _block(model, index).attn1.k_norm.eps = torch.finfo(torch.bfloat16).eps


def _close_one_head(model: Transformer) -> None:
    logits = _block(model, 1).attn1.to_gate_logits
    assert logits is not None
    logits.weight[0], logits.bias[0] = 0.0, -100.0


def _halve_gates(model: Transformer) -> None:
    for index in range(len(model.transformer_blocks)):
        _block(model, index).attn2.to_out.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 0.5,))


def _scale_one_linear(model: Transformer) -> None:
    last = _block(model, len(model.transformer_blocks) - 1).audio_ff.net[2]
    assert isinstance(last, nn.Linear)
    last.weight.mul_(1.01)


def _exact_gelu(model: Transformer) -> None:
    for index in range(len(model.transformer_blocks)):
        widen: Any = _block(model, index).ff.net[0]
        widen.register_forward_hook(lambda module, inputs, _: F.gelu(module.proj(inputs[0])))


def _norm_queries_per_head(model: Transformer) -> None:
    for index in range(len(model.transformer_blocks)):
        attention = _block(model, index).attn1
        attention.q_norm.register_forward_hook(_per_head(attention))


def _per_head(attention: Attention) -> Callable[..., Tensor]:
    def normed(norm: Any, inputs: Any, _: Tensor) -> Tensor:
        heads = rearrange(inputs[0], "b t (h d) -> b t h d", h=attention.heads)
        flat = rearrange(F.rms_norm(heads, heads.shape[-1:], eps=norm.eps), "b t h d -> b t (h d)")
        weighted: Tensor = flat * norm.weight
        return weighted

    return normed


def _swap_text_projections(model: Transformer) -> None:
    for index in range(len(model.transformer_blocks)):
        attention = _block(model, index).attn2
        attention.to_k, attention.to_v = attention.to_v, attention.to_k


def _prompt_not_modulated(original: Original, branches: StreamBranches, x: Tensor) -> Any:
    modulation = replace(branches.at.modulation, prompt=torch.zeros_like(branches.at.modulation.prompt))
    plain = replace(branches.at, modulation=modulation)
    return original(replace(branches, at=plain, prompt_table=torch.zeros_like(branches.prompt_table)), x)


def _scale_and_shift_exchanged(original: Original, branches: StreamBranches, rows: slice) -> ShiftScaleGate:
    mod: ShiftScaleGate = original(branches, rows)
    return mod._replace(shift=mod.scale, scale=mod.shift)


def _rotated_queries(original: Original, branches: StreamBranches, x: Tensor) -> Any:
    rotated: Any = partial(branches.text_attention, query_rotary=branches.at.rotary.own)
    return original(replace(branches, text_attention=rotated), x)


def _v2a_sees_a2v(
    original: Original, block: Any, video: Tensor, audio: Tensor, of_video: Any, of_audio: Any, skips: BlockSkips
) -> Any:
    video, _ = original(block, video, audio, of_video, of_audio, replace(skips, v2a=True))
    _, audio = original(block, video, audio, of_video, of_audio, replace(skips, a2v=True))
    return video, audio


def _unscaled_gate_level(model: Transformer) -> None:
    model.config = replace(model.config, cross_gate_timestep_scale=1.0)


def _gate_of_own_tokens(original: Original, model: Transformer, own: ModalityInput, **options: Any) -> StreamModulation:
    made: StreamModulation = original(model, own, **options)
    levels = own.timesteps * model.config.cross_gate_timestep_scale
    gate, _ = options["cross_gate"](levels, own.latent.shape[0], own.latent.dtype)
    return replace(made, cross_gate=gate)


def _is_unevenly_noisy(model: Any, own: ModalityInput, **_: Any) -> bool:
    return bool((own.timesteps != own.sigma).any())


def _every_token_at_sigma(original: Original, state: Any, *rest: Any) -> Any:
    return original(replace(state, denoise_mask=torch.ones_like(state.denoise_mask)), *rest)


def _autocast_entered(original: Original, runner: NativeRunner, case: Any) -> Any:
    config = replace(original(runner, case), disable_autocast=False)
    object.__setattr__(config, "dtype", torch.float32)  # which the configuration itself would refuse
    return config


def _without_warnings(_: Reach) -> AbstractContextManager[Any]:
    """PyTorch remarks on mixed dtypes under autocast; they are what is tried here."""
    return warnings.catch_warnings(action="ignore")


TRANSFORMER_DEFECTS: Final = (
    Defect(
        id="rotary_interleaved",
        component="rotary",
        description="neighbouring channels are paired instead of halves of a head",
        first_taps=(f"{FIRST}/*/self_attn",),
        isolated_at=("denoise/000/cond/rotary/video/own",),
        apply=wrapped(transformer, "rotary_table", _rotary_config(kind="interleaved")),
        shows_in=BOTH,
    ),
    Defect(
        id="rotary_frequencies_float32",
        component="rotary",
        description="frequencies are built in float32 instead of float64",
        first_taps=(f"{FIRST}/*/self_attn",),
        isolated_at=("denoise/000/cond/rotary/video/own",),
        apply=wrapped(transformer, "rotary_table", _rotary_config(precision="float32")),
        shows_in=SUBTLE,
    ),
    Defect(
        id="rotary_audio_scale_dropped",
        component="transformer",
        description="audio's scale factor does not reach its positions in the cross-modal attention",
        first_taps=(f"{FIRST}/*/av_attn",),
        isolated_at=("denoise/000/cond/rotary/audio/cross",),
        apply=wrapped(
            Transformer,
            "_stream_rotary",
            _audio_scale_dropped,
            when=lambda model, stream, positions, dtype: positions.shape[1] == 1,
        ),
        shows_in=SUBTLE,
    ),
    Defect(
        id="rotary_at_cell_starts",
        component="rotary",
        description="positions are the starts of cells instead of their middles",
        first_taps=(f"{FIRST}/*/self_attn",),
        isolated_at=("denoise/000/cond/rotary/video/own",),
        apply=wrapped(transformer, "middle_of_cells", lambda original, positions: positions[..., 0]),
        shows_in=SUBTLE,
    ),
    Defect(
        id="blocks_swapped",
        component="transformer",
        description="the weights of blocks 1 and 2 are exchanged",
        first_taps=("denoise/000/cond/block/01/*",),
        apply=edited(Transformer, _swap_blocks),
        shows_in=BOTH,
    ),
    Defect(
        id="key_norm_eps_default",
        component="attention",
        description="the RMS norm of video's keys has PyTorch's default epsilon for bfloat16",
        first_taps=(f"{FIRST}/video/self_attn",),
        apply=edited(Transformer, _default_key_eps),
        shows_in=SUBTLE,
    ),
    Defect(
        id="queries_normed_per_head",
        component="attention",
        description="video's queries are normalized head by head instead of over the full width",
        first_taps=(f"{FIRST}/video/self_attn",),
        apply=edited(Transformer, _norm_queries_per_head),
        shows_in=SUBTLE,
    ),
    Defect(
        id="keys_and_values_exchanged",
        component="attention",
        description="key and value projections of video's text attention are exchanged",
        first_taps=(f"{FIRST}/video/text_attn",),
        apply=edited(Transformer, _swap_text_projections),
        shows_in=VIDEO,
    ),
    Defect(
        id="one_head_gated_off",
        component="attention",
        description="the gate of one head of block 1 is closed",
        first_taps=("denoise/000/cond/block/01/video/self_attn",),
        apply=edited(Transformer, _close_one_head),
        shows_in=SUBTLE,
    ),
    Defect(
        id="text_gates_halved",
        component="attention",
        description="gates of video's text attention miss their factor of two",
        first_taps=(f"{FIRST}/video/text_attn",),
        apply=edited(Transformer, _halve_gates),
        shows_in=SUBTLE,
    ),
    Defect(
        id="one_linear_scaled",
        component="feed_forward",
        description="one linear layer of audio's last feed-forward is scaled by 1.01",
        first_taps=("denoise/000/cond/block/*/audio/ff",),
        apply=edited(Transformer, _scale_one_linear),
        shows_in=SUBTLE,
    ),
    Defect(
        id="gelu_exact",
        component="feed_forward",
        description="video's feed-forward has the exact GELU instead of its tanh approximation",
        first_taps=(f"{FIRST}/video/ff",),
        apply=edited(Transformer, _exact_gelu),
        shows_in=SUBTLE,
    ),
    Defect(
        id="feed_forward_rows_exchanged",
        component="block",
        description="scale and shift of the feed-forward are exchanged",
        first_taps=(f"{FIRST}/*/ff",),
        apply=wrapped(
            StreamBranches,
            "modulation",
            _scale_and_shift_exchanged,
            when=lambda branches, rows: rows == FEED_FORWARD_ROWS,
        ),
        shows_in=BOTH,
    ),
    Defect(
        id="prompt_not_modulated",
        component="block",
        description="the text context is not modulated by the noise level",
        first_taps=(f"{FIRST}/*/text_attn",),
        apply=wrapped(StreamBranches, "attend_to_text", _prompt_not_modulated),
        shows_in=SUBTLE,
    ),
    Defect(
        id="v2a_sees_a2v",
        component="block",
        description="audio looks at video after video has looked at audio, instead of before",
        first_taps=(f"{FIRST}/audio/av_attn",),
        apply=wrapped(
            AudioVideoBlock,
            "_attend_to_each_other",
            _v2a_sees_a2v,
            when=lambda block, video, audio, of_video, of_audio, skips: not (skips.a2v or skips.v2a),
        ),
        shows_in=SUBTLE,
        variant=V2A_ON,
    ),
    Defect(
        id="cross_gate_level_unscaled",
        component="transformer",
        description="gates of the cross-modal attention see sigma instead of 1000 sigma",
        first_taps=(f"{FIRST}/*",),
        isolated_at=("denoise/000/cond/modulation/*/cross_gate",),
        apply=edited(Transformer, _unscaled_gate_level),
        shows_in=SUBTLE,
    ),
    Defect(
        id="given_tokens_told_sigma",
        component="stages.denoising",
        description="tokens of the picture are told the step's noise level although they carry none",
        first_taps=(f"{FIRST}/*",),
        isolated_at=("denoise/000/cond/modulation/video/*",),
        apply=wrapped(denoising, "_modality", _every_token_at_sigma),
        shows_in=SUBTLE,
        variant=PICTURE,
    ),
    Defect(
        id="rope_in_text_attention",
        component="block",
        description="queries of the text attention are rotated by their positions",
        first_taps=(f"{FIRST}/*/text_attn",),
        apply=wrapped(StreamBranches, "attend_to_text", _rotated_queries),
        shows_in=SUBTLE,
    ),
    Defect(
        id="cross_gate_uses_other_sigma",
        component="transformer",
        description="gates of what a stream takes from the other follow its own tokens' noise, not the other's sigma",
        first_taps=(f"{FIRST}/video/*",),
        isolated_at=("denoise/000/cond/modulation/video/cross_gate",),
        apply=wrapped(Transformer, "_stream_modulation", _gate_of_own_tokens, when=_is_unevenly_noisy),
        shows_in=SUBTLE,
        variant=PICTURE,
    ),
    Defect(
        id="head_rows_exchanged",
        component="transformer",
        description="scale and shift in the tables of the output heads are exchanged",
        first_taps=("denoise/000/cond/x0/*",),
        apply=wrapped(
            Transformer,
            "_velocity",
            lambda original, model, x, embedding, table, *rest: original(model, x, embedding, table.flip(0), *rest),
        ),
        shows_in=SUBTLE,
    ),
    Defect(
        id="picture_tokens_use_step_sigma",
        component="transformer",
        description="tokens of the picture are denoised with the step's sigma although they carry no noise",
        first_taps=("denoise/000/cond/x0/video",),
        apply=wrapped(
            transformer,
            "denoised_of_velocity",
            lambda original, latent, velocity, levels: original(latent, velocity, levels.amax(dim=1, keepdim=True)),
            when=lambda latent, velocity, levels: bool((levels != levels[:, :1]).any()),
        ),
        shows_in=SUBTLE,
        variant=PICTURE,
    ),
    Defect(
        id="autocast_entered",
        component="pipeline_config",
        description="the weights stay in float32, and denoising and decoding run under autocast to bfloat16",
        first_taps=("text/pos/hidden", "init/video", f"{FIRST}/*"),
        apply=together(wrapped(NativeRunner, "pipeline_config", _autocast_entered), _without_warnings),
        shows_in=SUBTLE,
        alone=False,
    ),
)
