"""Frames and sound into an MP4 file (H.264 and AAC), for people to look at; no comparison ever reads it back.

Axes: F frame, H height, W width, C channel, N sample.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from torch import Tensor

from runners.errors import MediaError

AAC_FRAME_SAMPLES = 1024


def write_mp4(path: Path, frames: Tensor, frame_rate: float, waveform: Tensor, sample_rate_hz: int) -> None:
    """Write a clip.

    Args:
        path: file to write.
        frames: uint8 (F, H, W, 3), RGB.
        frame_rate: frames per second.
        waveform: fp32 (C, N), full scale 1.0; beyond that it is clipped, and NaN is silence.
        sample_rate_hz: rate of the waveform.
    Raises: MediaError if the codecs refuse.
    """
    layout = {1: "mono", 2: "stereo"}.get(waveform.shape[0])
    if layout is None:
        raise MediaError(f"A waveform of {waveform.shape[0]} channels cannot be written; 1 or 2 are wanted.")
    try:
        with av.open(str(path), "w", format="mp4") as container:
            rate = Fraction(frame_rate).limit_denominator(1001)
            video = container.add_stream("libx264", rate=rate)
            video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
            audio = container.add_stream("aac", rate=sample_rate_hz, layout=layout)
            for frame in frames.cpu().numpy():
                container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(video.encode())
            samples = np.ascontiguousarray(waveform.nan_to_num().clamp(-1.0, 1.0).cpu().numpy())
            for start in range(0, samples.shape[1], AAC_FRAME_SAMPLES):
                chunk = np.ascontiguousarray(samples[:, start : start + AAC_FRAME_SAMPLES])
                sound = av.AudioFrame.from_ndarray(chunk, format="fltp", layout=layout)
                sound.sample_rate, sound.pts, sound.time_base = sample_rate_hz, start, Fraction(1, sample_rate_hz)
                container.mux(audio.encode(sound))
            container.mux(audio.encode())
    except (av.FFmpegError, ValueError, OSError) as error:
        raise MediaError(f"The clip could not be written to {path}: {error}.") from error
