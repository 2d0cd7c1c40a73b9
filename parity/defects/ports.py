"""Defects that ports of the model were found to have, beside those that limits are measured with.

`parity identify` names them (`parity.identify.port_defects`). They stand in no catalogue, so no limit rests on them.

Axes: B sample, C channel, H row, W column, T token, S text token, M mel bin, F frequency.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from parity.defects.decoding import WAVEFORM_TAP
from parity.defects.defect import Defect, edits, replaces, together, wrapped
from parity.defects.pictures import PICTURE_READ
from runners.ltx23 import bandwidth_extension, connectors, image, pipeline, rotary, transformer
from runners.ltx23.antialiased_activation import RATIO, TAPS, Doubling, Halving
from runners.ltx23.attention import Attention
from runners.ltx23.bandwidth_extension import ExtendedVocoder
from runners.ltx23.connectors import Connector
from runners.ltx23.gemma import GemmaEncoder
from runners.ltx23.latents import AUDIO_CHANNELS, LatentState
from runners.ltx23.rotary import InterleavedRotary, Rotary, SplitRotary
from runners.ltx23.stages import latent_preparation
from runners.ltx23.stages.denoising import DenoisingStage
from runners.ltx23.transformer import Transformer
from runners.ltx23.transformer_config import RotaryConfig

Original = Callable[..., Any]
SELF_ATTENTION: Final = "denoise/000/cond/block/00/*/self_attn"
NORM_EPS: Final = 1e-5


@contextmanager
def bf16_by_default() -> Iterator[None]:
    """The state in which an engine builds a model whose weights are bfloat16."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@replaces(bandwidth_extension, "resampling_filter", WAVEFORM_TAP)
def resampling_filter_bf16(original: Original, ratio: int) -> Any:
    """The filter that resamples the vocoder's waveform is computed in bfloat16."""
    with bf16_by_default():
        return original(ratio)


@edits(ExtendedVocoder, WAVEFORM_TAP, component="antialiased_activation")
def antialias_filters_bf16(vocoder: ExtendedVocoder) -> None:
    """The low-pass filters of the vocoder's activations are computed in bfloat16 instead of loaded."""
    taps = _kaiser_sinc_bf16()
    for module in vocoder.modules():
        if isinstance(module, Doubling | Halving):
            module.filter.copy_(taps)


