"""Linear layers of the fast tier: the products of a block, some of them joined.

Layers that read the same input are one product: their weights stand one after the other, and the model's own layers
become views of them, so that nothing is held twice.

Axes: O output channel, I input channel, and any others before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runners.ltx23.fast.fused import linear_gelu


class Product(Protocol):
    """A linear layer: (..., I) -> (..., O)."""

    def __call__(self, x: Tensor) -> Tensor:
        """The layer's output."""

    def gelu(self, x: Tensor) -> Tensor:
        """GELU (tanh) of the layer's output."""


@dataclass(frozen=True)
class PlainProduct:
    """A product in the model's dtype."""

    weight: Tensor  # (O, I)
    bias: Tensor  # (O,)

    def __call__(self, x: Tensor) -> Tensor:
        """See `Product`."""
        return F.linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        """See `Product`."""
        return linear_gelu(x, self.weight, self.bias)


def joined(layers: Sequence[nn.Linear]) -> PlainProduct:
    """Layers of one input as one product, outputs one after the other; the layers become views of its weights."""
    if len(layers) == 1:
        return PlainProduct(layers[0].weight, layers[0].bias)
    weight = torch.cat([layer.weight.detach() for layer in layers])
    bias = torch.cat([layer.bias.detach() for layer in layers])
    start = 0
    for layer in layers:
        end = start + layer.out_features
        layer.weight = nn.Parameter(weight[start:end], requires_grad=False)
        layer.bias = nn.Parameter(bias[start:end], requires_grad=False)
        start = end
    return PlainProduct(weight, bias)


def linear_of(module: nn.Module, name: str) -> nn.Linear:
    """A linear layer of a module by its path."""
    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer
