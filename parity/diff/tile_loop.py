"""The loop over tiles that every tensor comparison spends its time in.

Axes: L rows, M columns of the matrices.

A tile is small enough for a cache, so each of its thirty operations takes some ten microseconds. From Python, two
threads would then spend longer handing each other the interpreter lock than computing: they took 1.4 times as long as
one. `torch.jit.script` runs the loop without that lock and needs no compiler. torch calls it deprecated, so where it is
gone, or refuses, the same function runs as the Python it is: same numbers, slower.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from parity.diff.ulp import count_into, distances_into

TOTALS: Final = ("candidate_square", "error_abs", "max_abs", "value_mismatches", "bit_mismatches")  # of one tile


@functools.cache
def tile_loop(device_type: str) -> Callable[..., None]:
    """Return `measure_tiles` in the fastest form for a device that this torch offers."""
    if device_type != "cpu":  # one thread launches everything there, and a script might be compiled for the device
        return measure_tiles
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            scripted: Callable[..., None] = torch.jit.script(measure_tiles)
            return scripted
    except Exception:  # gone, refused, or no source to read, or one that was edited since it was imported
        return measure_tiles


def measure_tiles(
    reference: Tensor,
    candidate: Tensor,
    reference_bits: Tensor,
    candidate_bits: Tensor,
    tiles: list[tuple[int, int, int, int]],
    leading: Tensor,
    trailing: Tensor,
    totals: Tensor,
    ulp_counts: Tensor,
    batch: int,
) -> None:
    """Measure some consecutive tiles of two (L, M) matrices.

    Args:
        reference: (L, M).
        candidate: (L, M).
        reference_bits: the same memory as integers; (0, 0) where the dtypes differ and bits say nothing.
        candidate_bits: likewise.
        tiles: first row, row after the last, first column and column after the last, of each.
        leading: (2, rows of each tile one after the other), to be filled.
        trailing: (2, M), to be added to, or (2, 0).
        totals: (tiles, names in `TOTALS`), to be filled. A count not taken stays zero: bits of two dtypes, and values
            of 16-bit floats, which the histogram of distances yields for less.
        ulp_counts: (65536,), to be added to, or (0,) where the elements are not 16-bit floats.
        batch: distances counted at a time.
    """
    half = ulp_counts.numel() > 0
    has_bits = reference_bits.numel() > 0
    may_wait = not reference.is_cuda  # an accelerator would have to finish before it could tell
    # memory for tiles of one shape is taken once: allocating for each would fragment the heap
    error_and_reference = torch.empty(2, 0, 0, dtype=torch.float64, device=reference.device)
    waiting = torch.empty(0, dtype=torch.int16, device=reference.device)  # distances not counted yet
    scratch = torch.empty(3, 0, 0, dtype=torch.int16, device=reference.device)
    # a comparison that writes floats is several times as fast as one that writes bools
    unequal = torch.empty(0, 0, dtype=torch.float32, device=reference.device)
    ones = torch.empty(0, dtype=torch.float64, device=reference.device)
    filled = 0  # of `waiting`
    row = 0  # of `leading`
    for index, (top, bottom, left, right) in enumerate(tiles):
        height, width = bottom - top, right - left
        elements = height * width
        total = totals[index]
        if error_and_reference.size(1) != height or error_and_reference.size(2) != width:
            error_and_reference = torch.empty(2, height, width, dtype=torch.float64, device=reference.device)
            ones = torch.ones(max(height, width), dtype=torch.float64, device=reference.device)
            if half:
                scratch = torch.empty(3, height, width, dtype=torch.int16, device=reference.device)
            else:
                unequal = torch.empty(height, width, dtype=torch.float32, device=reference.device)
        r, c = reference[top:bottom, left:right], candidate[top:bottom, left:right]
        error, squares = error_and_reference[0], error_and_reference[1]
        if half:
            r_bits, c_bits = reference_bits[top:bottom, left:right], candidate_bits[top:bottom, left:right]
            mismatches = torch.bitwise_xor(r_bits, c_bits, out=scratch[0]).count_nonzero()
            total[4].copy_(mismatches)
            if may_wait and bool(mismatches == 0):
                ulp_counts[0] += elements
            else:
                if filled + elements > waiting.numel():
                    count_into(ulp_counts, waiting[:filled])
                    filled = 0
                    if elements > waiting.numel():
                        waiting = torch.empty(max(batch, elements), dtype=torch.int16, device=reference.device)
                distances_into(waiting[filled : filled + elements].view(height, width), scratch, r_bits, c_bits)
                filled += elements
        else:
            # NaN equals nothing; integers are compared as such, beyond what float64 can tell apart
            torch.ne(r, c, out=unequal)
            total[3].copy_(unequal.sum())
            if has_bits:
                torch.ne(reference_bits[top:bottom, left:right], candidate_bits[top:bottom, left:right], out=unequal)
                total[4].copy_(unequal.sum())
        squares.copy_(r)
        flat = error.copy_(c).view(-1)
        torch.dot(flat, flat, out=total[0])
        error.sub_(squares).abs_()
        torch.sum(flat, 0, out=total[1])
        torch.amax(flat, 0, out=total[2])
        error_and_reference.mul_(error_and_reference)
        for side in range(2):
            squared = error_and_reference[side]
            torch.mv(squared, ones[:width], out=leading[side, row : row + height])
            if trailing.size(1) > 0:
                trailing[side, left:right].addmv_(squared.t(), ones[:height])
        row += height
    if half:
        count_into(ulp_counts, waiting[:filled])
