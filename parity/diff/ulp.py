"""Distances of two 16-bit floats in representable values (ULP), counted for every distance.

Axes: l, m rows and columns of a tile. Distances and bits keep sixteen bits all the way, at a quarter of the memory
traffic of a float32 form: a distance reaches 65534 (across zero, between the two ends) and is kept modulo 2^16.

These functions are plain tensor code that `torch.jit.script` also takes.
"""

from typing import Final

import torch
from torch import Tensor

HALF: Final = (torch.bfloat16, torch.float16)
BINS: Final = 2**16
BATCH: Final = 2**18  # distances counted at a time: clearing the bins for every tile would cost more than the rest


def distances_into(out: Tensor, scratch: Tensor, reference: Tensor, candidate: Tensor) -> None:
    """Write distances in representable values; -0.0 and 0.0 are one value.

    Args:
        out: (l, m) int16, the distances modulo 2^16.
        scratch: (3, l, m) int16; the first holds reference xor candidate.
        reference: (l, m) int16, the bits of the floats.
        candidate: (l, m) int16.
    """
    opposite, magnitude, other = scratch[0], scratch[1], scratch[2]
    opposite.bitwise_right_shift_(15)  # -1 where the signs differ, else 0
    torch.bitwise_and(reference, 0x7FFF, out=magnitude)
    torch.bitwise_and(candidate, 0x7FFF, out=other).bitwise_xor_(opposite).sub_(opposite)  # negative where opposite
    torch.minimum(magnitude, other, out=out)
    torch.sub(torch.maximum(magnitude, other, out=opposite), out, out=out)  # wraps beyond 32767


def count_into(counts: Tensor, distances: Tensor) -> None:
    """Add distances, (n,) int16 modulo 2^16, to how often each occurs, (65536,) int64."""
    if distances.numel() == 0:
        return
    if bool(distances.amin() < 0):
        distances = distances.int().bitwise_and_(0xFFFF)
    found = torch.bincount(distances)
    counts[: found.numel()] += found
