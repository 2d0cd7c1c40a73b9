"""Rotary position embeddings: each pair of channels of a query or key is turned by an angle that grows with position.

Axes: B sample, A position axis (time, height, width), T token, H head, D channel of all heads together, F frequency.

Two layouts of the pairs exist. `split` pairs channel i of a head with channel i + half of the same head; LTX-2.3 uses
it. `interleaved` pairs neighbours 2i and 2i + 1 across the whole width. Angles are built in float32, from a frequency
grid computed in float64 or float32, then cosine and sine are rounded to the model's dtype.

Source: RoPE, arXiv:2104.09864; ltx_core.model.transformer.rope 1.0.0. To give its bits, the views that the elementwise
arithmetic runs over have its strides: the vectorised and the scalar path of a CPU kernel may round differently.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from runners.errors import ShapeError
from runners.ltx23.transformer_config import RotaryConfig


@dataclass(frozen=True)
class SplitRotary:
    """Cosine and sine for pairs (i, i + half) inside each head."""

    cos: Tensor  # (B, H, T, D/2H)
    sin: Tensor  # (B, H, T, D/2H)
    negative_sin: Tensor  # (B, H, T, D/2H), kept so that no attention negates it again

    def rotate(self, x: Tensor) -> Tensor:
        """Turn (B, T, D) queries or keys; the result has the same shape and dtype."""
        heads = self.cos.shape[1]
        halves = rearrange(x, "b t (h half f) -> b h t half f", h=heads, half=2)  # a view
        first, second = halves[..., :1, :], halves[..., 1:, :]
        turned = halves * self.cos.unsqueeze(-2)
        turned[..., :1, :].addcmul_(self.negative_sin.unsqueeze(-2), second)
        turned[..., 1:, :].addcmul_(self.sin.unsqueeze(-2), first)
        return rearrange(turned, "b h t half f -> b t (h half f)")


@dataclass(frozen=True)
class InterleavedRotary:
    """Cosine and sine for pairs (2i, 2i + 1), each value standing twice."""

    cos: Tensor  # (B, T, D)
    sin: Tensor  # (B, T, D)

    def rotate(self, x: Tensor) -> Tensor:
        """Turn (B, T, D) queries or keys; the result has the same shape and dtype."""
        even, odd = rearrange(x, "b t (f pair) -> b t f pair", pair=2).unbind(dim=-1)
        quarter_turned = rearrange(torch.stack((-odd, even), dim=-1), "b t f pair -> b t (f pair)")
        return x * self.cos + quarter_turned * self.sin


Rotary = SplitRotary | InterleavedRotary


def middle_of_cells(positions: Tensor) -> Tensor:
    """Middle of the cell that each token covers, in the dtype of the positions (1.0.0 gives video bfloat16 ones).

    Args:
        positions: (B, A, T, 2) start and end on each axis: seconds in time, pixels in space.
    Returns: (B, A, T).
    Raises: ShapeError if there is no pair of start and end.
    """
    if positions.ndim != 4 or positions.shape[-1] != 2:
        raise ShapeError(f"Positions must be (B, axes, T, 2) starts and ends; got {tuple(positions.shape)}.")
    return (positions[..., 0] + positions[..., 1]) / 2.0


def rotary_table(
    positions: Tensor, *, width: int, heads: int, max_positions: Sequence[int], config: RotaryConfig, dtype: torch.dtype
) -> Rotary:
    """Cosine and sine for every token.

    Args:
        positions: (B, A, T), one number for each axis; where they come from cells, the middle.
        width: D of the queries that will be turned.
        heads: H by which the split table is laid out.
        max_positions: A numbers; position 0 maps to -1 times each frequency and this one to +1.
        config: kind, theta and precision.
        dtype: dtype of the result, the model's.
    Raises: ShapeError if the positions have another number of axes than `max_positions`.
    """
    if positions.ndim != 3 or positions.shape[1] != len(max_positions):
        raise ShapeError(
            f"Positions must be (B, {len(max_positions)}, T) for the ends {tuple(max_positions)}; "
            f"got {tuple(positions.shape)}."
        )
    frequencies = frequency_grid(config, count=width // (2 * len(max_positions))).to(positions.device)
    fractions = torch.stack([positions[:, axis] / end for axis, end in enumerate(max_positions)], dim=-1)  # (B, T, A)
    angles = frequencies * (fractions.unsqueeze(-1) * 2 - 1)  # (B, T, A, F), float32 from here on
    angles = rearrange(angles, "b t a f -> b t (f a)")
    cos, sin = angles.cos(), angles.sin()
    if config.kind == "interleaved":
        cos, sin = cos.repeat_interleave(2, dim=-1), sin.repeat_interleave(2, dim=-1)
        cos, sin = _pad_front(cos, 1.0, width), _pad_front(sin, 0.0, width)  # (B, T, D)
        return InterleavedRotary(cos.to(dtype), sin.to(dtype))
    # Where D/2 is no multiple of A, the first channels are not turned; then heads share out the channels in order.
    cos, sin = _pad_front(cos, 1.0, width // 2), _pad_front(sin, 0.0, width // 2)  # (B, T, D/2)
    cos, sin = (rearrange(part, "b t (h f) -> b h t f", h=heads).to(dtype) for part in (cos, sin))
    return SplitRotary(cos, sin, -sin)


def frequency_grid(config: RotaryConfig, count: int) -> Tensor:
    """`count` frequencies from pi/2 to theta pi/2 in equal ratios: (F,) float32 on the CPU.

    NumPy computes the float64 grid and PyTorch the float32 one, as in the reference: their powers round differently.
    """
    if config.precision == "float64":
        powers = np.power(config.theta, np.linspace(0.0, 1.0, count, dtype=np.float64))
        return torch.tensor(powers * math.pi / 2, dtype=torch.float32)
    exponents = torch.linspace(0.0, 1.0, count, dtype=torch.float32, device="cpu")
    return config.theta**exponents * math.pi / 2


def _pad_front(table: Tensor, value: float, width: int) -> Tensor:
    """Extend (B, T, F) to (B, T, width) by `value` at the front."""
    missing = width - table.shape[-1]
    return torch.nn.functional.pad(table, (missing, 0), value=value) if missing else table
