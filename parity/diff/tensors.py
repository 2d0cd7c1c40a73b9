"""Differences between two tensors, in one pass, in float64, where the tensors lie.

Axes: L leading axes taken together, M trailing axes taken together; N elements = L * M.

Every sum runs in float64 over small tiles, so neither tensor is ever copied whole to float64 or to another device: on
a CPU a tile fits the cache of one core, and threads share the tiles. Tiles are grouped into a fixed number of slabs
and the slabs are added in order, so the result does not depend on how many threads there are. A tile is looked at a
second time only to say where in it the worst, or a non-finite, element lies.

The error of every axis comes from two families of partial sums: one per leading index and one per trailing index.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from parity.diff.finding import Finding, non_finite_findings
from parity.diff.metric import tensor_metrics
from runners.errors import ShapeError

PERCENTILES: Final = (50, 90, 99, 100)
PROFILE_LIMIT: Final = 2**20  # partial sums kept per family; axes of a larger family get no profile
_CPU_TILE: Final = 2**15 - 1  # elements; torch runs an operation below 2**15 elements on the calling thread alone
_ACCELERATOR_TILE: Final = 2**22  # elements; 32 MiB in float64
_SLABS: Final = 8
_ULP_BATCH: Final = (
    2**20
)  # distances counted at a time: clearing 65536 bins for every tile would cost more than the rest
_ULP_BINS: Final = 2**16
_HALF: Final = (torch.bfloat16, torch.float16)
_BITS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by element size in bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorDiff:
    """What separates a candidate tensor from its reference. A number that could not be computed is `nan`.

    `axis_profile[a]` is relative L2 for each index of axis a (float64 on the CPU; `inf` where the reference is zero but
    the candidate is not) or None where the axis is too long to profile. `worst_index` is where the absolute error is
    largest, or the first element that is not finite; None where nothing was compared.
    `ulp` holds the percentiles of `PERCENTILES`, and is `nan` unless both sides are bf16 or both fp16.
    """

    shape_reference: tuple[int, ...]
    shape_candidate: tuple[int, ...]
    dtype_reference: torch.dtype
    dtype_candidate: torch.dtype
    bit_equal: bool
    relative_l2: float = math.nan
    cosine: float = math.nan
    max_abs: float = math.nan
    mean_abs: float = math.nan
    ulp: tuple[float, ...] = (math.nan,) * len(PERCENTILES)
    value_mismatches: float = math.nan
    bit_mismatches: float = math.nan
    nan_reference: int = 0
    nan_candidate: int = 0
    inf_reference: int = 0
    inf_candidate: int = 0
    worst_index: tuple[int, ...] | None = None
    axis_profile: tuple[Tensor | None, ...] = ()
    findings: tuple[Finding, ...] = ()

    def summary(self, prefix: str) -> dict[str, float]:
        """Return the numbers of `tensor_metrics(prefix)`, by name."""
        compared = self.shape_reference == self.shape_candidate and math.prod(self.shape_reference) > 0
        non_finite = self.nan_reference + self.nan_candidate + self.inf_reference + self.inf_candidate
        values = (
            self.relative_l2,
            self.cosine,
            self.max_abs,
            self.mean_abs,
            *self.ulp,
            self.value_mismatches,
            self.bit_mismatches,
            float(non_finite) if compared else math.nan,
        )
        return {metric.name: value for metric, value in zip(tensor_metrics(prefix), values, strict=True)}


def compare(
    reference: Tensor, candidate: Tensor, *, where: str = "tensor", tile_elements: int | None = None
) -> TensorDiff:
    """Compare two tensors of any real dtype on one device.

    Args:
        reference: any shape; bf16, fp16, fp32, fp64, fp8, integer or bool, on a CPU or an accelerator.
        candidate: the same shape and device; another dtype is allowed (an fp32 oracle beside a bf16 run) and leaves bit
            mismatches and ULP distances `nan`. A tensor that is not contiguous is copied once on its own device.
        where: how findings call this tensor.
        tile_elements: elements measured at a time; by default what suits the device.
    Returns: a TensorDiff. Different shapes, no elements, NaN and Inf are findings in it.
    Raises: ShapeError for complex tensors, tensors on two devices, or a tile of less than one element.
    """
    if reference.is_complex() or candidate.is_complex():
        raise ShapeError(f"{where}: compare wants real tensors; got {reference.dtype} and {candidate.dtype}.")
    if reference.device != candidate.device:
        raise ShapeError(
            f"{where}: compare wants both tensors on one device; got {reference.device} and {candidate.device}. "
            "Move the smaller one first."
        )
    if tile_elements is None:
        tile_elements = _CPU_TILE if reference.device.type == "cpu" else _ACCELERATOR_TILE
    if tile_elements < 1:
        raise ShapeError(f"{where}: tile_elements wants at least 1; got {tile_elements}.")

    finding = _cannot_compare(reference, candidate, where)
    if finding is not None:
        return TensorDiff(
            shape_reference=tuple(reference.shape),
            shape_candidate=tuple(candidate.shape),
            dtype_reference=reference.dtype,
            dtype_candidate=candidate.dtype,
            bit_equal=False,
            findings=(finding,),
        )

    split = _balanced_split(reference.shape)
    leading = math.prod(reference.shape[:split])
    plan = _Plan(leading, reference.numel() // leading, tile_elements)
    flat_reference = reference.detach().contiguous().view(leading, -1)  # (L, M)
    flat_candidate = candidate.detach().contiguous().view(leading, -1)  # (L, M)
    sums = _measure_all(flat_reference, flat_candidate, plan)
    census, first_bad = _census(flat_reference, flat_candidate, plan, sums)
    finite = first_bad is None
    same_dtype = reference.dtype == candidate.dtype
    has_ulp = finite and same_dtype and reference.dtype in _HALF
    position = _worst(flat_reference, flat_candidate, plan, sums) if first_bad is None else first_bad
    # bits, because float64 cannot tell large integers apart
    by_bits = same_dtype and not reference.is_floating_point()
    error_square, reference_square = sums.leading.sum(1).tolist()
    return TensorDiff(
        shape_reference=tuple(reference.shape),
        shape_candidate=tuple(candidate.shape),
        dtype_reference=reference.dtype,
        dtype_candidate=candidate.dtype,
        bit_equal=same_dtype and sums.total("bit_mismatches") == 0,
        relative_l2=_ratio(error_square, reference_square) if finite else math.nan,
        cosine=_cosine(error_square, reference_square, sums) if finite else math.nan,
        max_abs=float(sums.totals[:, _TOTALS.index("max_abs")].max()) if finite else math.nan,
        mean_abs=sums.total("error_abs") / reference.numel() if finite else math.nan,
        ulp=_percentiles(sums.ulp_counts) if has_ulp else (math.nan,) * len(PERCENTILES),
        value_mismatches=sums.total("bit_mismatches" if by_bits else "value_mismatches"),
        bit_mismatches=sums.total("bit_mismatches") if same_dtype else math.nan,
        nan_reference=census[0],
        nan_candidate=census[1],
        inf_reference=census[2],
        inf_candidate=census[3],
        worst_index=tuple(int(i) for i in torch.unravel_index(torch.tensor(position), reference.shape)),
        axis_profile=_profile(sums.leading, reference.shape[:split]) + _profile(sums.trailing, reference.shape[split:]),
        findings=non_finite_findings(where, *census),
    )


def _cannot_compare(reference: Tensor, candidate: Tensor, where: str) -> Finding | None:
    shapes = f"reference is {tuple(reference.shape)}, candidate is {tuple(candidate.shape)}"
    if reference.numel() == 0 or candidate.numel() == 0:
        return Finding(code="empty", where=where, message=shapes)
    if reference.shape != candidate.shape:
        return Finding(code="shape_mismatch", where=where, message=shapes)
    return None


def _balanced_split(shape: Sequence[int]) -> int:
    """Return how many leading axes to take together: fewest partial sums, L + M, with L within the limit."""
    splits = (k for k in range(len(shape) + 1) if math.prod(shape[:k]) <= PROFILE_LIMIT)
    return min(splits, key=lambda k: math.prod(shape[:k]) + math.prod(shape[k:]))


_TOTALS: Final = ("candidate_square", "product", "error_abs", "max_abs", "value_mismatches", "bit_mismatches")


class _Plan:
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
class _Sums:
    """All partial sums, float64 on the CPU. The first axis of the first two is (squared error, squared reference)."""

    leading: Tensor  # (2, L)
    trailing: Tensor  # (2, M), or (2, 0) where M is beyond the profile limit
    totals: Tensor  # (tiles, _TOTALS)
    ulp_counts: Tensor  # (distances,) int64

    def total(self, name: str) -> float:
        """Return the sum over tiles of one of `_TOTALS`."""
        return float(self.totals[:, _TOTALS.index(name)].sum())


class _Slab:
    """Measures of consecutive tiles. What a tile yields stays a tensor until the end, so an accelerator never waits."""

    def __init__(self, plan: _Plan, device: torch.device) -> None:
        self._error_norms: list[Tensor] = []  # of each row of each tile
        self._reference_norms: list[Tensor] = []
        kept = plan.trailing if plan.trailing <= PROFILE_LIMIT else 0
        self._trailing = torch.zeros(2, plan.height, kept, dtype=torch.float64, device=device)
        self._totals: list[Tensor] = []  # _TOTALS of each tile, one after another
        self._ulp_counts = torch.zeros(_ULP_BINS, dtype=torch.int64, device=device)
        buffer = max(_ULP_BATCH, plan.height * plan.width)
        self._distances = torch.empty(buffer, dtype=torch.int32, device=device)
        self._waiting = 0  # distances in the buffer that are not counted yet

    def measure(self, reference: Tensor, candidate: Tensor, columns: slice) -> None:
        """Add one tile, (l, m) at these columns of the matrix."""
        r, c = reference.double(), candidate.double()  # (l, m) float64
        error = c - r
        self._error_norms.append(torch.linalg.vector_norm(error, dim=1))  # (l,)
        self._reference_norms.append(torch.linalg.vector_norm(r, dim=1))  # (l,)
        if self._trailing.shape[2]:
            self._trailing[0, : len(r), columns].addcmul_(error, error)
            self._trailing[1, : len(r), columns].addcmul_(r, r)
        flat = c.reshape(-1)
        self._totals += (torch.dot(flat, flat), torch.dot(r.reshape(-1), flat))
        # a comparison that writes floats is several times as fast as one that writes bools
        unequal = torch.ne(error, 0, out=torch.empty_like(error)).sum()  # NaN counts: it equals nothing
        magnitude = error.abs_()
        self._totals += (magnitude.sum(), magnitude.amax(), unequal)
        self._totals.append(self._compare_bits(reference, candidate) if reference.dtype == candidate.dtype else unequal)

    def sums(self) -> _Sums:
        """Return what the tiles of this slab add up to, on the CPU; row sums and totals stay apart, tile by tile."""
        self._count_distances()
        norms = torch.stack((torch.cat(self._error_norms), torch.cat(self._reference_norms)))  # (2, rows of all tiles)
        return _Sums(
            leading=norms.square().cpu(),
            trailing=self._trailing.sum(1).cpu(),
            totals=torch.stack(self._totals).view(-1, len(_TOTALS)).cpu(),
            ulp_counts=self._ulp_counts.cpu(),
        )

    def _compare_bits(self, reference: Tensor, candidate: Tensor) -> Tensor:
        """Return how many elements differ in their bits, and note the ULP distances of 16-bit floats."""
        bits = _BITS[reference.element_size()]
        is_half = reference.dtype in _HALF
        reference, candidate = reference.view(bits), candidate.view(bits)
        unequal = torch.ne(reference, candidate, out=reference.new_empty(reference.shape, dtype=torch.float32))
        if is_half:
            self._note_distances(reference, candidate)
        return unequal.sum(dtype=torch.float64)

    def _note_distances(self, reference: Tensor, candidate: Tensor) -> None:
        """Note the distance between the bits of 16-bit floats in representable values; -0.0 and 0.0 are one value."""

        def ordered(bits: Tensor) -> Tensor:
            sign = bits >> 15  # 0 or -1
            return (bits ^ (sign & 0x7FFF)) - sign  # negative values become minus their magnitude

        if self._waiting + reference.numel() > len(self._distances):
            self._count_distances()
        buffer = self._distances[self._waiting : self._waiting + reference.numel()].view(reference.shape)
        torch.sub(ordered(candidate).int(), ordered(reference), out=buffer).abs_()
        self._waiting += reference.numel()

    def _count_distances(self) -> None:
        """Move the distances that wait into the histogram."""
        self._ulp_counts += torch.bincount(self._distances[: self._waiting], minlength=_ULP_BINS)
        self._waiting = 0


def _measure_all(reference: Tensor, candidate: Tensor, plan: _Plan) -> _Sums:
    """Measure (L, M) matrices tile by tile; on a CPU, slabs of tiles run on as many threads as torch would use."""
    slab_tiles = -(-len(plan.tiles) // _SLABS)

    def measure(first: int) -> _Sums:
        slab = _Slab(plan, reference.device)
        with torch.no_grad():  # grad mode belongs to a thread
            for tile in plan.tiles[first : first + slab_tiles]:
                slab.measure(reference[tile], candidate[tile], tile[1])
            return slab.sums()

    firsts = range(0, len(plan.tiles), slab_tiles)
    threads = min(len(firsts), torch.get_num_threads()) if reference.device.type == "cpu" else 1
    with ThreadPoolExecutor(threads) as pool:
        slabs = list(pool.map(measure, firsts))
    return _Sums(
        leading=torch.cat([slab.leading for slab in slabs], dim=1).view(2, plan.leading, -1).sum(2),
        trailing=torch.stack([slab.trailing for slab in slabs]).sum(0),
        totals=torch.cat([slab.totals for slab in slabs]),
        ulp_counts=torch.stack([slab.ulp_counts for slab in slabs]).sum(0),
    )


def _census(
    reference: Tensor, candidate: Tensor, plan: _Plan, sums: _Sums
) -> tuple[tuple[int, int, int, int], int | None]:
    """Count NaN in the reference and candidate, then Inf in each, and find the first such element's flat position."""
    counts, first = [0, 0, 0, 0], None
    spoiled = sums.totals[:, _TOTALS.index("error_abs")] + sums.totals[:, _TOTALS.index("candidate_square")]
    for tile_index in torch.nonzero(~spoiled.isfinite()).flatten().tolist():
        tile = plan.tiles[tile_index]
        r, c = reference[tile].double(), candidate[tile].double()
        masks = (r.isnan(), c.isnan(), r.isinf(), c.isinf())
        counts = [count + int(mask.sum()) for count, mask in zip(counts, masks, strict=True)]
        bad = (masks[0] | masks[1] | masks[2] | masks[3]).flatten()
        if first is None and bool(bad.any()):  # squares of huge float64 values overflow with none bad
            first = plan.position(tile, bad.int().argmax())
    return (counts[0], counts[1], counts[2], counts[3]), first


