"""The page's sections on two runs' outputs: frames and waveforms, whole or as a reduced golden keeps them.

Axes: F frame, H row, W column, 3 RGB, C channel, N sample.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from parity.diff.runs import reduced_alike
from parity.runs.folder import Run
from parity.runs.reduced import ReducedOutputs

Frames = list[NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownOutputs:
    """One run's outputs as they are shown. Frames are (H, W, 3); reduced ones are not all of one size."""

    frames: Frames
    waveform: Tensor  # (C, N)
    frame_rate_hz: float
    sample_rate_hz: int


def shown_outputs(reference: Run, candidate: Run) -> tuple[ShownOutputs, ShownOutputs, tuple[str, ...]]:
    """Both runs' outputs, and what a reader must know about them.

    Raises: RunError if they cannot be read; both are reduced where one is, as for `parity.diff.runs.compare_runs`.
    """
    if not (reference.reduced or candidate.reduced):
        return _whole(reference), _whole(candidate), ()
    old, new = reduced_alike(reference, candidate)
    places = ", ".join(map(str, old.key_frame_places))
    height_px, width_px = old.key_frames.shape[1:3]
    kept = f"frames {places} are whole"
    if (height_px, width_px) != old.frame_shape[1:3]:
        kept = f"of frame {places} the middle {width_px} x {height_px} pixels are kept"
    note = (
        f"The golden is reduced: {kept}; the others, and the numbers below, are of copies averaged "
        f"over boxes of {old.box_px} x {old.box_px} pixels."
    )
    return _small(old), _small(new), (note,)


def _whole(run: Run) -> ShownOutputs:
    outputs = run.outputs()
    return ShownOutputs(
        frames=list(outputs.video_frames.numpy()),
        waveform=outputs.audio_waveform,
        frame_rate_hz=outputs.frame_rate,
        sample_rate_hz=outputs.sample_rate,
    )


def _small(reduced: ReducedOutputs) -> ShownOutputs:
    """Small frames, with key frames in their places."""
    frames = list(reduced.small_frames.numpy())
    for place, frame in zip(reduced.key_frame_places, reduced.key_frames.numpy(), strict=True):
        frames[place] = frame
    return ShownOutputs(
        frames=frames,
        waveform=reduced.audio_waveform,
        frame_rate_hz=reduced.frame_rate,
        sample_rate_hz=reduced.sample_rate,
    )
