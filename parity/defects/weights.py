"""Defects of a run's weights and of the sampler `res_2s`: LoRAs, layers kept as e4m3, midpoints, noise.

Axes: B sample, T token, C channel, O output channel, I input channel, R rank.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from parity.defects.defect import BOTH, VIDEO, edits, replaces
from parity.defects.variant import FP8_CAST, LORA, TWO_LORAS, TWO_STAGE_HQ
from runners.ltx23 import lora, res_2s
from runners.ltx23.fp8_cast import FP8, UpcastLinear
from runners.ltx23.lora import Factors, FusedWeights
from runners.ltx23.stages import image_conditioning, upsampling
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.image_conditioning import ImageConditioningStage
from runners.ltx23.transformer import Transformer
from runners.stages import ENLARGEMENT

Original = Callable[..., Any]
FIRST: Final = "denoise/000/cond/block/00"
FP8_MAX: Final = 448.0


def _first(_stage: Any, batch: Batch, *_: Any) -> bool:
    return batch.stage == 0


@replaces(lora, "lora_delta", f"{FIRST}/*", variant=LORA, shows_in=BOTH)
def lora_at_full_strength(original: Original, factors: Sequence[Factors], *args: Any, **how: Any) -> Any:
    """A LoRA is fused at strength 1 whatever was asked for."""
    return original([replace(one, strength=1.0) for one in factors], *args, **how)


@replaces(FusedWeights, "_fused", f"{FIRST}/*", variant=TWO_LORAS, shows_in=BOTH)
def second_lora_ignored(
    original: Original, source: FusedWeights, name: Any, weight: Tensor, factors: Sequence[Factors]
) -> Any:
    """Of several LoRAs the first alone is fused."""
    return original(source, name, weight, factors[:1])


@replaces(FusedWeights, "_fused", f"{FIRST}/*", variant=LORA)
def lora_fused_in_fp32(
    original: Original, source: FusedWeights, name: Any, weight: Tensor, factors: Sequence[Factors]
) -> Any:
    """Factors are multiplied and added in fp32, and the sum alone is rounded."""
    wide = [replace(one, a=one.a.float(), b=one.b.float()) for one in factors]
    delta = lora.lora_delta(wide, torch.float32, accumulated=False)
    return (weight.float() + delta).to(weight.dtype)


@replaces(lora, "factor_keys", f"{FIRST}/video/self_attn", variant=LORA, shows_in=BOTH)
def lora_on_another_layer(original: Original, *args: Any) -> Any:
    """A LoRA's part for the queries' layer of video's self-attention goes to the keys', and the other way round."""
    keys = original(*args)
    query, key = ".attn1.to_q.weight", ".attn1.to_k.weight"
    other = {name: name.replace(query, key) if query in name else name.replace(key, query) for name in keys}
    return {name: keys[other[name]] for name in keys if other[name] in keys}


@replaces(res_2s, "weights_of", "denoise/001/latent/*", variant=TWO_STAGE_HQ, shows_in=BOTH, alone=False)
def res_2s_without_midpoint(_: Original, h: float) -> res_2s.StepWeights:
    """The prediction at a step's middle is left out, so that the step is of first order."""
    return res_2s.StepWeights(a=res_2s.MIDDLE * res_2s.phi(1, -h * res_2s.MIDDLE), b1=res_2s.phi(1, -h), b2=0.0)


@replaces(res_2s, "unit_noise", "denoise/00[01]/latent/*", variant=TWO_STAGE_HQ, shows_in=BOTH, alone=False)
def res_2s_noise_reused(original: Original, like: Any, generator: torch.Generator) -> Any:
    """The noise that middles and steps add is one and the same, drawn from the same seed every time."""
    return original(like, generator.manual_seed(res_2s.MIDDLE_SEED))


@replaces(upsampling, "upsample", "upsample/latent", variant=TWO_STAGE_HQ, shows_in=VIDEO, alone=False)
def upsampled_by_repetition(_: Original, latent: Tensor, _network: Any, _statistics: Any) -> Tensor:
    """The latent between the stages is enlarged by repeating its cells."""
    return latent.repeat_interleave(ENLARGEMENT, dim=-2).repeat_interleave(ENLARGEMENT, dim=-1)


@replaces(ImageConditioningStage, "forward", "image/*", variant=TWO_STAGE_HQ, shows_in=VIDEO, alone=False, when=_first)
def first_picture_of_second_size(original: Original, stage: Any, batch: Batch) -> Any:
    """The first stage's picture is fitted to the full size and then averaged down."""
    loader = vars(image_conditioning)["load_picture"]

    def averaged(path: Any, crf: int, height: int, width: int, *rest: Any) -> Tensor:
        large = loader(path, crf, height * ENLARGEMENT, width * ENLARGEMENT, *rest)
        return F.interpolate(large.float(), (1, height, width), mode="area").to(large.dtype)

    with patch.object(image_conditioning, "load_picture", averaged):
        return original(stage, batch)


@edits(Transformer, f"{FIRST}/*/self_attn", component="attention", variant=FP8_CAST)
def fp8_cast_of_norms(model: Transformer) -> None:
    """Weights of the queries' and keys' norms are cast to 8-bit floats (e4m3) like those of the layers before them."""
    for name, weight in model.named_parameters():
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            weight.copy_(weight.to(FP8))


@edits(Transformer, f"{FIRST}/*/self_attn", component="fp8_cast", variant=FP8_CAST)
def fp8_scale_per_tensor(model: Transformer) -> None:
    """Weights are cast with one scale for each row, and put back with one for the whole tensor."""
    for module in model.modules():
        if isinstance(module, UpcastLinear):
            exact = module.weight.float()  # (O, I)
            scale = exact.abs().max() / FP8_MAX
            row = exact.abs().amax(dim=1, keepdim=True) / FP8_MAX
            module.weight.copy_((exact / row).to(FP8).float().mul(scale).to(FP8))
