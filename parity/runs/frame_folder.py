"""A folder of pictures that a stranger made, as the frames of a clip.

Axes: F frame, H height, W width.

Pictures are PNG files of 8-bit RGB, which lose nothing, in the natural order of their names (2 before 10). Number and
sizes are held to what the case fixes before any of them is decoded.
"""

import hashlib
import io
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from parity.runs.clip import ClipForm
from runners.errors import MediaError
from runners.files import read_bytes

ENDING: Final = ".png"
SLACK_BYTES: Final = 1 << 20  # of a picture's file beyond its pixels
EIGHT_BIT_RGB: Final = b"\x08\x02"  # depth and colour type, bytes 24 and 25 of a PNG


def read_frame_folder(folder: Path, form: ClipForm) -> tuple[Tensor, str]:
    """The frames, uint8 (F, H, W, 3), and one SHA-256 over all files. Raises: MediaError for another folder."""
    paths = _in_order(folder, form.frames)
    total = hashlib.sha256()
    frames = torch.empty((form.frames, form.height, form.width, 3), dtype=torch.uint8)
    for path in paths:  # all sizes before the first is decoded
        _require_size(_read(path, form), path, form)
    for index, path in enumerate(paths):
        data = _read(path, form)
        total.update(hashlib.sha256(data).digest())
        _require_size(data, path, form)
        try:
            with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
                frames[index] = torch.from_numpy(np.array(picture))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise MediaError(f"{path} cannot be decoded ({error}); save the picture again.") from error
    return frames, total.hexdigest()


def _read(path: Path, form: ClipForm) -> bytes:
    most_bytes = form.height * form.width * 4 + form.height + SLACK_BYTES
    return read_bytes(path, MediaError, "wanted a PNG of the case's size", max_bytes=most_bytes)


def _require_size(data: bytes, path: Path, form: ClipForm) -> None:
    """Refuse a picture of another kind or size by its header alone. Raises: MediaError."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            size = picture.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MediaError(f"{path} is not a PNG file ({error}); save every frame as one.") from error
    if data[24:26] != EIGHT_BIT_RGB:  # the library would make 8 bits of 16 in silence
        raise MediaError(f"{path} has {data[24]} bits of colour type {data[25]}; wanted 8 bits of RGB, without alpha.")
    if size != (form.width, form.height):
        raise MediaError(
            f"{path} has {size[0]} x {size[1]} pixels; the case has frames of {form.width} x {form.height}."
        )


def _in_order(folder: Path, wanted: int) -> Sequence[Path]:
    try:
        names = sorted(itertools.islice(folder.iterdir(), most := 2 * wanted + 100))
    except OSError as error:
        raise MediaError(f"{folder} is no folder that can be read ({error.strerror}); wanted one of PNGs.") from error
    paths = [path for path in names if not path.name.startswith(".")]
    if others := [path.name for path in paths if path.suffix.lower() != ENDING]:
        raise MediaError(f"{folder} holds {others[0][:100]!r}, which is no PNG; wanted the frames and nothing else.")
    if len(paths) != wanted:
        at_least = "at least " if len(names) == most else ""
        raise MediaError(f"{folder} has {at_least}{len(paths)} pictures; the case has {wanted} frames.")
    order = sorted(paths, key=lambda path: _natural(path.stem))
    for before, after in itertools.pairwise(order):
        if _natural(before.stem) == _natural(after.stem):
            raise MediaError(f"{folder}: which of {before.name} and {after.name} comes first cannot be told.")
    return order


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.findall(r"\d{1,18}|\D+", name)]
