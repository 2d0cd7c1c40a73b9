"""Float64 sums over two matrices, tile by tile, in one pass and where they lie.

Axes: L rows, M columns of the matrices; l, m those of one tile.

Every sum runs in float64 over small tiles, so neither matrix is ever copied whole to float64 or to another device: on a
CPU what a tile needs fits the second-level cache of a core, and threads share the tiles. Tiles are grouped into a fixed
number of slabs and the slabs are added in order, so the result does not depend on how many threads there are. A tile is
looked at a second time only to say where in it the worst, or a non-finite, element lies.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

PROFILE_LIMIT: Final = 2**20  # sums kept for rows, or columns; of more columns only the totals are known
CPU_TILE: Final = 2**16  # elements
ACCELERATOR_TILE: Final = 2**22  # elements; 32 MiB in float64
LARGEST_TILE: Final = 2**24  # elements; up to here a float32 counts them exactly
HALF: Final = (torch.bfloat16, torch.float16)
_SLABS: Final = 8
_ULP_BINS: Final = 2**16
_ULP_BATCH: Final = 2**18  # distances counted at a time: clearing the bins for every tile would cost more than the rest
_BITS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by element size in bytes
_TOTALS: Final = ("candidate_square", "error_abs", "max_abs", "value_mismatches", "bit_mismatches")


class Plan:
    """How a matrix (L, M) is cut into tiles of whole rows or, where one row is too long for a tile, parts of a row."""

    def __init__(self, leading: int, trailing: int, tile_elements: int) -> None:
        self.leading, self.trailing = leading, trailing
        self.height = max(1, tile_elements // trailing)
        self.width = min(trailing, tile_elements)
        # in the order of the flat tensor, so the first tile that qualifies holds the first element that does
        self.tiles = [
            (slice(row, row + self.height), slice(column, column + self.width))
            for row in range(0, leading, self.height)
            for column in range(0, trailing, self.width)
        ]

    def position(self, tile: tuple[slice, slice], index: Tensor) -> int:
        """Return the position in the flat tensor of the element at a flat index into a tile."""
        rows, columns = tile
        row, column = divmod(int(index), min(self.width, self.trailing - columns.start))
        return int((rows.start + row) * self.trailing + columns.start + column)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """Partial sums, float64 on the CPU. The first axis of the first two is (squared error, squared reference).

    `ulp_counts[d]` counts the 16-bit floats whose two sides are d representable values apart.
    """

    leading: Tensor  # (2, L)
    trailing: Tensor  # (2, M), or (2, 0) where M is beyond the limit
    totals: Tensor  # (tiles, names in _TOTALS)
    ulp_counts: Tensor  # (distances,) int64

    def of_tiles(self, name: str) -> Tensor:
        """Return one of `_TOTALS` for each tile."""
        return self.totals[:, _TOTALS.index(name)]

    def total(self, name: str) -> float:
        """Return the sum over tiles of one of `_TOTALS`."""
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


def measure_all(reference: Tensor, candidate: Tensor, plan: Plan) -> Sums:
    """Measure two (L, M) matrices; on a CPU, slabs of tiles run on as many threads as torch would use."""
    slab_tiles = -(-len(plan.tiles) // _SLABS)

    def measure(first: int) -> Sums:
        tiles = plan.tiles[first : first + slab_tiles]
        slab = _Slab(plan, tiles, reference.device)
        with torch.no_grad():  # grad mode belongs to a thread
            for tile in tiles:
                slab.measure(reference[tile], candidate[tile], tile[1])
            return slab.sums()

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
        leading=torch.cat([slab.leading for slab in slabs], dim=1).view(2, plan.leading, -1).sum(2),
        trailing=torch.stack([slab.trailing for slab in slabs]).sum(0),
        totals=torch.cat([slab.totals for slab in slabs]),
        ulp_counts=torch.stack([slab.ulp_counts for slab in slabs]).sum(0),
    )


def take_census(reference: Tensor, candidate: Tensor, plan: Plan, sums: Sums) -> Census:
    """Look again at the tiles whose sums are not finite; a healthy pair has none."""
    spoiled = ~(sums.of_tiles("error_abs") + sums.of_tiles("candidate_square")).isfinite()
    counts, first = [0] * 5, None
    for index in torch.nonzero(spoiled).flatten().tolist():
        tile = plan.tiles[index]
        r, c = reference[tile].double(), candidate[tile].double()
        both_nan = r.isnan() & c.isnan()
        if reference.dtype == candidate.dtype:
            as_bits = _BITS[reference.element_size()]
            equal_nans = both_nan & (reference[tile].view(as_bits) == candidate[tile].view(as_bits))
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


def worst_position(reference: Tensor, candidate: Tensor, plan: Plan, sums: Sums) -> int:
    """Return the flat position of the first element whose absolute error is the largest."""
    tile = plan.tiles[int(sums.of_tiles("max_abs").argmax())]
    return plan.position(tile, (candidate[tile].double() - reference[tile].double()).abs().argmax())


class _Scratch:
    """Working memory for tiles of one shape (l, m), taken once: allocating for each tile would fragment the heap."""

    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        self.shape = shape
        self.r, self.c = torch.empty(2, *shape, dtype=torch.float64, device=device)
        self.flat_c = self.c.view(-1)
        # bits are compared before r is filled, in its memory, so that all of this stays in the cache
        spare = self.r.view(torch.int16).view(4, *shape)
        self.opposite, self.magnitude, self.other, _ = spare
        # a comparison that writes floats is several times as fast as one that writes bools
        self.unequal = spare[:2].view(-1).view(torch.float32).view(shape)


class _Slab:
    """Measures of some consecutive tiles. They stay tensors until the end, so that an accelerator never waits."""

    def __init__(self, plan: Plan, tiles: Sequence[tuple[slice, slice]], device: torch.device) -> None:
        rows = sum(min(tile_rows.stop, plan.leading) - tile_rows.start for tile_rows, _ in tiles)
        # squared error and squared reference, summed over each row of each tile, and over all rows
        self._leading = torch.empty(2, rows, dtype=torch.float64, device=device)
        kept = plan.trailing if plan.trailing <= PROFILE_LIMIT else 0
        self._trailing = torch.zeros(2, kept, dtype=torch.float64, device=device)
        self._rows = 0  # measured so far
        self._totals = torch.empty(len(tiles), len(_TOTALS), dtype=torch.float64, device=device)
        self._tiles = 0  # measured so far
        self._ulp_counts = torch.zeros(_ULP_BINS, dtype=torch.int64, device=device)
        self._distances = torch.empty(max(_ULP_BATCH, plan.height * plan.width), dtype=torch.int32, device=device)
        self._waiting = 0  # distances in the buffer that are not counted yet
        self._scratch = _Scratch((plan.height, plan.width), device)

    def measure(self, reference: Tensor, candidate: Tensor, columns: slice) -> None:
        """Add one tile, (l, m) at these columns of the matrix."""
        height, width = reference.shape
        if self._scratch.shape != (height, width):  # the last rows or columns
            self._scratch = _Scratch((height, width), reference.device)
        scratch = self._scratch
        mismatches = self._count_mismatches(reference, candidate)
        r, c = scratch.r.copy_(reference), scratch.c.copy_(candidate)
        candidate_square = torch.dot(scratch.flat_c, scratch.flat_c)
        error = c.sub_(r).abs_()
        totals = (candidate_square, error.sum(), error.amax(), *mismatches)
        torch.stack(totals, out=self._totals[self._tiles])
        for side, values in enumerate((error, r)):
            squares = values.mul_(values)
            torch.sum(squares, 1, out=self._leading[side, self._rows : self._rows + height])
            if self._trailing.shape[1]:
                self._trailing[side, columns] += squares.sum(0)
        self._rows += height
        self._tiles += 1

    def sums(self) -> Sums:
        """Return what the tiles add up to, on the CPU; row sums and totals stay apart, tile by tile."""
        self._count_distances()
        return Sums(
            leading=self._leading.cpu(),
            trailing=self._trailing.cpu(),
            totals=self._totals.cpu(),
            ulp_counts=self._ulp_counts.cpu(),
        )

    def _count_mismatches(self, reference: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many values and how many bit patterns differ, and note the ULP distances of 16-bit floats.

        A count not taken here is zero: bits of two dtypes, and values of 16-bit floats, which the histogram of
        distances yields for less.
        """
        unequal, not_taken = self._scratch.unequal, self._totals.new_zeros(())
        if reference.dtype != candidate.dtype:
            return torch.ne(reference, candidate, out=unequal).sum(), not_taken
        bits = _BITS[reference.element_size()]
        reference_bits, candidate_bits = reference.view(bits), candidate.view(bits)
        if reference.dtype in HALF:
            self._note_distances(reference_bits, candidate_bits)
            return not_taken, torch.ne(reference_bits, candidate_bits, out=unequal).sum()
        # NaN equals nothing; integers are compared as such, beyond what float64 can tell apart
        values = torch.ne(reference, candidate, out=unequal).sum()
        return values, torch.ne(reference_bits, candidate_bits, out=unequal).sum()

    def _note_distances(self, reference: Tensor, candidate: Tensor) -> None:
        """Note the distance between the bits of 16-bit floats in representable values; -0.0 and 0.0 are one value."""
        scratch = self._scratch
        opposite = torch.bitwise_xor(reference, candidate, out=scratch.opposite)
        opposite >>= 15  # -1 where the signs differ, else 0
        magnitude = torch.bitwise_and(reference, 0x7FFF, out=scratch.magnitude)
        other = torch.bitwise_and(candidate, 0x7FFF, out=scratch.other).bitwise_xor_(opposite).sub_(opposite)  # signed
        if self._waiting + reference.numel() > len(self._distances):
            self._count_distances()
        distances = self._distances[self._waiting : self._waiting + reference.numel()].view(reference.shape)
        distances.copy_(magnitude).sub_(other).abs_()  # int32: beyond 32767 across zero
        self._waiting += reference.numel()

    def _count_distances(self) -> None:
        """Move the distances that wait into the histogram."""
        self._ulp_counts += torch.bincount(self._distances[: self._waiting], minlength=_ULP_BINS)
        self._waiting = 0
