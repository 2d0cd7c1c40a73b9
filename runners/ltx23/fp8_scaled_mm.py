"""`fp8_scaled_mm`: layers of a pre-quantised checkpoint multiply e4m3 numbers, with a static scale for either side.

Which layers these are, the checkpoint says: those whose weight is e4m3 and has a `weight_scale` beside it. Inputs are
divided by the layer's `input_scale`, cut off at the largest e4m3 number and rounded; the product is scaled back and
rounded to the input's dtype, and then the bias is added.

Source: ltx_core.quantization.fp8_scaled_mm since 1.2.0 (repository commit 400fd31). Before that it needs the kernels of
TensorRT-LLM, which are not followed here.

Axes: B sample, T token, I input channel, O output channel.
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from runners.errors import CheckpointError
from runners.ltx23.fp8_cast import FP8
from runners.ltx23.loading import TRANSFORMER
from runners.model_files import TensorSource

SCALE: Final = "_scale"  # after the name of a weight, that of its scale
WEIGHT: Final = ".weight"
LARGEST: Final = torch.finfo(FP8).max


class ScaledLinear(nn.Linear):
    """A linear layer of e4m3 weights whose product is one of e4m3 numbers."""

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__(in_features, out_features, bias=bias, device="meta")
        self.weight = nn.Parameter(torch.empty(out_features, in_features, dtype=FP8, device="meta"), False)
        self.weight_scale = nn.Parameter(torch.empty((), device="meta"), False)  # fp32, as the next
        self.input_scale = nn.Parameter(torch.empty((), device="meta"), False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, I) to (B, T, O) in the dtype of `x`."""
        rounded = torch.clamp(x * self.input_scale.reciprocal(), -LARGEST, LARGEST).to(FP8)
        product = torch._scaled_mm(
            rounded.flatten(0, -2),
            self.weight.t(),
            scale_a=self.input_scale,
            scale_b=self.weight_scale,
            out_dtype=x.dtype,
            use_fast_accum=True,
        )
        if self.bias is not None:
            product = product + self.bias.to(product.dtype)
        return product.view(*x.shape[:-1], -1)


def scaled_layers(weights: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """The transformer's layers, by their modules' names, that have a scale. Raises: CheckpointError if none has."""
    end = WEIGHT + SCALE
    found = frozenset(
        name.removeprefix(TRANSFORMER).removesuffix(end)
        for name in weights
        if name.startswith(TRANSFORMER) and name.endswith(end)
    )
    if not found:
        raise CheckpointError(
            "fp8_scaled_mm wants a checkpoint that was quantised before, a scale beside each e4m3 weight, and this one "
            "has none. Take such a checkpoint, which `parity forge --quantization fp8_scaled_mm` makes, or fp8_cast."
        )
    return found


class ScaledWeights:
    """A checkpoint's tensors, those with a scale held to be e4m3; satisfies `runners.model_files.TensorSource`."""

    def __init__(self, source: TensorSource) -> None:
        self.shapes = source.shapes
        self._source = source

    def read(self, names: list[str], device: torch.device) -> dict[str, Tensor]:
        """Tensors by checkpoint name. Raises: CheckpointError for a weight that has a scale and is not e4m3."""
        tensors = self._source.read(names, device)
        for name in names:
            if name + SCALE in self.shapes and tensors[name].dtype != FP8:
                raise CheckpointError(f"{name} has a scale, and is {tensors[name].dtype}; wanted {FP8}.")
        return tensors


def scaled(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight as e4m3 numbers, its largest as e4m3's largest, and the fp32 scale () that they are multiplied by."""
    exact = weight.float()
    factor = LARGEST / exact.abs().max()
    return torch.clamp(exact * factor, -LARGEST, LARGEST).to(FP8), factor.reciprocal()


def fused_scaled(weight: Tensor, scale: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """A scaled weight with a LoRA's sum in bf16 added to it, scaled anew. Returns: as `scaled`."""
    return scaled(weight.float() * scale + delta.float())
