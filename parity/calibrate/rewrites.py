"""Harmless rewrites of the native model: same function, rounded in other places, as a faster implementation would.

Each computes something in float32 that the reference rounds to bfloat16 on the way, and rounds once at the end, or by
other operations in float32 where the reference does so. What they add to a stage or block that is fed the reference's
own inputs is the floor of isolated errors.

Axes: B sample, T token, H head, F frequency.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import combinations
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from parity.defects.defect import Apply, Reach, together, wrapped
from runners.errors import RunnerError
from runners.ltx23 import attention, block, connectors, gemma, loading, pipeline, transformer
from runners.ltx23.antialiased_activation import SnakeBeta
from runners.ltx23.audio_vae_layers import AudioPixelNorm
from runners.ltx23.rotary import SplitRotary
from runners.ltx23.stages import denoising
from runners.ltx23.timestep import AdaLayerNormSingle
from runners.ltx23.video_vae_resnet import PixelNorm

Original = Callable[..., Any]
_PRODUCTS: Final = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d)


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """One harmless rewrite."""

    id: str
    description: str
    apply: Apply


@contextmanager
def rewritten(rewrite: Rewrite) -> Iterator[None]:
    """Run with a rewrite in the model. Raises: RunnerError if it was never reached."""
    reach = Reach()
    with rewrite.apply(reach):
        yield
    if not reach.hits:
        raise RunnerError(f"The rewrite {rewrite.id!r} was never reached; mend it, it measured nothing.")


def _raised(original: Original, *args: Any, **options: Any) -> Any:
    """The same call on float32 tensors, its result rounded back to the dtype of the first tensor."""
    dtype = next(value.dtype for value in args if isinstance(value, Tensor))
    result: Tensor = original(*(_float(value) for value in args), **{name: _float(v) for name, v in options.items()})
    return result.to(dtype)


def _float(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _products(owner: object) -> Apply:
    """Every matrix product and convolution on float32 copies of its weights: sums in another order."""

    def apply(reach: Reach) -> AbstractContextManager[Any]:
        def changed(module: nn.Module, *args: Any) -> nn.Module:
            loaded = loading.load(module, *args)
            for part in loaded.modules():
                if isinstance(part, _PRODUCTS):
                    _raise_product(part)
                    reach.hit()
            return loaded

        return patch.object(owner, "load", changed)

    return apply


def _raise_product(part: nn.Module) -> None:
    called: list[tuple[ExitStack, torch.dtype]] = []

    def raised(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        weights = ExitStack()
        weights.enter_context(_in_float32(module))
        called.append((weights, inputs[0].dtype))
        return tuple(_float(value) for value in inputs)

    def lowered(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        weights, dtype = called.pop()
        weights.close()
        return output.to(dtype)

    part.register_forward_pre_hook(raised)
    part.register_forward_hook(lowered)


@contextmanager
def _in_float32(module: nn.Module) -> Iterator[None]:
    """Let a module have float32 copies of its weights, and after that its own again.

    Casting it forth and back would put its weights elsewhere, where a replayed graph of the step does not look.
    """
    own = [
        (part, name, weight)
        for part in module.modules()
        for name, weight in part.named_parameters(recurse=False)
        if weight.dtype != torch.float32
    ]
    for part, name, weight in own:
        setattr(part, name, nn.Parameter(weight.float(), requires_grad=False))
    try:
        yield
    finally:
        for part, name, weight in own:
            setattr(part, name, weight)


def _attention(reach: Reach) -> AbstractContextManager[Any]:
    """Softmax and both products of attention in float32."""

    def attend(queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        reach.hit()
        mask = None if attn_mask is None else attn_mask.float()
        attended = F.scaled_dot_product_attention(queries.float(), keys.float(), values.float(), attn_mask=mask)
        return attended.to(queries.dtype)

    return patch.object(attention, "F", SimpleNamespace(scaled_dot_product_attention=attend))


def _rotate(_: Original, table: SplitRotary, x: Tensor) -> Tensor:
    halves = rearrange(x.float(), "b t (h half f) -> half b h t f", h=table.cos.shape[1], half=2)
    cos, sin = table.cos.float(), table.sin.float()
    turned = torch.stack((halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin))
    return rearrange(turned, "half b h t f -> b t (h half f)").to(x.dtype)


def _combine(original: Original, parameters: Any, *passes: Tensor | None, in_fp32: bool) -> Tensor:
    guided: Tensor = original(parameters, *passes, in_fp32=True)
    return guided


def _euler(_: Original, latent: Tensor, x0: Tensor, sigma: float, sigma_change: float) -> Tensor:
    """In fp32 by other operations; the velocity is rounded where the reference rounds it, or it is another step."""
    velocity = ((latent.float() - x0.float()) * (1 / sigma)).to(latent.dtype)
    return torch.add(latent.float(), velocity.float(), alpha=sigma_change).to(latent.dtype)


def _noise_level(
    original: Original, module: AdaLayerNormSingle, levels: Tensor, batch: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    with _in_float32(module):
        rows, embedding = original(module, levels, batch, torch.float32)
    return rows.to(dtype), embedding.to(dtype)


PRODUCTS: Final = Rewrite(
    id="products",
    description="matrix products and convolutions summed in another order",
    apply=together(_products(pipeline), _products(gemma)),
)
ATTENTION: Final = Rewrite(id="attention", description="attention in float32", apply=_attention)
ELEMENTWISE: Final = Rewrite(
    id="elementwise",
    description="rotary, modulation, its noise levels, norms and activations fused: rounded once",
    apply=together(
        wrapped(SplitRotary, "rotate", _rotate),
        wrapped(block, "modulate", _raised),
        wrapped(transformer, "modulate", _raised),
        wrapped(AdaLayerNormSingle, "forward", _noise_level),
        wrapped(connectors, "rms_norm", _raised),
        wrapped(PixelNorm, "forward", lambda original, norm, x: original(norm, x.float()).to(x.dtype)),
        wrapped(AudioPixelNorm, "forward", lambda original, norm, x: original(norm, x.float()).to(x.dtype)),
        wrapped(SnakeBeta, "forward", lambda original, snake, x: original(snake, x.float()).to(x.dtype)),
    ),
)
STEPS: Final = Rewrite(
    id="steps",
    description="guidance rounded once, Euler step by other operations",
    apply=together(wrapped(denoising, "combine", _combine), wrapped(denoising, "euler_step", _euler)),
)
REWRITES: Final = (PRODUCTS, ATTENTION, ELEMENTWISE, STEPS)
ALL_AT_ONCE: Final = Rewrite(
    id="all_at_once",
    description="all rewrites together, as a fused implementation would have them",
    apply=together(*(rewrite.apply for rewrite in REWRITES)),
)


def pairs() -> Iterator[Rewrite]:
    """Every two rewrites at once."""
    for one, other in combinations(REWRITES, 2):
        yield Rewrite(
            id=f"{one.id}+{other.id}",
            description=f"{one.description}; {other.description}",
            apply=together(one.apply, other.apply),
        )
