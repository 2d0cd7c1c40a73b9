"""From a noise level to the scales, shifts and gates of every layer (adaLN-single).

Axes: B sample, T token or 1, N = B T noise levels, R row (one scale, shift or gate), C channel of the stream.

A noise level becomes sines and cosines in float32, then an embedding of C channels by a small MLP, then R C values by
one linear layer that all blocks share. A block adds its own table of R rows to them.

Source: PixArt-alpha, arXiv:2310.00426, section 2.3; ltx_core.model.transformer.adaln, timestep_embedding and
transformer (`get_ada_values`) 1.0.0.
"""

import math
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

SINUSOID_WIDTH = 256
MAX_PERIOD = 10000


class ShiftScaleGate(NamedTuple):
    """Modulation of one branch: its input is scaled and shifted, its output scaled. Each (B, T, C)."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


def sinusoidal_embedding(levels: Tensor) -> Tensor:
    """(N,) noise levels, already scaled, to (N, 256) float32: 128 cosines, then 128 sines."""
    half = SINUSOID_WIDTH // 2
    exponents = -math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device=levels.device) / half
    angles = levels[:, None].float() * torch.exp(exponents)[None, :]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


class AdaLayerNormSingle(nn.Module):
    """Embedding of a noise level, and the R rows of modulation made of it."""

    def __init__(self, width: int, rows: int) -> None:
        super().__init__()
        self.emb = nn.ModuleDict({"timestep_embedder": _TimestepMlp(width)})
        self.linear = nn.Linear(width, rows * width)

    def forward(self, levels: Tensor, batch: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Embed noise levels that are already scaled.

        Args:
            levels: any shape of N = batch T numbers.
            batch: B.
            dtype: the model's; the sinusoid is rounded to it.
        Returns: (B, T, R C) modulation and (B, T, C) embedding.
        """
        embedding = self.emb["timestep_embedder"](sinusoidal_embedding(levels.flatten()).to(dtype))  # (N, C)
        modulation = self.linear(F.silu(embedding))  # (N, R C)
        return rearrange(modulation, "(b t) w -> b t w", b=batch), rearrange(embedding, "(b t) c -> b t c", b=batch)


class _TimestepMlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(SINUSOID_WIDTH, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, sinusoid: Tensor) -> Tensor:
        embedding: Tensor = self.linear_2(F.silu(self.linear_1(sinusoid)))
        return embedding


def table_rows(table: Tensor, modulation: Tensor, rows: slice) -> tuple[Tensor, ...]:
    """Some rows of a layer's table plus the same rows of the step's modulation.

    Args:
        table: (R, C) parameters of the layer.
        modulation: (B, T, R C).
        rows: which of the R.
    Returns: for each row a (B, T, C) tensor in the dtype of the modulation.
    """
    per_row = rearrange(modulation, "b t (r c) -> b t r c", r=table.shape[0])[:, :, rows]
    return (table[rows][None, None].to(modulation.dtype) + per_row).unbind(dim=2)


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """Divide each token of (B, T, C) by its root mean square; no weights."""
    return F.rms_norm(x, (x.shape[-1],), eps=eps)


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x (1 + scale) + shift, rounded to the model's dtype after each operation."""
    return x * (1 + scale) + shift
