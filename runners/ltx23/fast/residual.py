"""The stream that all blocks add to, in 24 bits: bf16 would lose more here than everywhere else together.

A value's fp32 bits are rounded to their first 24 and kept in two planes, 16 bits that are a bf16 number and 8 that go
on behind it. So a block reads and writes 3 bytes a value instead of 4, and the error is 2^-16 of the value where that
of bf16 is 2^-8. In a model of another dtype the stream is in fp32.

Axes: L lane, T token, C channel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from runners.ltx23.fast.lanes import lanes_of


@dataclass(frozen=True)
class Residual:
    """The stream of all lanes; its planes are written again and again."""

    high: Tensor  # (L, T, C) bf16: the first 16 bits, cut off, not rounded; or all of it in fp32
    low: Tensor | None  # (L, T, C) uint8: the 8 bits after them; None where `high` is all

    @classmethod
    def of(cls, x: Tensor, dtype: torch.dtype) -> Self:
        """Keep (L, T, C) `x` for a model of a dtype."""
        if dtype != torch.bfloat16:
            return cls(x.to(torch.float32, copy=True), None)
        kept = cls(torch.empty_like(x, dtype=dtype), torch.empty_like(x, dtype=torch.uint8))
        kept.copy_(x.float())
        return kept

    def __len__(self) -> int:
        return len(self.high)

    def float(self) -> Tensor:
        """(L, T, C) fp32, a tensor of its own where the planes are two."""
        if self.low is None:
            return self.high
        return (self.high.view(torch.int16).int() << 16 | self.low.int() << 8).view(torch.float32)

    def copy_(self, x: Tensor) -> None:
        """Take the values of (L, T, C) fp32, rounded to nearest."""
        if self.low is None:
            self.high.copy_(x)
            return
        bits = x.contiguous().view(torch.int32)
        bits = torch.where(x.isnan(), bits, bits + 128)  # the largest NaN would become -0
        self.high.copy_((bits >> 16).to(torch.int16).view(torch.bfloat16))
        self.low.copy_(bits >> 8 & 255)

    def part(self, lanes: slice) -> "Residual":
        """Some lanes that follow each other, in place."""
        return Residual(self.high[lanes], None if self.low is None else self.low[lanes])

    def rows(self, rows: Sequence[int]) -> "Residual":
        """Copies of some lanes, in order."""
        return Residual(lanes_of(self.high, rows), None if self.low is None else lanes_of(self.low, rows))