def _kaiser_sinc_bf16() -> Tensor:
    """(1, 1, TAPS): the filter of `antialiased_activation.kaiser_sinc_taps`, every step of it in bfloat16."""
    cutoff, half_width = 0.5 / RATIO, 0.6 / RATIO
    attenuation_db = 2.285 * (TAPS // 2 - 1) * math.pi * (4 * half_width) + 7.95
    with bf16_by_default(), torch.device("cpu"):
        window = torch.kaiser_window(TAPS, beta=0.1102 * (attenuation_db - 8.7), periodic=False)
        phase = 2 * cutoff * (torch.arange(-(TAPS // 2), TAPS // 2) + 0.5)
        taps = 2 * cutoff * window * (torch.sin(math.pi * phase) / math.pi / phase)
        return (taps / taps.sum()).view(1, 1, TAPS)


@replaces(rotary, "frequency_grid", "connector/pos/*", SELF_ATTENTION)
def rotary_grid_bf16(_: Original, config: RotaryConfig, count: int) -> Tensor:
    """Rotary frequencies are computed in bfloat16."""
    exponents = torch.linspace(0.0, 1.0, count, dtype=torch.bfloat16, device="cpu")
    return (config.theta**exponents * math.pi / 2).float()


@replaces(rotary, "frequency_grid", "connector/pos/*", SELF_ATTENTION)
def rotary_grid_fp32(original: Original, config: RotaryConfig, count: int) -> Any:
    """Rotary frequencies are computed in float32 instead of float64."""
    return original(replace(config, precision="float32"), count)


def _in_fp32(original: Original, *args: Any, **options: Any) -> Any:
    return original(*args, **{**options, "dtype": torch.float32})


def _rotated_in_fp32(original: Original, table: Rotary, x: Tensor) -> Tensor:
    rotated: Tensor = original(table, x.float())
    return rotated.to(x.dtype)


def _is_fp32(table: Rotary, _: Tensor) -> bool:
    return table.cos.dtype == torch.float32


rotary_applied_fp32 = Defect(
    id="rotary_applied_fp32",
    component="rotary",
    description="rotary tables are kept in float32, and turn queries and keys in float32",
    first_taps=("connector/pos/*", SELF_ATTENTION),
    apply=together(
        wrapped(connectors, "rotary_table", _in_fp32),
        wrapped(transformer, "rotary_table", _in_fp32),
        *(wrapped(kind, "rotate", _rotated_in_fp32, when=_is_fp32) for kind in (SplitRotary, InterleavedRotary)),
    ),
)


@replaces(pipeline, "load_gemma", "text/pos/hidden", component="gemma")
def text_encoder_fp32(original: Original, *source: Any) -> GemmaEncoder:
    """The language model runs in float32, its hidden states are rounded behind it."""
    *rest, dtype = source
    encoder: GemmaEncoder = original(*rest, torch.float32)
    encode = encoder.together

    def rounded(prompts: list[str]) -> list[tuple[tuple[Tensor, ...], Tensor]]:
        return [(tuple(state.to(dtype) for state in states), mask) for states, mask in encode(prompts)]

    encoder.together = rounded  # type: ignore[method-assign]
    return encoder


@replaces(Connector, "replace_padding", "connector/pos/*")
def connector_registers_left_out(_: Original, connector: Connector, features: Tensor, is_real: Tensor) -> Tensor:
    """No registers stand behind the real tokens, but zeros."""
    real = features[:, is_real]
    return F.pad(real, (0, 0, 0, features.shape[1] - real.shape[1]))


@replaces(Connector, "replace_padding", "connector/pos/*")
def connector_tokens_not_moved(_: Original, connector: Connector, features: Tensor, is_real: Tensor) -> Tensor:
    """Registers stand where the padding was, before the real tokens instead of behind them."""
    registers = connector.learnable_registers
    tiled = registers.tile(features.shape[1] // registers.shape[0], 1)
    return torch.where(is_real[None, :, None], features, tiled)


@replaces(latent_preparation, "with_noise", "init/*")
def noise_by_channel_of_grid(original: Original, state: LatentState, *rest: Any) -> Any:
    """Noise is drawn in the layout of the latent, channels first, instead of token by token."""
    draw = torch.randn
    is_audio = state.positions.shape[1] == 1

    def drawn(shape: torch.Size, **how: Any) -> Tensor:
        batch, tokens, width = shape
        channels = AUDIO_CHANNELS if is_audio else width
        noise = draw((batch, channels, tokens, width // channels), **how)
        return rearrange(noise, "b c t m -> b t (c m)").contiguous()

    with patch.object(torch, "randn", drawn):
        return original(state, *rest)


@replaces(image, "fill_and_crop", "image/0/latent", isolated_at=PICTURE_READ)
def picture_cropped_before_scaling(_: Original, picture: Tensor, height: int, width: int) -> Tensor:
    """The picture is cropped to the clip's aspect before it is scaled, instead of after."""
    rows, columns, _channels = picture.shape
    top = max(0, round((rows - columns * height / width) / 2))
    left = max(0, round((columns - rows * width / height) / 2))
    cropped = rearrange(picture[top : rows - top, left : columns - left], "h w c -> 1 c h w")
    scaled = F.interpolate(cropped, (height, width), mode="bilinear", align_corners=False)
    return rearrange(scaled, "f c h w -> 1 c f h w")


@replaces(image, "fill_and_crop", "image/0/latent", isolated_at=PICTURE_READ)
def picture_stretched_by_lanczos(_: Original, picture: Tensor, height: int, width: int) -> Tensor:
    """The picture is stretched to the clip, as bytes and by Pillow's Lanczos filter."""
    pixels = Image.fromarray(picture.to(torch.uint8).cpu().numpy())
    resized = np.array(pixels.resize((width, height), Image.Resampling.LANCZOS))
    return rearrange(torch.tensor(resized, dtype=picture.dtype, device=picture.device), "h w c -> 1 c 1 h w")


def _with_eps(model: Transformer, eps: float) -> None:
    for module in model.modules():
        if isinstance(module, Attention):
            module.q_norm.eps = module.k_norm.eps = eps


@edits(Transformer, SELF_ATTENTION, component="attention")
def query_key_norm_eps_1e5(model: Transformer) -> None:
    """The RMS norms of queries and keys have an epsilon of 1e-5."""
    _with_eps(model, NORM_EPS)


@edits(Transformer, SELF_ATTENTION, component="attention")
def query_key_norm_eps_default(model: Transformer) -> None:
    """The RMS norms of queries and keys have PyTorch's default epsilon for bfloat16."""
    _with_eps(model, torch.finfo(torch.bfloat16).eps)


@replaces(DenoisingStage, "_pass", "denoise/000/cond/block/00/audio/*")
def v2a_off_in_every_pass(original: Original, *call: Any, disable_v2a_cross_attn: bool) -> Any:
    """Audio never looks at video."""
    return original(*call, disable_v2a_cross_attn=True)


@replaces(DenoisingStage, "_pass", "denoise/000/cond/block/00/audio/*")
def v2a_on_in_every_pass(original: Original, *call: Any, disable_v2a_cross_attn: bool) -> Any:
    """Audio looks at video although the case switches it off."""
    return original(*call, disable_v2a_cross_attn=False)


@replaces(DenoisingStage, "step_at", SELF_ATTENTION)
def first_sigma_rounded(
    original: Original, stage: Any, index: int, batch: Any, video: Any, audio: Any, sigma: Tensor, *rest: Any
) -> Any:
    """The first noise level is 1 instead of an ULP or two below."""
    return original(stage, index, batch, video, audio, torch.ones_like(sigma) if index == 0 else sigma, *rest)
