"""Pictures on their way to the video VAE, against the official loader, and files that are no pictures."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runners.errors import MediaError
from runners.ltx23 import image
from runners.ltx23.image import compression_round_trip, load_picture, read_picture, require_affordable

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["astronaut.png", "coffee.jpg"])
@pytest.mark.parametrize("crf", [0, 20, 33, 51])
@pytest.mark.parametrize(("height", "width"), [(64, 160), (96, 32), (320, 288)])
def test_a_photograph_arrives_with_the_official_bits(
    name: str, crf: int, height: int, width: int, pictures: Path
) -> None:
    from ltx_pipelines.utils.media_io import load_image_conditioning

    for dtype in (torch.bfloat16, torch.float32):
        wanted = load_image_conditioning(str(pictures / name), height, width, dtype, CPU, crf)
        loaded = load_picture(pictures / name, crf, height, width, dtype, CPU)
        assert loaded.shape == (1, 3, 1, height, width) and loaded.dtype == dtype
        assert torch.equal(loaded, wanted)


def test_compression_changes_a_picture_and_cuts_odd_sides(pictures: Path) -> None:
    pixels = read_picture(pictures / "astronaut.png")
    assert pixels.shape == (301, 257, 3)
    assert compression_round_trip(pixels, 0) is pixels
    fine, coarse = (compression_round_trip(pixels, crf).astype(float) for crf in (10, 45))
    assert fine.shape == (300, 256, 3)
    errors = [np.abs(decoded - pixels[:300, :256]).mean() for decoded in (fine, coarse)]
    assert 0 < errors[0] < errors[1] / 2


def test_transparency_is_dropped(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png"), pixels[..., :3])


def gray(path: Path) -> None:
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(path)


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(path)


def palette(path: Path) -> None:
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).quantize(4).save(path)


def truncated(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 60, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:9000])


def rare_format(path: Path) -> None:
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(path, "PCX")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.write_text("hello"), "a.png cannot be decoded as a picture .*give a PNG or JPEG"),
        (lambda path: path.write_bytes(b""), "a.png cannot be decoded as a picture"),
        (truncated, "a.png cannot be decoded as a picture"),
        (rare_format, "a.png cannot be decoded as a picture"),
        (lambda path: path.mkdir(), "a.png is not a regular file; give a PNG or JPEG"),
        (lambda path: None, "a.png is no file that can be read"),
        (gray, r"a.png decodes to uint8 \(4, 6\); 8-bit RGB is wanted"),
        (palette, r"a.png decodes to uint8 \(4, 6\); 8-bit RGB is wanted"),
        (sixteen_bits, r"a.png decodes to uint16 \(4, 6\); 8-bit RGB is wanted"),
    ],
)
def test_what_is_no_colour_picture_is_refused(make: Callable[[Path], object], sentence: str, tmp_path: Path) -> None:
    make(tmp_path / "a.png")
    with pytest.raises(MediaError, match=sentence):
        read_picture(tmp_path / "a.png")


def test_a_picture_beyond_the_limit_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "MAX_PIXELS", 23)
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(MediaError, match=r"a.png is 6x4 pixels; at most 23 are read"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("size", [(1, 7), (7, 1), (1, 1)])
def test_a_picture_of_one_pixel_a_side_cannot_be_compressed_and_is_taken_as_it_is(size: tuple[int, int]) -> None:
    pixels = np.zeros((*size, 3), np.uint8)
    with pytest.raises(
        MediaError, match=rf"{size[1]}x{size[0]} pixels does not go through H.264, which takes sides of"
    ):
        compression_round_trip(pixels, 33)
    assert compression_round_trip(pixels, 0) is pixels


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((8192, 8192), "8192x8192 pixels; at most 33554432 are read"),  # 200 kB of one colour
        ((2, 16384), r"2x16384 pixels, which covers a video of 96x64 only when it is scaled to more than 32 times"),
        ((16384, 2), "16384x2 pixels, which covers"),
        ((64, 3073), "64x3073 pixels, which covers"),  # 3073 / 64 / 1.5 = 32.01
    ],
)
def test_a_small_file_of_many_pixels_or_a_band_is_refused_by_its_header(
    size: tuple[int, int], sentence: str, tmp_path: Path
) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    before_s = time.process_time()
    with pytest.raises(MediaError, match=sentence):
        require_affordable(tmp_path / "a.png", 64, 96)
    with pytest.raises(MediaError, match=sentence):
        load_picture(tmp_path / "a.png", 33, 64, 96, torch.bfloat16, CPU)
    assert time.process_time() - before_s < 1


def test_pictures_as_cameras_make_them_are_taken(tmp_path: Path) -> None:
    for size in ((6000, 4000), (4000, 6000), (4096, 1024), (97, 131)):
        Image.new("RGB", size).save(tmp_path / "a.png")
        require_affordable(tmp_path / "a.png", 512, 768)
