"""Float64 sums over two matrices, tile by tile, in one pass and where they lie.

Axes: L rows, M columns of the matrices; l, m those of one tile.

Every sum runs in float64 over small tiles, so neither matrix is ever copied whole to float64 or to another device: on a
CPU what a tile needs fits the second-level cache of a core, and threads share the tiles. Tiles are grouped into a fixed
number of slabs and the slabs are added in order, so the result does not depend on how many threads there are. A tile is
looked at a second time only to say where in it the worst, or a non-finite, element lies.

A tile is small enough for a cache, so each of the thirty operations on it takes some ten microseconds. From Python, two
threads would then spend longer handing each other the interpreter lock than computing: they took 1.4 times as long as
one. `torch.jit.script` runs the loop over tiles without that lock and needs no compiler. torch calls it deprecated, so
where it is gone, or refuses, the same function runs as the Python it is: same numbers, slower.
"""

import functools
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from parity.diff.ulp import BATCH, BINS, HALF, count_into, distances_into

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


PROFILE_LIMIT: Final = 2**20  # sums kept for rows, or columns; of more columns only the totals are known
CPU_TILE: Final = 2**16  # elements
ACCELERATOR_TILE: Final = 2**22  # elements; 32 MiB in float64
LARGEST_TILE: Final = 2**24  # elements; up to here a float32 counts them exactly
_SLABS: Final = 8
_BITS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by element size in bytes


Tile = tuple[int, int, int, int]  # first row, row after the last, first column, column after the last


def part(matrix: Tensor, tile: Tile) -> Tensor:
    """Return a tile of a matrix."""
    top, bottom, left, right = tile
    return matrix[top:bottom, left:right]


