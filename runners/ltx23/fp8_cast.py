"""`fp8_cast`: attention and feed-forward layers of the blocks keep their numbers as e4m3 and up-cast them when called.

Weights and biases are rounded to e4m3 as they are, without a scale; products and sums run in the input's dtype. The
layers are those of the official list; gates, modulation, projections in and out, and every norm stay as they are.

Source: ltx_core.quantization.fp8_cast 1.0.0 (`TRANSFORMER_LINEAR_DOWNCAST_MAP`, `UPCAST_DURING_INFERENCE`); the list is
the same in 1.1.2 and 1.2.0.

Axes: B sample, T token, I input channel, O output channel.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runners.ltx23.loading import TRANSFORMER
from runners.model_files import TensorSource

FP8: Final = torch.float8_e4m3fn
BLOCKS: Final = "transformer_blocks."
LAYERS: Final = (".to_q", ".to_k", ".to_v", ".to_out.0", "ff.net.0.proj", "ff.net.2")  # the last two of either stream


class UpcastLinear(nn.Linear):
    """A linear layer that keeps e4m3 numbers and computes in its input's dtype."""

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__(in_features, out_features, bias=bias, dtype=FP8, device="meta")

    def reset_parameters(self) -> None:
        """Nothing: whoever makes one loads it."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, I) to (B, T, O) in the dtype of `x`."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


def is_cast(layer: str) -> bool:
    """True for a linear layer of the transformer, by its module's name, that `fp8_cast` keeps as e4m3."""
    return layer.startswith(BLOCKS) and layer.endswith(LAYERS)


def put_in_place(
    transformer: nn.Module, kind: Callable[[int, int, bool], nn.Linear], is_kept: Callable[[str], bool]
) -> None:
    """Put layers that keep e4m3 numbers into a transformer on the meta device.

    Args:
        transformer: whose linear layers are replaced.
        kind: makes a layer from its input and output channels, and whether it has a bias.
        is_kept: whether a layer is replaced, by its module's name.
    """
    for name, layer in list(transformer.named_modules()):
        if isinstance(layer, nn.Linear) and is_kept(name):
            parent, _, last = name.rpartition(".")
            kept = kind(layer.in_features, layer.out_features, layer.bias is not None)
            setattr(transformer.get_submodule(parent), last, kept)


class CastWeights:
    """A checkpoint's tensors with those of the cast layers in e4m3; satisfies `runners.model_files.TensorSource`."""

    def __init__(self, source: TensorSource) -> None:
        self.shapes = source.shapes
        self._source = source

    def read(self, names: list[str], device: torch.device) -> dict[str, Tensor]:
        """Tensors by checkpoint name."""
        tensors = self._source.read(names, device)
        for name in names:
            layer, _, kind = name.removeprefix(TRANSFORMER).rpartition(".")
            if name.startswith(TRANSFORMER) and kind in ("weight", "bias") and is_cast(layer):
                tensors[name] = tensors[name].to(FP8)
        return tensors
