"""Statistics of taps that cannot all be true of one tensor: found by arithmetic, on all rows of a table at once.

Axes: N tap, K bucket, n element of a tap.

Whoever leaves a trace could write any number into it, and NaN compares as neither far nor near. So what a sketch
(`parity.trace.sketch`) says of a tap is held together as far as it determines itself:

* counts of NaN and infinities lie between none and n, together;
* largest magnitude, mean and norm are finite, but for a norm that float32 cannot hold;
* |mean| sqrt(n) <= norm, largest magnitude <= norm <= largest magnitude x sqrt(n);
* a bucket holds the signed sum of at most m = 8 ceil(n / 8K) elements, so the energy of the sketch is at most m times
  the square of the norm; of up to 8 elements no two share a bucket, and the energy is that square;
* where at least `SPREAD` elements as large as the largest would be needed for the norm, the energy is an average over
  so many that it lies near the square of the norm: `NEAR` are the bounds, beyond what any honest tap has shown.

And equal bits have equal statistics: exactly in counts and largest magnitude, to float32 rounding in the sums.

A tap that is also an output is there twice, as numbers and as a sketch: `unlike_output` holds the two together.
"""

import math
from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor

from parity.trace.sketch import VECTOR, TapSketch, checksum_of, dtype_name, sketch

ROUNDING: Final = 1e-4  # relative; float32 statistics of equal tensors on two devices differ by about 1e-7
SPREAD: Final = 64.0
NEAR: Final = (1 / 16, 8.0)  # energy over the square of the norm
LARGEST: Final = torch.finfo(torch.float32).max


def contradictions(shapes: Iterable[tuple[int, ...]], floats: Tensor, integers: Tensor) -> dict[int, str]:
    """The rows of a table that contradict themselves, by number, and in what.

    Args:
        shapes: of the N taps.
        floats: float32 (N, K + 3), bucket sums, then l2, max_abs and mean, as `sketch_into` writes them.
        integers: int64 (N, 3), checksum, NaN count and Inf count.
    """
    values = floats.double()
    buckets, (norm, largest, mean) = values[:, :-3], values[:, -3:].unbind(dim=1)
    count = torch.tensor([float(math.prod(shape)) for shape in shapes], dtype=torch.float64)
    nans, infinities = integers[:, 1].double(), integers[:, 2].double()
    root = count.sqrt()
    more, less = 1 + ROUNDING, 1 - ROUNDING
    shared = VECTOR * (count / (VECTOR * buckets.shape[1])).ceil()
    energy, square = buckets.square().sum(dim=1), norm.square()
    tiny = torch.finfo(torch.float32).tiny
    told = norm.isfinite() & buckets.isfinite().all(dim=1) & (norm > tiny)  # a sketch that overflowed says nothing
    apart = (square < less * SPREAD * largest.square()).logical_not() & told
    wrong = {
        "counts of values that are not finite do not fit its shape": (nans < 0)
        | (infinities < 0)
        | (nans + infinities > count),
        "its largest magnitude or its mean is not a number": ~largest.isfinite() | ~mean.isfinite() | (largest < 0),
        "its norm is not a number": norm.isnan() | (norm < 0) | (norm.isinf() & (largest * root < less * LARGEST)),
        "its mean is too large for its norm": mean.abs() * root * less > norm + tiny,
        "its largest magnitude is greater than its norm": largest * less > norm + tiny,
        "its norm is too large for its largest magnitude": norm.isfinite() & (norm * less > largest * root + tiny),
        "its sketch has another energy than its norm allows": told
        & (
            (energy > more * shared * square)
            | ((count <= VECTOR) & ((energy - square).abs() > 10 * ROUNDING * square))
            | (apart & ((energy < NEAR[0] * square) | (energy > NEAR[1] * square)))
        ),
    }
    found: dict[int, str] = {}
    for words, rows in wrong.items():
        for row in rows.nonzero().flatten().tolist():
            found.setdefault(row, words)
    return found


def unequal_statistics(reference: tuple[Tensor, Tensor], candidate: tuple[Tensor, Tensor]) -> list[int]:
    """Rows of two tables of taps with equal bits whose statistics differ by more than rounding.

    Args:
        reference: floats (N, K + 3) and integers (N, 3) of N taps.
        candidate: the same of taps with the same bits, row by row, and as many buckets.
    """
    (old, old_counts), (new, new_counts) = reference, candidate
    left, right = old.double(), new.double()
    same = (left == right) | (left.isnan() & right.isnan())
    scale = torch.maximum(left[:, -3], right[:, -3])[:, None].expand_as(left).clone()  # the norm, for sums
    scale[:, -2] = 0  # the largest magnitude is exact
    scale[:, -1] = torch.maximum(left[:, -2], right[:, -2])  # the mean is at most that
    close = (left - right).abs() <= ROUNDING * scale  # false for NaN
    differ = ~(same | close).all(dim=1) | (old_counts[:, 1:] != new_counts[:, 1:]).any(dim=1)
    rows: list[int] = differ.nonzero().flatten().tolist()
    return rows


def unlike_output(recorded: TapSketch, output: Tensor, *, statistics: bool) -> str:
    """The contradiction between a tap's sketch and the output that it is a sketch of; "" where there is none.

    Args:
        recorded: of a tap. One of another shape or dtype is of something else, which other findings say.
        output: the tensor itself.
        statistics: hold everything of the sketch to the output, not its checksum alone, which takes ten times as long.
    """
    if (recorded.shape, recorded.dtype) != (tuple(output.shape), dtype_name(output.dtype)):
        return ""
    if recorded.checksum != checksum_of(output):
        return "its checksum is not that of the output that it is"
    if statistics and unequal_statistics(_row(recorded), _row(sketch(output, buckets=len(recorded.buckets)))):
        return "its checksum is that of the output that it is, its statistics are not"
    return ""


def _row(one: TapSketch) -> tuple[Tensor, Tensor]:
    sums = torch.tensor([one.l2, one.max_abs, one.mean], dtype=torch.float32)
    return torch.cat((one.buckets, sums))[None], torch.tensor([[one.checksum, one.nan_count, one.inf_count]])
