"""Planes that were read otherwise than they were made, and exchanged channels."""

import pytest
import torch

from parity.diff.imported import meant_colour, read_as, swapped_channels
from parity.runs.encoding import Colour

LIMITED = Colour()
FULL = Colour(full_range=True)
BT709 = Colour(matrix="bt709")


def frames() -> torch.Tensor:
    """uint8 (5, 32, 48, 3), every colour, away from black and white; patches as large as a box."""
    patches = torch.randint(30, 200, (5, 2, 3, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return patches.repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)


def test_planes_of_full_range_under_limited_stretch_black_and_white() -> None:
    gray = torch.tensor([[[[16, 16, 16], [235, 235, 235]]]], dtype=torch.uint8)
    assert read_as(gray, FULL, LIMITED).round().flatten().tolist() == [0.0] * 3 + [255.0] * 3
    assert read_as(gray, LIMITED, FULL).round().flatten().tolist() == [30.0] * 3 + [218.0] * 3  # 16 + 16 x 219 / 255


def test_another_matrix_moves_colours_and_leaves_gray() -> None:
    made = torch.tensor([[[[90, 90, 90], [255, 0, 0]]]], dtype=torch.uint8)
    moved = read_as(made, BT709, LIMITED)[0, 0]
    torch.testing.assert_close(moved[0], torch.full((3,), 90.0).double())
    # Y = 0.2126, Cr = 0.5, Cb = -0.2126 / 1.8556: R = Y + 1.402 Cr, G = Y - 0.344136 Cb - 0.714136 Cr
    assert moved[1].tolist() == pytest.approx(
        [255 * (0.2126 + 0.701), 0.0, 255 * (0.2126 - 0.2126 / 1.8556 * 1.772)], abs=0.1
    )


@pytest.mark.parametrize("meant", [FULL, BT709, Colour(full_range=True, matrix="bt709")])
@pytest.mark.parametrize("tagged", [True, False])
def test_a_wrong_tag_is_told_by_what_fits(meant: Colour, tagged: bool) -> None:
    wrong = read_as(frames(), meant, LIMITED).round().to(torch.uint8)  # made as `meant`, read as limited BT.601
    found = meant_colour(frames(), wrong, LIMITED if tagged else None)
    assert found is not None
    if tagged:
        assert found == (LIMITED, meant)


def test_squeezed_pictures_in_a_rightly_tagged_file_are_told_though_an_encoder_added_noise() -> None:
    squeezed = frames().double() * 219 / 255 + 16
    noise = torch.randn(squeezed.shape, generator=torch.Generator().manual_seed(6)) * 8
    found = meant_colour(frames(), (squeezed + noise).round().clamp(0, 255).to(torch.uint8), LIMITED)
    assert found is not None and found[0].full_range and not found[1].full_range


def test_noise_a_brighter_picture_and_equal_ones_are_no_wrong_tag() -> None:
    noise = torch.randint(-9, 10, frames().shape, generator=torch.Generator().manual_seed(2))
    for candidate in (frames().int() + noise, frames().int() + 25, frames().int()):
        assert meant_colour(frames(), candidate.to(torch.uint8), LIMITED) is None
        assert meant_colour(frames(), candidate.to(torch.uint8), None) is None


def test_exchanged_channels_are_told_and_nearly_equal_ones_are_not() -> None:
    pair = torch.randn(2, 400, generator=torch.Generator().manual_seed(4))
    assert swapped_channels(pair, pair.flip(0) * 1.02)
    assert not swapped_channels(pair, pair)
    assert not swapped_channels(pair, torch.randn(2, 400))
    one = pair[:1].expand(2, -1)
    assert not swapped_channels(one, one.flip(0) + 0.01)
    assert not swapped_channels(pair, pair[:1])
