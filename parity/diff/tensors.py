"""Differences between two tensors, in one pass, in float64, where the tensors lie.

Axes: L leading axes taken together, M trailing axes taken together; L * M elements in all.

The error of every axis comes from two families of partial sums, one for each leading index and one for each trailing
index; `parity.diff.tiles` takes them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from parity.diff import tiles
from parity.diff.comparison import Finding, non_finite_findings
from parity.diff.metric import tensor_metrics
from parity.diff.ulp import HALF
from runners.errors import ShapeError

PERCENTILES: Final = (50, 90, 99, 100)


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorDiff:
    """The differences of a candidate tensor from its reference. A number that could not be computed is `nan`.

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
    Raises: ShapeError for complex tensors, tensors on two devices, or a tile size out of range.
    """
    if reference.is_complex() or candidate.is_complex():
        raise ShapeError(f"{where}: compare wants real tensors; got {reference.dtype} and {candidate.dtype}.")
    if reference.device != candidate.device:
        raise ShapeError(
            f"{where}: compare wants both tensors on one device; got {reference.device} and {candidate.device}. "
            "Move the smaller one first."
        )
    if tile_elements is None:
        tile_elements = tiles.CPU_TILE if reference.device.type == "cpu" else tiles.ACCELERATOR_TILE
    if not 1 <= tile_elements <= tiles.LARGEST_TILE:
        raise ShapeError(f"{where}: tile_elements wants 1 to {tiles.LARGEST_TILE}; got {tile_elements}.")

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
    plan = tiles.TilePlan(leading, reference.numel() // leading, tile_elements)
    flat_reference = reference.detach().contiguous().view(leading, -1)  # (L, M)
    flat_candidate = candidate.detach().contiguous().view(leading, -1)  # (L, M)
    sums = tiles.measure_all(flat_reference, flat_candidate, plan)
    census = tiles.take_census(flat_reference, flat_candidate, plan, sums)
    finite = census.first is None
    position = (
        tiles.worst_position(flat_reference, flat_candidate, plan, sums) if census.first is None else census.first
    )
    same_dtype = reference.dtype == candidate.dtype
    is_half = same_dtype and reference.dtype in HALF
    if is_half:
        value_mismatches = float(reference.numel() - int(sums.ulp_counts[0]) + census.equal_nans)
    else:
        value_mismatches = sums.total("value_mismatches")
    error_square, reference_square = sums.leading.sum(1).tolist()
    return TensorDiff(
        shape_reference=tuple(reference.shape),
        shape_candidate=tuple(candidate.shape),
        dtype_reference=reference.dtype,
        dtype_candidate=candidate.dtype,
        bit_equal=same_dtype and sums.total("bit_mismatches") == 0,
        relative_l2=_ratio(error_square, reference_square) if finite else math.nan,
        cosine=_cosine(error_square, reference_square, sums.total("candidate_square")) if finite else math.nan,
        max_abs=float(sums.of_tiles("max_abs").max()) if finite else math.nan,
        mean_abs=sums.total("error_abs") / reference.numel() if finite else math.nan,
        ulp=_percentiles(sums.ulp_counts) if is_half and finite else (math.nan,) * len(PERCENTILES),
        value_mismatches=value_mismatches,
        bit_mismatches=sums.total("bit_mismatches") if same_dtype else math.nan,
        nan_reference=census.nan_reference,
        nan_candidate=census.nan_candidate,
        inf_reference=census.inf_reference,
        inf_candidate=census.inf_candidate,
        worst_index=tuple(int(i) for i in torch.unravel_index(torch.tensor(position), reference.shape)),
        axis_profile=_profile(sums.leading, reference.shape[:split]) + _profile(sums.trailing, reference.shape[split:]),
        findings=non_finite_findings(
            where,
            nan_reference=census.nan_reference,
            nan_candidate=census.nan_candidate,
            inf_reference=census.inf_reference,
            inf_candidate=census.inf_candidate,
        ),
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
    splits = (k for k in range(len(shape) + 1) if math.prod(shape[:k]) <= tiles.PROFILE_LIMIT)
    return min(splits, key=lambda k: math.prod(shape[:k]) + math.prod(shape[k:]))


def _ratio(error_square: float, reference_square: float) -> float:
    if reference_square == 0:
        return 0.0 if error_square == 0 else math.inf
    return math.sqrt(error_square / reference_square)


def _cosine(error_square: float, reference_square: float, candidate_square: float) -> float:
    if error_square == 0:
        return 1.0  # equal tensors, all-zero ones too
    norms = math.sqrt(reference_square) * math.sqrt(candidate_square)
    if norms == 0:
        return math.nan
    product = (reference_square + candidate_square - error_square) / 2  # of the two tensors: |c - r|^2 multiplied out
    return min(1.0, max(-1.0, product / norms))  # rounding can step over 1


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
