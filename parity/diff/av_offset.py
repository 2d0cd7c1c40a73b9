"""The shift of sound against picture: best audio lag minus best frame lag.

Positive means that the sound of the candidate is later, against its own picture, than the reference's is. A clip that
is late as a whole, sound and picture alike, has lags but no offset.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from parity.diff.audio import AudioDiff
from parity.diff.comparison import Finding
from parity.diff.frames import FramesDiff
from parity.diff.lag import difference_lag
from runners.errors import ShapeError

MAX_LAG_S: Final = 0.5  # or half of the clip, where that is less


@dataclass(frozen=True, kw_only=True)
class AvOffset:
    """The two lags and their difference, signed, in milliseconds; `nan` where a lag could not be told."""

    audio_lag_ms: float
    frame_lag_ms: float
    offset_ms: float
    findings: tuple[Finding, ...] = ()

    def summary(self) -> dict[str, float]:
        """Return the `av.` metric, a magnitude."""
        return {"av.offset_ms.abs": abs(self.offset_ms)}


def compare(frames: FramesDiff, audio: AudioDiff, *, frame_rate_hz: float) -> AvOffset:
    """Find the audio-video offset of a candidate from its already compared frames and sound.

    Args:
        frames: compared frames; their luminance is aligned to whole frames.
        audio: compared sound; its joint lag is in whole samples.
        frame_rate_hz: frames a second, of reference and candidate alike.
    Returns: an AvOffset, with a finding where either lag could not be told.
    Raises: ShapeError for a frame rate that is not positive.
    """
    if not frame_rate_hz > 0:
        raise ShapeError(f"av_offset.compare wants a positive frame rate in Hz; got {frame_rate_hz}.")
    audio_lag_ms = 1000 * audio.joint_lag_samples / audio.sample_rate_hz
    frame_lag_ms = 1000 * frame_lag(frames, round(MAX_LAG_S * frame_rate_hz)) / frame_rate_hz
    findings = tuple(
        Finding(code="lag_undetermined", where=f"av_offset/{side}", message="no shift fits better than the others")
        for side, lag_ms in (("audio", audio_lag_ms), ("frames", frame_lag_ms))
        if math.isnan(lag_ms)
    )
    return AvOffset(
        audio_lag_ms=audio_lag_ms,
        frame_lag_ms=frame_lag_ms,
        offset_ms=audio_lag_ms - frame_lag_ms,
        findings=findings,
    )


def frame_lag(frames: FramesDiff, max_lag: int) -> float:
    """Return the best lag of the candidate's picture, in frames, positive when late; `nan` where it cannot be told."""
    reference, candidate = frames.luminance_reference, frames.luminance_candidate
    if reference is None or candidate is None:
        return math.nan
    if np.array_equal(reference, candidate):
        return 0.0
    return difference_lag(reference, candidate, min(max_lag, len(reference) // 2))
