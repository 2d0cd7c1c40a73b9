"""Sound against picture: each is shifted by a known amount, and the offset has its sign."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from parity.diff import audio, av_offset, frames
from parity.diff.av_offset import AvOffset
from runners.errors import ShapeError

SAMPLE_RATE_HZ = 2400
FRAME_RATE_HZ = 24.0


def moving_clip(count: int = 20, height: int = 16, width: int = 24) -> NDArray[np.uint8]:
    """A square wandering one pixel a frame over a dark ground."""
    clip = np.full((count, height, width, 3), 20, dtype=np.uint8)
    for t in range(count):
        clip[t, 4:10, t : t + 5] = (230, 120, 40)
    return clip


def offset(picture_late: int, sound_late: int) -> AvOffset:
    clip = moving_clip(26)
    waveform: Tensor = torch.randn(2, 2400, generator=torch.Generator().manual_seed(0))
    compared_frames = frames.compare(clip[3:23], clip[3 - picture_late : 23 - picture_late])
    compared_audio = audio.compare(
        waveform[:, 200:2200],
        waveform[:, 200 - sound_late : 2200 - sound_late],
        rate_reference_hz=SAMPLE_RATE_HZ,
        rate_candidate_hz=SAMPLE_RATE_HZ,
    )
    return av_offset.compare(compared_frames, compared_audio, frame_rate_hz=FRAME_RATE_HZ)


@pytest.mark.parametrize(
    ("picture_late", "sound_late", "offset_ms"),
    [
        (0, 0, 0.0),
        (0, 48, 20.0),  # 48 samples at 2400 Hz
        (0, -48, -20.0),
        (2, 0, -2000 / 24),  # the picture is late, so the sound is early against it
        (-3, 0, 3000 / 24),
        (3, 200, 200 / 2.4 - 125),  # 83.3 ms against 125 ms
        (-1, 24, 10 + 1000 / 24),
    ],
)
def test_offset_is_audio_lag_minus_frame_lag(picture_late: int, sound_late: int, offset_ms: float) -> None:
    result = offset(picture_late, sound_late)
    assert result.frame_lag_ms == pytest.approx(1000 * picture_late / FRAME_RATE_HZ)
    assert result.audio_lag_ms == pytest.approx(1000 * sound_late / SAMPLE_RATE_HZ)
    assert result.offset_ms == pytest.approx(offset_ms)
    assert result.summary() == {"av.offset_ms.abs": pytest.approx(abs(offset_ms))}
    assert result.findings == ()


def test_a_lag_that_cannot_be_told_is_named_and_gives_no_offset() -> None:
    still = np.full((9, 8, 12, 3), 50, dtype=np.uint8)
    silence = torch.zeros(1, 900)
    rates = {"rate_reference_hz": 2400.0, "rate_candidate_hz": 2400.0}
    result = av_offset.compare(
        frames.compare(still, still + np.uint8(1)), audio.compare(silence, silence + 0.1, **rates), frame_rate_hz=24.0
    )
    assert [(f.code, f.where) for f in result.findings] == [
        ("lag_undetermined", "av_offset/audio"),
        ("lag_undetermined", "av_offset/frames"),
    ]
    assert math.isnan(result.summary()["av.offset_ms.abs"])
    equal = av_offset.compare(
        frames.compare(still, still), audio.compare(silence, silence, **rates), frame_rate_hz=24.0
    )
    assert equal.offset_ms == 0.0  # nothing moved, however still


def test_frames_that_could_not_be_compared_have_no_offset() -> None:
    clip, silence = moving_clip(5), torch.zeros(1, 90)
    result = av_offset.compare(
        frames.compare(clip, clip[:-1]),
        audio.compare(silence, silence, rate_reference_hz=24, rate_candidate_hz=24),
        frame_rate_hz=24.0,
    )
    assert math.isnan(result.offset_ms)
    with pytest.raises(ShapeError, match="positive frame rate"):
        av_offset.compare(
            frames.compare(clip, clip),
            audio.compare(silence, silence, rate_reference_hz=24, rate_candidate_hz=24),
            frame_rate_hz=0.0,
        )
