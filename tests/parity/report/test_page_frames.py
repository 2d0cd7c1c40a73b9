"""Pictures of a page: the right frames, a difference that can be read off, and never more bytes than allowed."""

import base64
import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from parity.report.page_frames import album

Frame = NDArray[np.uint8]


def picture(uri: str | None) -> Frame:
    assert uri is not None and uri.startswith("data:image/jpeg;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def clip(frames: int, height: int, width: int) -> list[Frame]:
    """Frames of a plain grey, 10 levels brighter each."""
    return [np.full((height, width, 3), 60 + 10 * index, np.uint8) for index in range(frames)]


def test_differences_are_the_loudest_channel_times_a_gain_that_is_told() -> None:
    old, new = clip(4, 32, 48), clip(4, 32, 48)
    new[2] = new[2].copy()
    new[2][8:24, 16:32, 1] -= 5  # one channel of one block in one frame
    found = album(old, new, 1_000_000)
    assert (found.size, found.full_size, found.shown, found.reason) == ((48, 32), (48, 32), [0, 1, 2, 3], "")
    assert found.gain == 32  # 5 levels: 160 of 255; 64 would burn out
    assert found.difference[:2] == [None, None] and found.candidate[3] is None
    difference = picture(found.difference[2]).astype(int)
    assert abs(difference[16, 24] - 160) <= 3 and difference[3, 3] <= 3
    assert abs(int(picture(found.reference[3])[5, 5, 0]) - 90) <= 2


def test_the_gain_lets_a_thousandth_burn_out_and_not_more() -> None:
    old = clip(1, 100, 100)
    few, many = [old[0].copy()], [old[0].copy()]
    few[0][:2, :3] += 100  # 6 of 10,000 pixels
    many[0][:4, :5] += 100  # 20 of 10,000
    assert album(old, few, 1_000_000).gain == 255
    assert album(old, many, 1_000_000).gain == 2


def test_frames_of_another_size_or_number_stand_side_by_side_without_a_difference() -> None:
    found = album(clip(3, 16, 24), clip(2, 16, 32), 1_000_000)
    assert found.reason == "no difference: 3 frames of 24x16 against 2 frames of 32x16"
    assert found.difference == [None, None] and found.candidate[0] is not None
    assert "3 frames" in found.notes()[0]  # two of three are here
    assert album([], [], 1000).reference == []


def test_whole_frames_among_small_ones_are_compared_in_their_own_size() -> None:
    old = [*clip(1, 64, 96), np.full((8, 12, 3), 9, np.uint8)]
    new = [old[0], old[1] + np.uint8(1)]
    found = album(old, new, 1_000_000)
    assert found.gain == 255 and picture(found.difference[1]).shape == (8, 12)
    assert picture(found.reference[0]).shape == (64, 96, 3)


@pytest.mark.parametrize(
    ("most_bytes", "frames", "width"), [(10_000_000, 12, 768), (600_000, 12, 320), (20_000, 3, 128)]
)
def test_pictures_shrink_and_then_thin_out_until_they_fit(most_bytes: int, frames: int, width: int) -> None:
    generator = np.random.default_rng(3)
    old = [generator.integers(0, 255, (300, 900, 3), dtype=np.uint8) for _ in range(12)]
    new = [generator.integers(0, 255, (300, 900, 3), dtype=np.uint8) for _ in range(12)]
    found = album(old, new, most_bytes)
    total = sum(len(uri or "") for uri in (*found.reference, *found.candidate, *found.difference))
    assert total <= most_bytes
    assert (len(found.shown), found.size[0]) == (frames, width)


def test_frames_that_the_estimate_did_not_see_do_not_break_the_bound() -> None:
    generator = np.random.default_rng(4)
    old = clip(12, 120, 128)
    old[1::2] = [generator.integers(0, 255, (120, 128, 3), dtype=np.uint8) for _ in range(6)]  # sizes are of 0, 2, ...
    found = album(old, old, 40_000)
    assert sum(len(uri) for uri in found.reference) <= 40_000 and 0 < len(found.shown) < 12
