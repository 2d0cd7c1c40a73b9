"""Fused operations of the fast tier: what lies between the products, in one pass over memory each.

Each is computed in fp32 and rounded once; `runners.ltx23.block` rounds after every operation. Here stands what they
compute, in plain torch, for any device; on CUDA `fused_triton` computes the same. What an operation writes in place it
returns as well.

Axes: L lane, T token, C channel of the stream, D channel of all heads together, H head, U distinct noise level.
"""

from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Final

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from runners.errors import ConfigError, ShapeError
from runners.ltx23.rotary import Rotary, SplitRotary


@dataclass(frozen=True)
class Rows:
    """Scale and shift for each distinct noise level."""

    scale: Tensor  # (U, C) fp32
    shift: Tensor  # (U, C) fp32


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """The input of a branch to come: the normalised stream, scaled and shifted."""

    rows: Rows
    row: Tensor  # (T,) int32 level of each token
    out: Tensor  # (L, T, C), contiguous; written


@dataclass(frozen=True)
class TokenRotary:
    """Cosine and sine laid out token by token: channel pair f of head h at column h D/2H + f."""

    cos: Tensor  # (T, D/2)
    sin: Tensor  # (T, D/2)
    heads: int  # H, the stream's own, whatever number the attention has

    @classmethod
    def of(cls, table: Rotary) -> "TokenRotary":
        """Lay out a request's table. Raises: ConfigError for interleaved pairs, which no released model has."""
        if not isinstance(table, SplitRotary):
            raise ConfigError("The fast tier has split rotary pairs only; take --tier exact for interleaved ones.")
        cos, sin = (part[0].transpose(0, 1).flatten(1).contiguous() for part in (table.cos, table.sin))
        return cls(cos, sin, table.cos.shape[1])


def norm_modulate(x: Tensor, prepare: Prepare, eps: float) -> Tensor:
    """rms(x) (1 + scale) + shift, of a contiguous (L, T, C); written where `prepare` says, and returned."""
    if kernels := _kernels(x):
        return kernels.modulate(x, prepare, eps, norm=True)  # type: ignore[no-any-return]
    return prepare.out.copy_(_modulated(_normed(x, eps), prepare.rows, prepare.row))


def modulate(x: Tensor, prepare: Prepare) -> Tensor:
    """x (1 + scale) + shift, as `norm_modulate` without its norm."""
    if kernels := _kernels(x):
        return kernels.modulate(x, prepare, 0.0, norm=False)  # type: ignore[no-any-return]
    return prepare.out.copy_(_modulated(x.float(), prepare.rows, prepare.row))


def add_branch_(
    x: Tensor, branch: Tensor, gate: Tensor, gate_row: Tensor, prepare: tuple[Prepare, ...], eps: float
) -> Tensor:
    """Add a branch to the stream through its gate, and prepare the inputs of the branches after it.

    Args:
        x: (L, T, C) the stream, contiguous, fp32; becomes x + branch gate.
        branch: (L, T, C), contiguous.
        gate: (U, C) fp32.
        gate_row: (T,) int32 row of the gate for each token.
        prepare: inputs of none, one or two branches after, as `norm_modulate` of the new stream makes them.
        eps: of the norm.
    """
    if kernels := _kernels(x):
        return kernels.add_branch_(x, branch, gate, gate_row, prepare, eps)  # type: ignore[no-any-return]
    x.copy_(x.float() + branch.float() * gate[gate_row.long()])
    normed = _normed(x, eps)
    for one in prepare:
        one.out.copy_(_modulated(normed, one.rows, one.row))
    return x


def norm_rotate_(x: Tensor, weights: tuple[Tensor, ...], rotary: TokenRotary | None, eps: float) -> Tensor:
    """RMS-normalise queries or keys over all heads, and turn each head's pairs (i, i + half).

    Args:
        x: (L, T, N D), contiguous in its last axis alone; overwritten.
        weights: N of (D,): the norm of each part, such as queries and keys, that stand side by side.
        rotary: turns them; None leaves them.
        eps: of the norm.
    """
    if kernels := _kernels(x):
        return kernels.norm_rotate_(x, weights, rotary, eps)  # type: ignore[no-any-return]
    for part, weight in zip(x.chunk(len(weights), dim=-1), weights, strict=True):
        normed = _normed(part, eps) * weight.float()
        if rotary is not None:
            first, second = rearrange(normed, "l t (h two f) -> two l t h f", h=rotary.heads, two=2)
            cos, sin = (
                rearrange(table.float(), "t (h f) -> t h f", h=rotary.heads) for table in (rotary.cos, rotary.sin)
            )
            turned = torch.stack((first * cos - second * sin, second * cos + first * sin))
            normed = rearrange(turned, "two l t h f -> l t (h two f)")
        part.copy_(normed)
    return x


def gate_heads_(attended: Tensor, logits: Tensor) -> Tensor:
    """Scale each head by 2 sigmoid of its logit.

    Args:
        attended: (L, T, D) contiguous; overwritten.
        logits: (L, T, H), contiguous in its last axis alone.
    """
    if kernels := _kernels(attended):
        return kernels.gate_heads_(attended, logits)  # type: ignore[no-any-return]
    gates = 2 * torch.sigmoid(logits.float())
    per_head = rearrange(attended, "l t (h d) -> l t h d", h=logits.shape[-1])
    per_head.copy_(per_head.float() * gates.unsqueeze(-1))
    return attended


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU (tanh) of a linear layer: (L, T, C) -> (L, T, 4 C); on CUDA in the epilogue of the product."""
    if x.is_cuda:
        return torch._addmm_activation(bias, x.flatten(0, -2), weight.t(), use_gelu=True).view(*x.shape[:-1], -1)
    return F.gelu(F.linear(x, weight, bias).float(), approximate="tanh").to(x.dtype)


def gelu_(x: Tensor) -> Tensor:
    """GELU (tanh) of a contiguous tensor, in place."""
    return x.copy_(F.gelu(x, approximate="tanh"))


def quantize_rows(x: Tensor, *, gelu: bool) -> tuple[Tensor, Tensor]:
    """Rows of a contiguous (N, I) in e4m3, each divided by its own scale.

    Args:
        x: (N, I).
        gelu: take GELU (tanh) of `x` first.
    Returns: (N, I) e4m3 and (N, 1) fp32 scales; a row of zeros has the smallest scale there is.
    """
    if kernels := _kernels(x):
        return kernels.quantize_rows(x, gelu=gelu)  # type: ignore[no-any-return]
    wide = F.gelu(x.float(), approximate="tanh") if gelu else x.float()
    scale = wide.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST) / LARGEST_FP8
    return (wide / scale).to(torch.float8_e4m3fn), scale


def _normed(x: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)


def _modulated(normed: Tensor, rows: Rows, row: Tensor) -> Tensor:
    index = row.long()
    return normed * (1 + rows.scale[index]) + rows.shift[index]


def _kernels(x: Tensor) -> ModuleType | None:
    if x.shape[-1] > _WIDEST:
        raise ShapeError(f"The fast tier has streams of at most {_WIDEST} channels; got {x.shape[-1]}.")
    return triton_kernels() if x.is_cuda else None


_WIDEST = 1 << 14  # a token is taken into registers as a whole
LARGEST_FP8: Final = 448.0  # of e4m3
SMALLEST: Final = 1e-12  # of a row's largest magnitude


@lru_cache(maxsize=1)
def triton_kernels() -> ModuleType | None:
    """The CUDA kernels, or None where Triton is not installed."""
    try:
        from runners.ltx23.fast import fused_triton
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        return None
    return fused_triton
