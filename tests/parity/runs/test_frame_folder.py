"""A folder of pictures: in natural order, of the case's number and size, and nothing else in it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from parity.runs.clip import ClipForm
from parity.runs.frame_folder import read_frame_folder
from runners.errors import MediaError

FORM = ClipForm(frames=11, height=6, width=10, frame_rate=24.0)
SaveFrames = Callable[..., Path]


def frames() -> torch.Tensor:
    return torch.arange(11 * 6 * 10 * 3).remainder(251).to(torch.uint8).view(11, 6, 10, 3)


def test_ten_comes_after_nine(save_frames: SaveFrames) -> None:
    folder = save_frames("frames", frames())
    (folder / ".DS_Store").write_bytes(b"of somebody's file browser")
    found, sha256 = read_frame_folder(folder, FORM)
    assert torch.equal(found, frames())
    Image.fromarray(frames()[0].numpy()).save(folder / "out3.png")
    assert read_frame_folder(folder, FORM)[1] != sha256


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (replace(FORM, frames=10), "has 11 pictures; the case has 10 frames"),
        (replace(FORM, frames=12), "has 11 pictures; the case has 12 frames"),
        (replace(FORM, width=6, height=10), "10 x 6 pixels; the case has frames of 6 x 10"),
    ],
)
def test_the_case_says_how_many_and_how_large(form: ClipForm, said: str, save_frames: SaveFrames) -> None:
    with pytest.raises(MediaError, match=said):
        read_frame_folder(save_frames("frames", frames()), form)


def test_what_is_lossy_deeper_or_not_a_picture_is_refused(save_frames: SaveFrames) -> None:
    folder = save_frames("frames", frames())
    picture = Image.fromarray(frames()[0].numpy())
    for name, write, said in (
        ("out1.jpg", lambda path: picture.save(path), "no PNG"),
        ("out1.png", lambda path: picture.save(path, format="JPEG"), "no PNG|not a PNG|bits of colour type"),
        ("out1.png", lambda path: picture.convert("RGBA").save(path), "8 bits of colour type 6"),
        ("out1.png", lambda path: picture.convert("L").save(path), "8 bits of colour type 0"),
        ("out1.png", lambda path: path.write_bytes(b""), "not a PNG"),
        ("out01.png", lambda path: (folder / "out0.png").replace(path), "which of out01.png and out1.png"),
    ):
        if name != "out01.png":
            (folder / "out1.png").unlink(missing_ok=True)
        write(folder / name)
        with pytest.raises(MediaError, match=said):
            read_frame_folder(folder, FORM)
        if name == "out1.jpg":
            (folder / name).unlink()
        if name != "out01.png":
            picture.save(folder / "out1.png")


def test_a_picture_of_many_pixels_is_refused_by_its_header(save_frames: SaveFrames) -> None:
    folder = save_frames("frames", frames())
    Image.new("RGB", (3000, 2000)).save(folder / "out7.png")
    with pytest.raises(MediaError, match="3000 x 2000 pixels"):
        read_frame_folder(folder, FORM)
