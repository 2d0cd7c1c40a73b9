"""Linear layers of the fast tier: the products of a block, some of them joined, some of them in fp8.

Layers that read the same input are one product: their weights stand one after the other, and the model's own layers
become views of them, so that nothing is held twice. A product has a name: `video/self/qkv` is the one of video's
self-attention, `audio/cross/kv` that of the keys and values which audio asks video for.

Axes: O output channel, I input channel, and any others before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runners.ltx23.fast.fp8 import Fp8Product
from runners.ltx23.fast.fused import linear_gelu

# The products with video's tokens on one side: the others take too little time to be worth an error.
LARGE = (
    *("video/self/qkv", "video/self/out", "video/text/q", "video/text/out"),
    *("video/cross/q", "video/cross/out", "audio/cross/kv", "video/ff/widen", "video/ff/narrow"),
)


class Product(Protocol):
    """A linear layer: (..., I) -> (..., O)."""

    def __call__(self, x: Tensor) -> Tensor:
        """The layer's output."""

    def gelu(self, x: Tensor) -> Tensor:
        """GELU (tanh) of the layer's output."""


Make = Callable[[str, Sequence[nn.Linear]], Product]  # a product of a block by its name, from its layers


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
        return PlainProduct(layers[0].weight.detach(), layers[0].bias.detach())
    weight = _side_by_side([layer.weight.detach() for layer in layers])
    bias = _side_by_side([layer.bias.detach() for layer in layers])
    start = 0
    for layer in layers:
        end = start + layer.out_features
        layer.weight = nn.Parameter(weight[start:end], requires_grad=False)
        layer.bias = nn.Parameter(bias[start:end], requires_grad=False)
        start = end
    return PlainProduct(weight, bias)


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """The concatenation of tensors, which is a view where they were joined before."""
    places = [(part.untyped_storage().data_ptr(), part.storage_offset(), part.numel()) for part in parts]
    if all(one[0] == its[0] and one[1] + one[2] == its[1] for one, its in pairwise(places)):
        shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
        return parts[0].as_strided(shape, parts[0].stride())
    return torch.cat(list(parts))


def maker(in_fp8: frozenset[str], *, keep: bool) -> Make:
    """Makes the products of a block: those named in fp8, the others plain.

    Args:
        in_fp8: names of products.
        keep: let the model's own layers keep their weights where fp8 ones take their place.
    """

    def make(name: str, layers: Sequence[nn.Linear]) -> Product:
        plain = joined(layers)
        if name not in in_fp8:
            return plain
        if not keep:
            for layer in layers:
                layer.weight = nn.Parameter(plain.weight.new_empty(0), requires_grad=False)
        return Fp8Product.of(plain.weight, plain.bias)

    return make


def linear_of(module: nn.Module, name: str) -> nn.Linear:
    """A linear layer of a module by its path."""
    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer
