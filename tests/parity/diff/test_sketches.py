import math
from dataclasses import replace

import pytest
import torch

from parity.diff.sketches import ROUNDING_FLOOR, relative_l2
from parity.trace.sketch import TapSketch, sketch
from runners.errors import ShapeError


def tensor(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 50, 128, generator=torch.Generator().manual_seed(seed))


def with_buckets(buckets: torch.Tensor, l2: float, checksum: int = 1) -> TapSketch:
    fields = {"shape": (9,), "dtype": "float32", "max_abs": 1.0, "mean": 0.0, "nan_count": 0, "inf_count": 0}
    return TapSketch(checksum=checksum, l2=l2, buckets=buckets, **fields)  # type: ignore[arg-type]


def test_the_estimate_is_the_norm_of_the_bucket_differences_over_the_reference_corrected_for_its_bias() -> None:
    """Differences 3 and 4, norm 5 over 10; of 16 buckets the mean root chi-square is 0.98451 times 4."""
    reference = with_buckets(torch.zeros(16), l2=10.0)
    buckets = torch.zeros(16)
    buckets[2], buckets[7] = 3.0, -4.0
    diff = relative_l2(reference, with_buckets(buckets, l2=11.0, checksum=2))
    assert diff.estimate == pytest.approx(0.5 / 0.98451, rel=1e-4)
    # chi-square tables, 16 degrees of freedom: 6.908 at 2.5 % and 28.845 at 97.5 %
    assert diff.low == pytest.approx(0.5 * math.sqrt(16 / 28.845), rel=2e-3)
    assert diff.high == pytest.approx(0.5 * math.sqrt(16 / 6.908), rel=2e-3)
    assert not diff.bit_equal and not diff.findings


def test_the_interval_holds_95_percent_of_normal_differences() -> None:
    generator = torch.Generator().manual_seed(4)
    reference = with_buckets(torch.zeros(64), l2=1.0)
    inside, estimates = 0, []
    for _ in range(2000):
        diff = relative_l2(reference, with_buckets(torch.randn(64, generator=generator) / 8, l2=1.0, checksum=2))
        inside += diff.low <= 1.0 <= diff.high
        estimates.append(diff.estimate)
    assert 0.935 <= inside / 2000 <= 0.965
    assert sum(estimates) / 2000 == pytest.approx(1.0, abs=4 * 0.088 / math.sqrt(2000))


def test_equal_bits_are_exactly_zero_and_other_bits_never_are() -> None:
    one = sketch(tensor())
    same = relative_l2(one, sketch(tensor().clone()))
    assert same.bit_equal and (same.estimate, same.low, same.high) == (0.0, 0.0, 0.0)
    changed = tensor()
    changed[1, 2, 3] *= 1 + 2**-23
    nearly = relative_l2(one, sketch(changed))
    assert not nearly.bit_equal and nearly.low == 0.0 and nearly.high >= ROUNDING_FLOOR
    retyped = relative_l2(sketch(tensor().bfloat16()), sketch(tensor().bfloat16().float()))
    assert not retyped.bit_equal and retyped.estimate <= ROUNDING_FLOOR


def test_a_difference_below_rounding_has_no_lower_bound() -> None:
    reference = with_buckets(torch.ones(64), l2=8.0)
    off = torch.ones(64)
    off[0] += 1e-6
    diff = relative_l2(reference, with_buckets(off, l2=8.0, checksum=2))
    assert diff.low == 0.0 and diff.high == ROUNDING_FLOOR


def test_another_shape_is_a_finding_even_with_equally_many_elements() -> None:
    diff = relative_l2(sketch(tensor()), sketch(tensor().reshape(3, 128, 50)), where="x0/video")
    assert [(f.code, f.where) for f in diff.findings] == [("shape_mismatch", "x0/video")]
    assert math.isnan(diff.estimate) and math.isnan(diff.low) and math.isnan(diff.high) and not diff.bit_equal


@pytest.mark.parametrize(
    ("value", "side", "code"),
    [
        (math.nan, "reference", "nan_reference"),
        (math.nan, "candidate", "nan_candidate"),
        (-math.inf, "reference", "inf_reference"),
        (math.inf, "candidate", "inf_candidate"),
    ],
)
def test_a_value_that_is_not_finite_is_a_finding(value: float, side: str, code: str) -> None:
    broken = tensor()
    broken[0, 1, 2] = value
    good, bad = sketch(tensor()), sketch(broken)
    diff = relative_l2(bad, good) if side == "reference" else relative_l2(good, bad)
    assert [finding.code for finding in diff.findings] == [code] and math.isnan(diff.estimate)


def test_two_runs_that_break_alike_are_not_at_parity() -> None:
    broken = sketch(torch.tensor([1.0, math.nan]))
    diff = relative_l2(broken, broken)
    assert [finding.code for finding in diff.findings] == ["nan_reference", "nan_candidate"]
    assert math.isnan(diff.estimate)


def test_nothing_compared_is_a_finding() -> None:
    diff = relative_l2(sketch(torch.empty(0, 3)), sketch(torch.empty(0, 3)))
    assert [finding.code for finding in diff.findings] == ["empty"] and math.isnan(diff.estimate)


def test_sums_that_overflowed_are_a_finding() -> None:
    good = with_buckets(torch.ones(64), l2=8.0)
    for bad in (replace(good, l2=math.inf, checksum=2), with_buckets(torch.full((64,), math.inf), l2=1.0, checksum=2)):
        assert [finding.code for finding in relative_l2(good, bad).findings] == ["inf_candidate"]


def test_a_silent_reference() -> None:
    zero, negative_zero, some = torch.zeros(5), -torch.zeros(5), torch.ones(5)
    assert relative_l2(sketch(zero), sketch(some)).estimate == math.inf
    assert relative_l2(sketch(some), sketch(zero)).estimate == pytest.approx(1.0, rel=0.5)
    silent = relative_l2(sketch(zero), sketch(negative_zero))
    assert silent.estimate == 0.0 and not silent.bit_equal


def test_sketches_of_different_sizes_are_refused() -> None:
    with pytest.raises(ShapeError, match="64 and 128"):
        relative_l2(sketch(tensor()), sketch(tensor(), buckets=128))
