"""Tensor differences. Expected values are worked by hand or by numpy in float64."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from parity.diff import tensors, tiles
from parity.diff.comparison import CODES
from parity.diff.metric import METRICS, tensor_metrics
from parity.diff.tensors import PERCENTILES, TensorDiff
from runners.errors import ShapeError


def codes(diff: TensorDiff) -> set[str]:
    return {finding.code for finding in diff.findings}


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_metrics_of_a_small_pair_are_those_worked_by_hand() -> None:
    reference = torch.tensor([[3.0, 0.0, 4.0], [0.0, 0.0, 12.0]])  # squares: 9 + 16 + 144 = 169, norm 13
    candidate = torch.tensor([[3.0, 2.0, 4.0], [-3.0, 0.0, 18.0]])  # errors 2, -3, 6: squares 49, norm 7
    diff = tensors.compare(reference, candidate)
    assert diff.relative_l2 == pytest.approx(7 / 13, rel=1e-15)
    assert diff.max_abs == 6.0
    assert diff.mean_abs == pytest.approx(11 / 6, rel=1e-15)
    assert diff.cosine == pytest.approx((9 + 16 + 216) / (13 * math.sqrt(9 + 4 + 16 + 9 + 324)), rel=1e-15)
    assert diff.worst_index == (1, 2)
    assert (diff.value_mismatches, diff.bit_mismatches) == (3, 3)
    assert not diff.bit_equal
    rows, columns = diff.axis_profile
    assert rows is not None and columns is not None
    torch.testing.assert_close(rows, torch.tensor([2 / 5, math.sqrt(45) / 12], dtype=torch.float64))
    torch.testing.assert_close(
        columns, torch.tensor([3 / 3, math.inf, 6 / math.sqrt(160)], dtype=torch.float64)
    )  # column 1 is zero in the reference and not in the candidate


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("tile_elements", [1, 4, 7, 35, 100, None])
def test_every_tiling_agrees_with_numpy_in_float64(dtype: torch.dtype, tile_elements: int | None) -> None:
    generator = torch.Generator().manual_seed(3)
    reference = torch.randn(2, 3, 5, 7, generator=generator).to(dtype)
    candidate = (reference.float() + 0.1 * torch.randn(2, 3, 5, 7, generator=generator)).to(dtype)
    kept = reference.clone(), candidate.clone()
    diff = tensors.compare(reference, candidate, tile_elements=tile_elements)
    assert torch.equal(kept[0], reference) and torch.equal(kept[1], candidate)  # float64 inputs are not scratch space

    r, c = reference.double().numpy(), candidate.double().numpy()
    error = c - r
    assert diff.relative_l2 == pytest.approx(np.linalg.norm(error) / np.linalg.norm(r), rel=1e-13)
    assert diff.cosine == pytest.approx((r * c).sum() / np.linalg.norm(r) / np.linalg.norm(c), rel=1e-13)
    assert diff.max_abs == np.abs(error).max()
    assert diff.mean_abs == pytest.approx(np.abs(error).mean(), rel=1e-13)
    assert diff.worst_index == np.unravel_index(np.abs(error).argmax(), error.shape)
    assert diff.value_mismatches == diff.bit_mismatches == np.count_nonzero(error)
    for axis, profile in enumerate(diff.axis_profile):
        others = tuple(a for a in range(4) if a != axis)
        expected = np.sqrt((error**2).sum(others) / (r**2).sum(others))
        assert profile is not None
        np.testing.assert_allclose(profile.numpy(), expected, rtol=1e-12)


def test_a_profile_points_at_the_one_head_that_is_off() -> None:
    reference = torch.randn(2, 4, 6, 3, generator=torch.Generator().manual_seed(0))
    candidate = reference.clone()
    candidate[:, 2] *= 1.5
    profile = tensors.compare(reference, candidate).axis_profile[1]
    assert profile is not None
    torch.testing.assert_close(profile, torch.tensor([0.0, 0.0, 0.5, 0.0], dtype=torch.float64))


def bits(*values: int) -> Tensor:
    """Tensor of bf16 values from their sixteen bits."""
    return torch.tensor([v - 0x10000 if v > 0x7FFF else v for v in values], dtype=torch.int16).view(torch.bfloat16)


def test_ulp_distance_counts_representable_values_across_zero_and_both_zeros_are_one() -> None:
    reference = bits(0x3F80, 0x3F80, 0x0001, 0x0000, 0x7F7F, 0x0003)
    candidate = bits(0x3F81, 0x3F7E, 0x8001, 0x8000, 0xFF7F, 0x0003)
    # distances: 1 up, 2 down, one either side of zero = 2, zeros = 0, the extremes = 2 * 0x7F7F, equal = 0
    diff = tensors.compare(reference, candidate)
    assert PERCENTILES == (50, 90, 99, 100)  # of 0 0 1 2 2 65278, ranks 3, 6, 6, 6
    assert diff.ulp == (1.0, 65278.0, 65278.0, 65278.0)
    assert diff.value_mismatches == 4
    assert diff.bit_mismatches == 5  # the zeros too


@pytest.mark.usefixtures("restored_threads")
def test_ulp_percentiles_are_nearest_ranks_over_many_batches_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "BATCH", 64)
    torch.set_num_threads(3)
    offsets = torch.arange(1000)[torch.randperm(1000, generator=torch.Generator().manual_seed(1))]
    reference = torch.full((1000,), 0x3F80, dtype=torch.int16)
    candidate = (reference + offsets).to(torch.int16)
    diff = tensors.compare(reference.view(torch.bfloat16), candidate.view(torch.bfloat16), tile_elements=17)
    assert diff.ulp == (499.0, 899.0, 989.0, 999.0)  # distances 0..999: rank 500 is 499


def test_equal_bits_are_told_from_equal_values() -> None:
    zeros = torch.zeros(2, 3)
    assert tensors.compare(zeros, zeros.clone()).bit_equal
    signed = tensors.compare(zeros, -zeros)
    assert not signed.bit_equal
    assert (signed.value_mismatches, signed.bit_mismatches) == (0, 6)
    assert (signed.relative_l2, signed.cosine, signed.max_abs) == (0.0, 1.0, 0.0)
    payload = torch.tensor([0x7FC00001, 0x7FC00002], dtype=torch.int32).view(torch.float32)
    assert tensors.compare(payload, payload.clone()).bit_equal  # and a finding all the same
    assert not tensors.compare(payload, payload.flip(0)).bit_equal


def test_a_zero_reference_gives_no_benign_number() -> None:
    diff = tensors.compare(torch.zeros(3), torch.ones(3))
    assert diff.relative_l2 == math.inf
    assert math.isnan(diff.cosine)


def test_integers_that_float64_cannot_tell_apart_still_mismatch() -> None:
    reference = torch.tensor([2**60, 5])
    diff = tensors.compare(reference, reference + torch.tensor([1, 0]))
    assert (diff.bit_equal, diff.value_mismatches, diff.bit_mismatches) == (False, 1, 1)
    frames = torch.tensor([[0, 255, 3]], dtype=torch.uint8)
    assert tensors.compare(frames, frames.flip(1)).max_abs == 3.0
    assert tensors.compare(frames, 255 - frames).max_abs == 255.0  # nothing wraps
    assert tensors.compare(torch.tensor([True, False]), torch.tensor([True, True])).bit_mismatches == 1


def test_an_oracle_of_another_dtype_is_compared_by_value_alone() -> None:
    diff = tensors.compare(torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bfloat16))
    assert (diff.relative_l2, diff.bit_equal, diff.findings) == (0.0, False, ())
    assert math.isnan(diff.bit_mismatches)
    assert all(math.isnan(value) for value in diff.ulp)


@pytest.mark.parametrize(
    ("side", "value", "code"),
    [
        (0, math.nan, "nan_reference"),
        (1, math.nan, "nan_candidate"),
        (0, math.inf, "inf_reference"),
        (1, -math.inf, "inf_candidate"),
    ],
)
def test_a_value_that_is_not_finite_is_named_counted_and_located(side: int, value: float, code: str) -> None:
    pair = [torch.ones(2, 3, 5, dtype=torch.bfloat16), torch.ones(2, 3, 5, dtype=torch.bfloat16)]
    pair[side][1, 0, 3] = value
    pair[side][1, 2, 0] = value
    diff = tensors.compare(*pair, where="denoise/000/x0/video", tile_elements=4)
    assert codes(diff) == {code}
    assert diff.findings[0].where == "denoise/000/x0/video"
    assert diff.worst_index == (1, 0, 3)
    summary = diff.summary("video_latent")
    assert summary["video_latent.non_finite"] == 2
    for name in ("relative_l2", "cosine", "max_abs", "mean_abs", "ulp.p50", "ulp.p100"):
        assert math.isnan(summary[f"video_latent.{name}"])


def test_non_finite_on_both_sides_at_once_is_still_no_number() -> None:
    both = torch.tensor([1.0, math.inf, math.nan])
    diff = tensors.compare(both, both.clone())
    assert diff.bit_equal
    assert codes(diff) == {"nan_reference", "nan_candidate", "inf_reference", "inf_candidate"}
    assert math.isnan(diff.relative_l2)


def test_the_first_element_that_is_not_finite_is_the_worst_not_the_first_nan() -> None:
    diff = tensors.compare(
        torch.tensor([[1.0, 9.0, math.inf], [5.0, 3.0, 1.0]]), torch.tensor([[1.0, 2, 3], [4, math.nan, 6]])
    )
    assert diff.worst_index == (0, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_nan_is_a_mismatch_of_values_even_where_its_bits_agree(dtype: torch.dtype) -> None:
    both = torch.tensor([1.0, math.nan, 0.0, 2.0], dtype=dtype)
    diff = tensors.compare(both, both * torch.tensor([1, 1, -1, 2], dtype=dtype))
    assert (diff.value_mismatches, diff.bit_mismatches) == (2, 2)  # NaN and 4; -0.0 and 4


@pytest.mark.parametrize(
    ("reference", "candidate", "code"),
    [
        (torch.ones(2, 3), torch.ones(3, 2), "shape_mismatch"),
        (torch.ones(2, 3), torch.ones(1, 3), "shape_mismatch"),  # would broadcast
        (torch.ones(0, 3), torch.ones(0, 3), "empty"),
        (torch.ones(2, 3), torch.ones(0, 3), "empty"),
    ],
)
def test_what_cannot_be_compared_is_a_finding_and_every_number_is_nan(
    reference: Tensor, candidate: Tensor, code: str
) -> None:
    diff = tensors.compare(reference, candidate)
    assert codes(diff) == {code}
    assert not diff.bit_equal
    assert all(math.isnan(value) for value in diff.summary("video_latent").values())


def test_scalars_strided_views_and_tensors_that_need_grad_are_compared() -> None:
    assert tensors.compare(torch.tensor(2.0), torch.tensor(3.0)).worst_index == ()
    reference = torch.arange(30.0).view(2, 3, 5)
    moved = tensors.compare(reference.permute(2, 0, 1), (reference + 1).permute(2, 0, 1).requires_grad_())
    assert moved.mean_abs == 1.0
    assert moved.shape_candidate == (5, 2, 3)


def test_an_axis_too_long_to_profile_has_no_profile_and_keeps_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "PROFILE_LIMIT", 4)
    diff = tensors.compare(torch.ones(3, 7), 2 * torch.ones(3, 7))
    assert diff.axis_profile[0] is not None
    assert diff.axis_profile[1] is None
    assert diff.relative_l2 == pytest.approx(1.0, rel=1e-15)


def test_tiles_of_equal_bits_count_as_no_distance_beside_tiles_that_differ() -> None:
    reference = torch.full((10, 7), 0x3F80, dtype=torch.int16)
    candidate = reference.clone()
    candidate[6:] += 3  # 28 of 70 elements, in the last two of five tiles
    candidate[0, 0] += 9
    diff = tensors.compare(reference.view(torch.bfloat16), candidate.view(torch.bfloat16), tile_elements=14)
    assert diff.ulp == (0.0, 3.0, 9.0, 9.0)
    assert (diff.value_mismatches, diff.bit_mismatches) == (29, 29)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_torch_without_its_script_compiler_gives_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(11)
    reference, candidate = (torch.randn(13, 103, generator=generator).to(dtype) for _ in range(2))
    for _ in range(3):  # a script is optimised after it has run a few times
        scripted = tensors.compare(reference, candidate, tile_elements=60)
    assert isinstance(tiles.tile_loop("cpu"), torch.jit.ScriptFunction)
    loop = tiles.tile_loop
    monkeypatch.setattr(tiles, "tile_loop", lambda _: tiles.measure_tiles)
    plain = tensors.compare(reference, candidate, tile_elements=60)
    assert str(plain.summary("video_latent")) == str(scripted.summary("video_latent"))
    for one, other in zip(plain.axis_profile, scripted.axis_profile, strict=True):
        assert one is not None and other is not None and torch.equal(one, other)

    def refuse(_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(torch.jit, "script", refuse)
    assert loop.__wrapped__("cpu") is tiles.measure_tiles
    assert loop("cuda") is tiles.measure_tiles


@pytest.mark.usefixtures("restored_threads")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_result_does_not_depend_on_the_number_of_threads_and_leaves_it_as_it_was(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    reference, candidate = (torch.randn(11, 101, generator=generator).to(dtype) for _ in range(2))
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(tensors.compare(reference, candidate, tile_elements=50).summary("video_latent"))
        with ThreadPoolExecutor(1) as pool:
            assert torch.get_num_threads() == pool.submit(torch.get_num_threads).result() == threads
    assert str(results[0]) == str(results[1]) == str(results[2])


def test_a_callers_mistakes_raise() -> None:
    with pytest.raises(ShapeError, match="complex64"):
        tensors.compare(torch.ones(2, dtype=torch.complex64), torch.ones(2))
    with pytest.raises(ShapeError, match="meta"):
        tensors.compare(torch.ones(2), torch.ones(2, device="meta"))
    with pytest.raises(ShapeError, match="1 to 16777216; got 0"):
        tensors.compare(torch.ones(2), torch.ones(2), tile_elements=0)


def test_a_summary_holds_exactly_the_declared_metrics() -> None:
    summary = tensors.compare(torch.ones(2), torch.ones(2)).summary("video_latent")
    assert set(summary) == {metric.name for metric in tensor_metrics("video_latent")} <= set(METRICS)
    assert "empty" in CODES


@pytest.mark.gpu
def test_an_accelerator_gives_the_numbers_of_the_cpu() -> None:
    generator = torch.Generator().manual_seed(7)
    reference = torch.randn(3, 500, 700, generator=generator).bfloat16()
    candidate = (reference.float() + 0.01 * torch.randn(3, 500, 700, generator=generator)).bfloat16()
    on_cpu = tensors.compare(reference, candidate)
    for tile_elements in (None, 10_000):
        there = tensors.compare(reference.cuda(), candidate.cuda(), tile_elements=tile_elements)
        assert there.summary("video_latent") == pytest.approx(on_cpu.summary("video_latent"), rel=1e-12)
        assert there.worst_index == on_cpu.worst_index
    candidate[1, 2, 3] = math.nan
    assert codes(tensors.compare(reference.cuda(), candidate.cuda())) == {"nan_candidate"}
