"""Frame differences. Expected values are worked by hand, or by numpy and scikit-image on whole clips."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from parity.diff import frames
from parity.diff.metric import METRICS
from runners.errors import ShapeError


def noise(seed: int, shape: tuple[int, ...] = (4, 9, 13, 3)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def flat(levels: list[int], height: int = 8, width: int = 10) -> NDArray[np.uint8]:
    """Frames of one grey level each."""
    return np.broadcast_to(
        np.array(levels, dtype=np.uint8)[:, None, None, None], (len(levels), height, width, 3)
    ).copy()


def test_flat_frames_give_the_numbers_worked_by_hand() -> None:
    diff = frames.compare(flat([100, 100, 50]), flat([100, 110, 49]))
    assert diff.psnr_db == pytest.approx((math.inf, 20 * math.log10(25.5), 20 * math.log10(255)), rel=1e-12)
    assert diff.mad == (0.0, 10.0, 1.0)
    assert diff.max_abs == (0.0, 10.0, 1.0)
    assert diff.flicker == (10.0, 11.0)  # the error goes 0, +10, -1
    c1 = (0.01 * 255) ** 2  # without variance SSIM is its luminance term alone
    worst = (2 * 100 * 110 + c1) / (100**2 + 110**2 + c1)
    assert diff.ssim == pytest.approx((1.0, worst, (2 * 50 * 49 + c1) / (50**2 + 49**2 + c1)), rel=1e-12)
    summary = diff.summary()
    assert summary["frames.psnr_db.min"] == pytest.approx(20 * math.log10(25.5))
    # one equal frame must not lift the mean to infinity: it is taken over squared errors, (0 + 100 + 1) / 3
    assert summary["frames.psnr_db.mean"] == pytest.approx(10 * math.log10(255**2 * 3 / 101))
    assert summary["frames.mad.mean"] == pytest.approx(11 / 3)
    assert (summary["frames.mad.max"], summary["frames.max_abs"]) == (10.0, 10.0)
    assert (summary["frames.flicker.max"], summary["frames.flicker.mean"]) == (11.0, 10.5)
    assert set(summary) == {n for n in METRICS if n.startswith("frames.")} - {"frames.rate_hz.difference"}


def test_every_frame_agrees_with_numpy_and_scikit_image() -> None:
    reference, candidate = noise(0), noise(1)
    diff = frames.compare(torch.from_numpy(reference), candidate)
    error = candidate.astype(float) - reference
    np.testing.assert_allclose(diff.mean_square, (error**2).mean((1, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(diff.mad, np.abs(error).mean((1, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(diff.flicker, np.abs(np.diff(error, axis=0)).mean((1, 2, 3)), rtol=1e-14)
    expected = [
        structural_similarity(r, c, channel_axis=-1, data_range=255) for r, c in zip(reference, candidate, strict=True)
    ]
    np.testing.assert_array_equal(diff.ssim, expected)


def test_one_bad_frame_in_the_middle_is_seen() -> None:
    reference = noise(2, (7, 8, 11, 3))
    candidate = reference.copy()
    candidate[5] = 255 - candidate[5]
    diff = frames.compare(reference, candidate)
    assert int(np.argmin(diff.psnr_db)) == int(np.argmin(diff.ssim)) == int(np.argmax(diff.mad)) == 5
    assert [f > 0 for f in diff.flicker] == [False, False, False, False, True, True]
    assert not diff.bit_equal


def test_flicker_tells_a_flickering_error_from_a_steady_one() -> None:
    reference = flat([90, 91, 92, 93])
    steady = frames.compare(reference, reference + np.uint8(4)).summary()
    flickering = frames.compare(reference, flat([94, 87, 96, 89])).summary()
    assert steady["frames.mad.mean"] == flickering["frames.mad.mean"] == 4.0
    assert (steady["frames.flicker.mean"], flickering["frames.flicker.mean"]) == (0.0, 8.0)


def test_psnr_uses_the_fixed_peak_on_dark_clips() -> None:
    assert frames.compare(flat([3]), flat([2])).psnr_db == pytest.approx((20 * math.log10(255),))


def test_equal_clips_are_bit_equal_and_swapped_colours_are_not() -> None:
    clip = noise(3)
    equal = frames.compare(clip, clip.copy())
    assert equal.bit_equal
    assert equal.psnr_db == (math.inf,) * 4
    assert equal.summary()["frames.psnr_db.mean"] == math.inf
    swapped = frames.compare(clip, clip[..., ::-1])
    assert not swapped.bit_equal
    assert swapped.summary()["frames.ssim.min"] < 0.9


def test_a_single_frame_has_no_flicker_and_says_nan() -> None:
    summary = frames.compare(flat([1]), flat([1])).summary()
    assert math.isnan(summary["frames.flicker.max"]) and math.isnan(summary["frames.flicker.mean"])


def test_frames_smaller_than_the_window_have_no_ssim() -> None:
    diff = frames.compare(flat([1, 2], height=6), flat([1, 3], height=6))
    assert [finding.code for finding in diff.findings] == ["frame_too_small"]
    assert math.isnan(diff.summary()["frames.ssim.min"])
    assert diff.summary()["frames.mad.max"] == 1.0


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ((3, 9, 13, 3), "missing_frame"),
        ((5, 9, 13, 3), "extra_frame"),
        ((4, 9, 13, 2), "missing_channel"),
        ((4, 9, 13, 4), "extra_channel"),
        ((4, 13, 9, 3), "shape_mismatch"),
        ((0, 9, 13, 3), "empty"),
    ],
)
def test_clips_that_do_not_match_are_named_and_have_no_numbers(shape: tuple[int, ...], code: str) -> None:
    diff = frames.compare(noise(0), noise(0, shape))
    assert [finding.code for finding in diff.findings] == [code]
    assert not diff.bit_equal
    summary = diff.summary()
    assert summary.pop("frames.count.difference") == shape[0] - 4
    assert all(math.isnan(value) for value in summary.values())


def test_a_callers_mistakes_raise() -> None:
    with pytest.raises(ShapeError, match="float32"):
        frames.compare(noise(0), torch.zeros(4, 9, 13, 3))  # type: ignore[arg-type, unused-ignore]
    with pytest.raises(ShapeError, match=r"\(9, 13, 3\)"):
        frames.compare(noise(0)[0], noise(0))
    with pytest.raises(ShapeError, match="three channels"):
        frames.compare(noise(0)[..., :1], noise(0)[..., :1])


def test_the_luminance_grid_holds_means_of_cells_of_uneven_size() -> None:
    frame = np.zeros((9, 25, 3), dtype=np.uint8)  # 8 rows of cells: eight of 1 row, the last of 2; 12 columns of 2 or 3
    frame[7, :, 1] = 100  # half of the last row of cells, green
    frame[0, :2, 0] = 200  # the first cell, red
    grid = frames.luminance_grid(frame).reshape(8, 12)
    assert grid[0, 0] == pytest.approx(200 * 0.2126)
    assert grid[0, 1] == 0
    np.testing.assert_allclose(grid[7], 50 * 0.7152)
    assert frames.luminance_grid(frame[:5, :6]).shape == (30,)