class TilePlan:
    """The cut of a matrix (L, M) into tiles of whole rows or, where one row is too long for a tile, parts of a row."""

    def __init__(self, leading: int, trailing: int, tile_elements: int) -> None:
        self.leading, self.trailing = leading, trailing
        self.height = max(1, tile_elements // trailing)
        self.width = min(trailing, tile_elements)
        # in the order of the flat tensor, so the first tile that qualifies holds the first element that does
        self.tiles = [
            (row, min(row + self.height, leading), column, min(column + self.width, trailing))
            for row in range(0, leading, self.height)
            for column in range(0, trailing, self.width)
        ]

    def position(self, tile: Tile, index: Tensor) -> int:
        """Return the position in the flat tensor of the element at a flat index into a tile."""
        top, _, left, right = tile
        row, column = divmod(int(index), right - left)
        return (top + row) * self.trailing + left + column


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """Partial sums, float64 on the CPU. The first axis of the first two is (squared error, squared reference).

    `ulp_counts[d]` counts the 16-bit floats whose two sides are d representable values apart; other dtypes leave one 0.
    """

    leading: Tensor  # (2, L)
    trailing: Tensor  # (2, M), or (2, 0) where M is beyond the limit
    totals: Tensor  # (tiles, names in TOTALS)
    ulp_counts: Tensor  # (distances,) int64

    def of_tiles(self, name: str) -> Tensor:
        """Return one of `TOTALS` for each tile."""
        return self.totals[:, TOTALS.index(name)]

    def total(self, name: str) -> float:
        """Return the sum over tiles of one of `TOTALS`."""
        return float(self.of_tiles(name).sum())


@dataclass(frozen=True, kw_only=True)
class Census:
    """Counts of elements that are not finite. `equal_nans` are NaN on both sides, bit for bit the same."""

    nan_reference: int = 0
    nan_candidate: int = 0
    inf_reference: int = 0
    inf_candidate: int = 0
    equal_nans: int = 0
    first: int | None = None  # flat position of the first, on either side


def measure_all(reference: Tensor, candidate: Tensor, plan: TilePlan) -> Sums:
    """Measure two (L, M) matrices; on a CPU, slabs of tiles run on as many threads as torch would use."""
    slab_tiles = -(-len(plan.tiles) // _SLABS)
    same_dtype = reference.dtype == candidate.dtype
    bits = _BITS[reference.element_size()]
    nothing = torch.empty(0, 0, dtype=bits, device=reference.device)
    reference_bits, candidate_bits = (reference.view(bits), candidate.view(bits)) if same_dtype else (nothing, nothing)
    half = same_dtype and reference.dtype in HALF
    measure_tiles = tile_loop(reference.device.type)

    def zeros(*size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.float64, device=reference.device)

    def measure(first: int) -> Sums:
        tiles = plan.tiles[first : first + slab_tiles]
        sums = Sums(
            leading=zeros(2, sum(bottom - top for top, bottom, _, _ in tiles)),
            trailing=zeros(2, plan.trailing if plan.trailing <= PROFILE_LIMIT else 0),
            totals=zeros(len(tiles), len(TOTALS)),
            ulp_counts=torch.zeros(BINS if half else 0, dtype=torch.int64, device=reference.device),
        )
        with torch.no_grad():  # grad mode belongs to a thread
            measure_tiles(
                reference,
                candidate,
                reference_bits,
                candidate_bits,
                tiles,
                sums.leading,
                sums.trailing,
                sums.totals,
                sums.ulp_counts,
                BATCH,
            )
        return sums

    firsts = range(0, len(plan.tiles), slab_tiles)
    threads = torch.get_num_threads()
    if reference.device.type == "cpu" and threads > 1:
        try:
            # one thread inside each worker: torch's own would fight the workers for the cores
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                slabs = list(pool.map(measure, firsts))
        finally:
            torch.set_num_threads(threads)  # a worker's setting is also the default of threads to come
    else:
        slabs = [measure(first) for first in firsts]
    return Sums(
        leading=torch.cat([slab.leading for slab in slabs], dim=1).view(2, plan.leading, -1).sum(2).cpu(),
        trailing=torch.stack([slab.trailing for slab in slabs]).sum(0).cpu(),
        totals=torch.cat([slab.totals for slab in slabs]).cpu(),
        ulp_counts=torch.stack([slab.ulp_counts for slab in slabs]).sum(0).cpu(),
    )


def take_census(reference: Tensor, candidate: Tensor, plan: TilePlan, sums: Sums) -> Census:
    """Look again at the tiles whose sums are not finite; a healthy pair has none."""
    spoiled = ~(sums.of_tiles("error_abs") + sums.of_tiles("candidate_square")).isfinite()
    counts, first = [0] * 5, None
    for index in torch.nonzero(spoiled).flatten().tolist():
        tile = plan.tiles[index]
        r, c = part(reference, tile).double(), part(candidate, tile).double()
        both_nan = r.isnan() & c.isnan()
        if reference.dtype == candidate.dtype:
            as_bits = _BITS[reference.element_size()]
            equal_nans = both_nan & (part(reference, tile).view(as_bits) == part(candidate, tile).view(as_bits))
        else:
            equal_nans = torch.zeros_like(both_nan)
        masks = (r.isnan(), c.isnan(), r.isinf(), c.isinf(), equal_nans)
        counts = [count + int(mask.sum()) for count, mask in zip(counts, masks, strict=True)]
        bad = ~(r.isfinite() & c.isfinite()).flatten()
        if first is None and bool(bad.any()):  # squares of huge float64 values overflow with none bad
            first = plan.position(tile, bad.int().argmax())
    return Census(
        nan_reference=counts[0],
        nan_candidate=counts[1],
        inf_reference=counts[2],
        inf_candidate=counts[3],
        equal_nans=counts[4],
        first=first,
    )


def worst_position(reference: Tensor, candidate: Tensor, plan: TilePlan, sums: Sums) -> int:
    """Return the flat position of the first element whose absolute error is the largest."""
    tile = plan.tiles[int(sums.of_tiles("max_abs").argmax())]
    return plan.position(tile, (part(candidate, tile).double() - part(reference, tile).double()).abs().argmax())
