"""Attention over lanes, with queries, keys and values in as few products as their inputs allow.

Axes: L lane, T query token, S key token, C channel of the queries' stream, D channel of all heads together, H head.

Norms, rotary and the gates of heads work in place on what the products wrote (`runners.ltx23.fast.fused`).
"""

from collections.abc import Sequence
from typing import Final

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from runners.errors import ConfigError
from runners.ltx23.attention import Attention
from runners.ltx23.fast.fused import TokenRotary, gate_heads_, norm_rotate_
from runners.ltx23.fast.products import Make, PlainProduct, joined, linear_of

ALIGNMENT_BYTES: Final = 16


class SelfAttention:
    """Tokens of a stream look at each other: one product for queries, keys and values."""

    def __init__(self, layer: Attention, name: str, make: Make) -> None:
        self._heads, self._eps = layer.heads, eps_of(layer)
        self._q_norm, self._k_norm = layer.q_norm.weight, layer.k_norm.weight
        self.to_qkv = GatedProduct(f"{name}/qkv", [layer.to_q, layer.to_k, layer.to_v], layer.to_gate_logits, make)
        self.to_out = make(f"{name}/out", [linear_of(layer, "to_out.0")])

    def __call__(self, x: Tensor, rotary: TokenRotary, values_only: Sequence[bool]) -> Tensor:
        """(L, T, C) -> (L, T, C); lanes with `values_only` take each token's own value in place of the attention."""
        all_three, gates = self.to_qkv(x)
        queries, keys, values = all_three.chunk(3, dim=-1)  # each (L, T, D), strided
        width = queries.shape[-1]
        norm_rotate_(all_three[..., : 2 * width], (self._q_norm, self._k_norm), rotary, self._eps)
        if not any(values_only):
            return self.to_out(gated(attend(queries, keys, values, self._heads), gates))
        attended = [
            values[lane : lane + 1]
            if skipped
            else attend(queries[lane : lane + 1], keys[lane : lane + 1], values[lane : lane + 1], self._heads)
            for lane, skipped in enumerate(values_only)
        ]
        return self.to_out(gated(torch.cat(attended), gates))


class CrossAttention:
    """Tokens of a stream look at a context: one product for queries, one for keys and values."""

    def __init__(self, layer: Attention, name: str, make: Make) -> None:
        self._heads, self._eps = layer.heads, eps_of(layer)
        self._q_norm, self._k_norm = layer.q_norm.weight, layer.k_norm.weight
        self.to_q = GatedProduct(f"{name}/q", [layer.to_q], layer.to_gate_logits, make)
        self.to_kv = make(f"{name}/kv", [layer.to_k, layer.to_v])
        self.to_out = make(f"{name}/out", [linear_of(layer, "to_out.0")])

    def keys_values(self, context: Tensor, rotary: TokenRotary | None) -> Tensor:
        """(..., S, context width) -> (..., S, 2 D): keys, normalised and rotated, then values."""
        both = self.to_kv(context)
        norm_rotate_(both.chunk(2, dim=-1)[0], (self._k_norm,), rotary, self._eps)
        return both

    def __call__(self, x: Tensor, keys_values: Tensor, rotary: TokenRotary | None) -> Tensor:
        """(L, T, C) queries' stream and (L, S, 2 D) of `keys_values` to (L, T, C)."""
        queries, gates = self.to_q(x)
        norm_rotate_(queries, (self._q_norm,), rotary, self._eps)
        keys, values = keys_values.chunk(2, dim=-1)
        return self.to_out(gated(attend(queries, keys, values, self._heads), gates))


class GatedProduct:
    """A product and the logits of the heads' gates, which read the same input: one product, unless it is in fp8.

    By itself, a product of H columns reads all tokens for next to no work.
    """

    def __init__(self, name: str, layers: Sequence[nn.Linear], gates: nn.Linear | None, make: Make) -> None:
        self._product, self._gates = make(name, layers), None
        self._columns = sum(layer.out_features for layer in layers)
        if gates is not None and isinstance(self._product, PlainProduct):
            self._product = joined([*layers, gates])
        elif gates is not None:
            self._gates = make(f"{name}/gates", [gates])

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(L, T, C) to the product's output and (L, T, H) logits, both strided; no logits where heads have no gates."""
        output = self._product(x)
        if self._gates is not None:
            return output, self._gates(x)
        logits = output[..., self._columns :]
        return output[..., : self._columns], logits if logits.shape[-1] else None


def gated(attended: Tensor, logits: Tensor | None) -> Tensor:
    """(L, T, D) attended with its heads scaled by their gates, if there are any; overwritten."""
    return attended if logits is None else gate_heads_(attended, logits)


def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Scaled dot product attention of (L, T, D) to (L, S, D): (L, T, D), contiguous."""
    queries, keys, values = (
        rearrange(_aligned(part), "l t (h d) -> l h t d", h=heads) for part in (queries, keys, values)
    )
    attended = F.scaled_dot_product_attention(queries, keys, values)
    return rearrange(attended, "l h t d -> l t (h d)").contiguous()


def _aligned(part: Tensor) -> Tensor:
    """The same (L, T, D), copied if its tokens are no multiple of 16 bytes apart: columns of gates may stand between.

    CUDA's attention kernels read that much at once; of other tokens torch 2.11 gives a wrong answer, and no error.
    """
    return part if part.stride(1) * part.element_size() % ALIGNMENT_BYTES == 0 else part.contiguous()


def eps_of(layer: Attention) -> float:
    """The epsilon of a layer's norms of queries and keys. Raises: ConfigError if these have two, or none."""
    eps = layer.q_norm.eps
    if eps is None or eps != layer.k_norm.eps:
        raise ConfigError(
            f"The norms of queries and keys have the epsilons {eps} and {layer.k_norm.eps}; this tier norms both with "
            "one. Run the exact tier."
        )
    return eps
