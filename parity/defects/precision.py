"""Defects of precision: what is rounded to a narrow type where the reference does not round so far.

Axes: B sample, T token, S key token, H head, D channel of a head.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from parity.defects.defect import Apply, Defect, Reach, edits, replaces
from runners.ltx23 import attention, timestep
from runners.ltx23.stages import denoising
from runners.ltx23.transformer import Transformer

Original = Callable[..., Any]
FIRST: Final = "denoise/000/cond/block/00"
INT8_MAX: Final = 127.0
FP8: Final = torch.float8_e4m3fn
FP8_MAX: Final = 448.0


def _narrow_scores(largest: float, narrow: Callable[[Tensor], Tensor]) -> Apply:
    """The transformer's queries and keys in a narrow type, one scale a tensor, their products summed in float32."""

    def apply(reach: Reach) -> AbstractContextManager[Any]:
        def attend(queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None = None) -> Tensor:
            if attn_mask is not None:  # of a connector
                return F.scaled_dot_product_attention(queries, keys, values, attn_mask=attn_mask)
            reach.hit()
            query_step, key_step = (float(x.abs().max()) / largest for x in (queries, keys))
            queries = narrow(queries.float() / query_step).to(queries.dtype)  # bfloat16 holds these exactly
            keys = narrow(keys.float() / key_step).to(keys.dtype)
            scale = query_step * key_step / math.sqrt(queries.shape[-1])
            return F.scaled_dot_product_attention(queries, keys, values, scale=scale)

        return patch.object(attention, "F", SimpleNamespace(scaled_dot_product_attention=attend))

    return apply


@replaces(
    timestep,
    "sinusoidal_embedding",
    # The first level is within an ULP of 1000, which bfloat16 has: what lies beyond noise begins at the second.
    "denoise/00[01]/cond/block/00/*",
    isolated_at=("denoise/00[01]/cond/modulation/*",),
)
def timesteps_bf16(original: Original, levels: Any) -> Any:
    """Noise levels are rounded to bfloat16 before they become sines and cosines."""
    return original(levels.bfloat16())


@replaces(denoising, "euler_step", "denoise/000/latent/*")
def euler_step_bf16(_: Original, latent: Tensor, x0: Tensor, sigma: float, sigma_change: float) -> Tensor:
    """The Euler step is computed in bfloat16 throughout."""
    return latent + (latent - x0) / sigma * sigma_change


int8_attention_scores = Defect(
    id="int8_attention_scores",
    component="attention",
    description="queries and keys are rounded to 8-bit integers, one scale a tensor",
    first_taps=(f"{FIRST}/*/self_attn",),
    isolated_at=(f"{FIRST}/*/self_attn/sdpa",),
    apply=_narrow_scores(INT8_MAX, torch.round),
)


fp8_attention_scores = Defect(
    id="fp8_attention_scores",
    component="attention",
    description="queries and keys are rounded to 8-bit floats (e4m3), one scale a tensor",
    first_taps=(f"{FIRST}/*/self_attn",),
    isolated_at=(f"{FIRST}/*/self_attn/sdpa",),
    apply=_narrow_scores(FP8_MAX, lambda x: x.to(FP8).float()),
)


@edits(Transformer, f"{FIRST}/*/self_attn", component="block")
def fp8_cast_weights(model: Transformer) -> None:
    """Weights of the blocks' linear layers are cast to 8-bit floats (e4m3) without a scale."""
    for module in model.transformer_blocks.modules():
        if isinstance(module, nn.Linear):
            module.weight.copy_(module.weight.to(FP8))
