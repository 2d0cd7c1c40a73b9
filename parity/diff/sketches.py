"""Relative L2 between two tensors, from their sketches alone, with a confidence interval.

Axes: K bucket.

The sketch of a difference is the difference of the sketches, so with d = candidate - reference and D the sum of squared
bucket differences, D is an unbiased estimate of |d|^2. Where many elements differ, each bucket difference is close to
normal with variance |d|^2 / K, so K D / |d|^2 follows a chi-square law with K degrees of freedom. That gives

* the 95 % interval of |d|: sqrt(K D / chi2(0.975)) to sqrt(K D / chi2(0.025)); at 64 buckets about -15 % to +21 %;
* the factor E[sqrt(D)] / |d| = sqrt(2 / K) Gamma((K + 1) / 2) / Gamma(K / 2), about 1 - 1 / (4 K), which the estimate
  is divided by, so that it is unbiased in |d| and not only in its square.

Where few elements differ, buckets hold one of them each, D is more exact than that law says and the interval too wide.
Sums are stored in float32, so a relative difference below `ROUNDING_FLOOR` cannot be told from rounding: then only its
upper bound is known. Equal checksums of equal dtypes mean equal bits, and the answer is exactly zero.

Source of the estimate: Charikar, Chen and Farach-Colton (2002), Alon, Matias and Szegedy (1996); chi-square quantiles
by Wilson and Hilferty (1931), within 0.4 % from 16 degrees on.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch

from parity.diff.comparison import Finding, non_finite_findings
from parity.trace.sketch import TapSketch
from runners.errors import ShapeError

ROUNDING_FLOOR: Final = 1e-6  # relative L2; float32 bucket sums of equal tensors on two devices differ by about 1e-7
_NORMAL_975: Final = 1.959963984540054  # 97.5th percentile of the standard normal law


@dataclass(frozen=True, kw_only=True)
class SketchDiff:
    """Relative L2 of a candidate tap. Numbers are `nan` wherever a finding says why they could not be computed.

    `estimate`, `low`, `high`: relative L2 and its 95 % interval, plain ratios; `inf` where the reference is all zero
    and the candidate is not. `bit_equal`: shape, dtype and every bit agree; then all three numbers are exactly 0.
    `dtypes`: the reference's and the candidate's where they differ, else empty; values may agree all the same.
    """

    bit_equal: bool
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    findings: tuple[Finding, ...] = ()
    dtypes: tuple[str, ...] = ()


EQUAL_BITS: Final = SketchDiff(bit_equal=True, estimate=0.0, low=0.0, high=0.0)


def relative_l2(reference: TapSketch, candidate: TapSketch, *, where: str = "tap") -> SketchDiff:
    """Estimate |candidate - reference| / |reference|.

    Args:
        reference: sketch of the reference tensor.
        candidate: sketch of the tensor under test; another dtype is allowed (an fp32 oracle beside a bf16 run).
        where: the tap's name, for findings.
    Returns: a SketchDiff. Different shapes, no elements, NaN and Inf on either side are findings in it, also where the
        bits agree: two runs that break alike are not at parity.
    Raises: ShapeError if the sketches have different numbers of buckets.
    """
    if reference.buckets.shape != candidate.buckets.shape:
        raise ShapeError(
            f"{where}: relative_l2 wants sketches with equally many buckets; got {reference.buckets.numel()} and "
            f"{candidate.buckets.numel()}. Record both runs with the same number."
        )
    bit_equal = reference.same_bits(candidate)
    findings = _findings(reference, candidate, where)
    if findings:
        return SketchDiff(bit_equal=bit_equal, findings=findings)
    if bit_equal:
        return EQUAL_BITS

    dtypes = () if reference.dtype == candidate.dtype else (reference.dtype, candidate.dtype)
    square = float((candidate.buckets.double() - reference.buckets.double()).square().sum())
    if reference.l2 == 0.0:  # -0.0 beside 0.0 has other bits and no difference
        ratio = 0.0 if candidate.l2 == 0.0 else math.inf
        return SketchDiff(bit_equal=False, estimate=ratio, low=ratio, high=ratio, dtypes=dtypes)
    norm = math.sqrt(square) / reference.l2
    law = _law(reference.buckets.numel())
    low, high = norm * law.low, max(norm * law.high, ROUNDING_FLOOR)
    low = low if norm > ROUNDING_FLOOR else 0.0
    return SketchDiff(bit_equal=False, estimate=norm * law.centre, low=low, high=high, dtypes=dtypes)


def _findings(reference: TapSketch, candidate: TapSketch, where: str) -> tuple[Finding, ...]:
    if reference.shape != candidate.shape:
        message = f"reference is {reference.shape}, candidate is {candidate.shape}"
        return (Finding(code="shape_mismatch", where=where, message=message),)
    if math.prod(reference.shape) == 0:
        return (Finding(code="empty", where=where, message=f"shape {reference.shape} holds no elements"),)
    found = non_finite_findings(
        where,
        nan_reference=reference.nan_count,
        nan_candidate=candidate.nan_count,
        inf_reference=reference.inf_count,
        inf_candidate=candidate.inf_count,
    )
    if not found:
        for side, sketch in (("reference", reference), ("candidate", candidate)):
            # In fp64 no sum of so few numbers overflows: it is finite where all of them are.
            if not (math.isfinite(sketch.l2) and math.isfinite(sketch.buckets.sum(dtype=torch.float64))):
                message = f"the {side}'s sums overflow float32, so its sketch says nothing"
                found = (*found, Finding(code=f"inf_{side}", where=where, message=message))
    return found


@dataclass(frozen=True, kw_only=True)
class _Law:
    """Factors from the root of D to the estimate and to the two ends of its 95 % interval."""

    centre: float
    low: float
    high: float


@lru_cache(maxsize=16)
def _law(buckets: int) -> _Law:
    mean_root = math.sqrt(2 / buckets) * math.exp(math.lgamma((buckets + 1) / 2) - math.lgamma(buckets / 2))
    spread = 2 / (9 * buckets)
    lower, upper = (buckets * (1 - spread + z * math.sqrt(spread)) ** 3 for z in (-_NORMAL_975, _NORMAL_975))
    return _Law(centre=1 / mean_root, low=math.sqrt(buckets / upper), high=math.sqrt(buckets / lower))