def _worst(reference: Tensor, candidate: Tensor, plan: _Plan, sums: _Sums) -> int:
    """Return the flat position of the first element whose absolute error is the largest."""
    tile = plan.tiles[int(sums.totals[:, _TOTALS.index("max_abs")].argmax())]
    return plan.position(tile, (candidate[tile].double() - reference[tile].double()).abs().argmax())


def _ratio(error_square: float, reference_square: float) -> float:
    if reference_square == 0:
        return 0.0 if error_square == 0 else math.inf
    return math.sqrt(error_square / reference_square)


def _cosine(error_square: float, reference_square: float, sums: _Sums) -> float:
    if error_square == 0:
        return 1.0  # equal tensors, all-zero ones too
    norms = math.sqrt(reference_square) * math.sqrt(sums.total("candidate_square"))
    return min(1.0, max(-1.0, sums.total("product") / norms)) if norms else math.nan  # rounding can step over 1


def _percentiles(counts: Tensor) -> tuple[float, ...]:
    """Return nearest-rank percentiles: the smallest distance that at least p % of the elements do not exceed."""
    cumulative = counts.cpu().cumsum(0)
    ranks = [-(-int(cumulative[-1]) * p // 100) for p in PERCENTILES]  # ceil(n * p / 100), in integers
    return tuple(float(torch.searchsorted(cumulative, rank)) for rank in ranks)


def _profile(partial: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor | None, ...]:
    """Return relative L2 for each index of each of these axes, from their (2, product of sizes) partial sums."""
    if partial.shape[1] == 0:
        return (None,) * len(sizes)
    shaped = partial.cpu().view(2, *sizes)
    profiles = []
    for axis in range(1, shaped.ndim):
        others = [a for a in range(1, shaped.ndim) if a != axis]
        error, reference = shaped.sum(others) if others else shaped  # each (size of the axis,)
        relative = torch.where(error == 0, 0.0, (error / reference).sqrt())  # x / 0 is inf, as wanted
        profiles.append(relative)
    return tuple(profiles)
