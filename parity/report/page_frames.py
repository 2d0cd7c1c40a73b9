"""Frames for the page: every frame of both runs and their amplified difference, made small enough for one file.

Axes: F frame, H row, W column, 3 RGB. Levels are steps of 1/255.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from parity.report.page_pack import data_uri

WIDTHS: Final = (768, 640, 512, 448, 384, 320, 256, 192, 128)  # pixels a picture may be made narrower to
QUALITY: Final = 78  # of JPEG
GAINS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 255)
LOUD_SHARE: Final = 0.999  # of differences, in the worst frame, that the gain must keep below full brightness
SAMPLE: Final = 5  # frames that sizes are estimated from
Frame = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Album:
    """The pictures of a page. `shown` are the frames that are in it; `gain` is what differences are multiplied by."""

    reference: list[str]
    candidate: list[str | None]  # None: equal to the reference in every byte
    difference: list[str | None]
    shown: list[int]
    count: int  # frames of the reference
    gain: int
    size: tuple[int, int]  # width and height of a picture here
    full_size: tuple[int, int]
    reason: str  # why there is no difference, or ""

    def data(
        self, frame_rate_hz: float, per_frame: Mapping[str, Sequence[float]], limits: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        """The data the page's script reads; numbers of small copies of frames (`small_psnr_db`) lose that prefix.

        `limits` are those of the worst frame by the metric's full name.
        """
        small = any(name.startswith("small_") for name in per_frame)
        named = {name: f"{'small_' if small else ''}frames.{name}.max" for name in ("mad", "flicker")}
        return {
            "reference": self.reference,
            "candidate": self.candidate,
            "difference": self.difference,
            "shown": self.shown,
            "gain": self.gain,
            "size": list(self.size),
            "frames": self.count,
            "rate_hz": frame_rate_hz,
            "per_frame": {name.removeprefix("small_"): list(values) for name, values in per_frame.items()},
            "reason": self.reason,
            "limits": {name: (limits or {}).get(metric) for name, metric in named.items()},
        }

    def notes(self) -> list[str]:
        """The note that a reader needs about the pictures."""
        notes = []
        if self.size != self.full_size:
            (wide, high), (width, height) = self.full_size, self.size
            notes.append(f"Pictures are reduced from {wide}x{high} to {width}x{height} to keep the page small.")
        if len(self.shown) != self.count:
            notes.append(f"{len(self.shown)} of {self.count} frames are here; the numbers are of all of them.")
        if self.gain > 1 or not self.reason:
            notes.append("Differences are taken before pictures are reduced and compressed as JPEG.")
        return notes


def album(old: Sequence[Frame], new: Sequence[Frame], most_bytes: int) -> Album:
    """Choose a size and shrink.

    Args:
        old: frames of the reference, each (H, W, 3) uint8.
        new: those of the run under test; of another size or number they are shown without a difference.
        most_bytes: what all pictures together may take, as base64.
    Returns: an Album: as wide as fits; if not even the narrowest fits, of every second, fourth, ... frame.
    """
    comparable = [frame.shape for frame in old] == [frame.shape for frame in new]
    reason = "" if comparable else f"no difference: {_said(old)} against {_said(new)}"
    gain = _gain(old, new) if comparable else 1
    count = min(len(old), len(new))
    height, width = old[0].shape[:2] if count else (1, 1)
    shown, chosen = list(range(count)), width
    for stride, chosen in _choices(width, count):
        shown = list(range(0, count, stride))
        picked = shown[:: max(1, len(shown) // SAMPLE)]
        sample = [_pictures(old[at], new[at], gain, chosen, comparable) for at in picked]
        if sum(map(_bytes, sample)) / max(1, len(sample)) * len(shown) <= most_bytes:
            break
    made = [_pictures(old[at], new[at], gain, chosen, comparable) for at in shown]
    while sum(map(_bytes, made)) > most_bytes and len(made) > 1:  # the sample was kinder than the rest
        shown, made = shown[::2], made[::2]
    return Album(
        reference=[picture[0] for picture in made],
        candidate=[picture[1] for picture in made],
        difference=[picture[2] for picture in made],
        shown=shown,
        count=len(old),
        gain=gain,
        size=(chosen, _scaled(height, width, chosen)),
        full_size=(width, height),
        reason=reason,
    )


def _said(frames: Sequence[Frame]) -> str:
    return f"{len(frames)} frames of {frames[0].shape[1]}x{frames[0].shape[0]}" if frames else "no frames"


def _choices(width: int, count: int) -> list[tuple[int, int]]:
    """(stride, width), best first; the last one always fits a page."""
    widths = [width, *(one for one in WIDTHS if one < width)] if width <= WIDTHS[0] else list(WIDTHS)
    strides = [2**power for power in range(1, max(2, math.ceil(math.log2(max(2, count))) + 1))]
    return [*((1, one) for one in widths), *((stride, widths[-1]) for stride in strides)]


def _pictures(old: Frame, new: Frame, gain: int, width: int, comparable: bool) -> tuple[str, str | None, str | None]:
    """One frame: reference, candidate, difference. Differences are taken before anything is shrunk or compressed."""
    first = _jpeg(Image.fromarray(old), width)
    if comparable and np.array_equal(old, new):
        return first, None, None
    second = _jpeg(Image.fromarray(new), width)
    if not comparable:
        return first, second, None
    loudest = np.abs(new.astype(np.int16) - old.astype(np.int16)).max(axis=2)  # (H, W)
    return first, second, _jpeg(Image.fromarray(np.minimum(loudest * gain, 255).astype(np.uint8)), width)


def _jpeg(picture: Image.Image, width: int) -> str:
    if picture.width > width:
        height = _scaled(picture.height, picture.width, width)
        picture = picture.resize((width, height), Image.Resampling.BOX, reducing_gap=3.0)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, optimize=True)
    return data_uri("image/jpeg", file.getvalue())


def _scaled(height: int, width: int, to: int) -> int:
    return max(1, round(height * to / width)) if width else height


def _bytes(pictures: tuple[str, str | None, str | None]) -> int:
    return sum(len(picture) for picture in pictures if picture)


def _gain(old: Sequence[Frame], new: Sequence[Frame]) -> int:
    """The largest gain at which nearly all of the worst frame's differences stay below full brightness."""
    worst = 0.0
    for before, after in zip(old, new, strict=True):
        levels = np.bincount(np.abs(after.astype(np.int16) - before.astype(np.int16)).max(axis=2).ravel())
        if len(levels) - 1 > worst:
            worst = max(worst, float(np.searchsorted(np.cumsum(levels), LOUD_SHARE * levels.sum())))
    return max(gain for gain in GAINS if gain == 1 or gain * worst <= 255)
