"""Outputs through the encoder that another clip went through, so that both sides of a comparison have lost the same.

Axes: F frame, H height, W width, C channel, N sample.

The encoder is told what the other file tells: codec, pixel format, range, matrix, and rate factor or bit rate. On one
thread it gives the same bits everywhere. What the file does not tell (preset, threads, build) is among the harmless
variations that limits are measured with.
"""

import io
from dataclasses import replace
from fractions import Fraction
from typing import Any, Final

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace
from torch import Tensor

from parity.runs.clip import ClipForm, decode_clip
from parity.runs.encoding import ENCODERS, SOUND_ENCODERS, Encoding, SoundEncoding, VideoEncoding
from parity.runs.folder import RunOutputs
from runners.errors import MediaError

THREADS: Final = 1
LAYOUTS: Final = {1: "mono", 2: "stereo"}
CHUNK_SAMPLES: Final = 1024
_H273: Final = {"bt601": 6, "bt709": 1}


def through_encoder(outputs: RunOutputs, encoding: Encoding, threads: int = THREADS) -> RunOutputs:
    """The outputs after what is lossy of a form; latents and the rest stay as they are.

    Args:
        outputs: of a run, whole.
        encoding: the form.
        threads: of the video encoder, on which its bits depend.
    Raises: MediaError if the codecs refuse.
    """
    if encoding.lossless:
        return outputs
    frames, waveform = outputs.video_frames.cpu(), outputs.audio_waveform.cpu()
    sound = None if encoding.sound is None else waveform
    data = encode_clip(frames, outputs.frame_rate, sound, outputs.sample_rate, encoding, threads)
    count, height, width, _ = frames.shape
    form = ClipForm(frames=count, height=height, width=width, frame_rate=outputs.frame_rate)
    clip = decode_clip(data, "the reference's own clip", form)
    if encoding.video is not None:
        outputs = replace(outputs, video_frames=clip.frames)
    if clip.waveform is not None:
        outputs = replace(outputs, audio_waveform=clip.waveform)
    return outputs


def encode_clip(
    frames: Tensor,
    frame_rate: float,
    waveform: Tensor | None,
    sample_rate_hz: int,
    encoding: Encoding,
    threads: int = THREADS,
) -> bytes:
    """An MP4 or, for Opus, MKV file in memory; frames whose form is lossless are written all the same, by H.264.

    Args:
        frames: uint8 (F, H, W, 3), RGB.
        frame_rate: frames per second.
        waveform: float32 (C, N), full scale 1.0, clipped beyond that; None writes no sound.
        sample_rate_hz: of the waveform.
        encoding: the form.
        threads: of the video encoder.
    Raises: MediaError if the codecs refuse.
    """
    video = encoding.video or VideoEncoding(codec="h264", pixel_format="yuv420p", crf=23.0, kbit=None)
    target = io.BytesIO()
    try:
        with av.open(target, "w", format="matroska" if _is_opus(encoding.sound) else "mp4") as container:
            stream = _video_stream(container, video, frames, frame_rate, threads)
            speaker = None
            if waveform is not None and encoding.sound is not None:
                layout = LAYOUTS[waveform.shape[0]]
                speaker = container.add_stream(SOUND_ENCODERS[encoding.sound.codec], rate=sample_rate_hz, layout=layout)
                speaker.bit_rate = 1000 * encoding.sound.kbit
            for frame in frames.numpy():
                container.mux(stream.encode(_planes(frame, video)))
            container.mux(stream.encode())
            if speaker is not None and waveform is not None:
                _write_sound(container, speaker, waveform, sample_rate_hz)
    except (av.FFmpegError, ValueError, OSError, KeyError) as error:
        raise MediaError(f"Nothing can be encoded as {encoding.label} here ({error}).") from error
    return target.getvalue()


def _is_opus(sound: SoundEncoding | None) -> bool:
    return sound is not None and sound.codec == "opus"


def _video_stream(container: Any, video: VideoEncoding, frames: Tensor, frame_rate: float, threads: int) -> Any:
    rate = Fraction(frame_rate).limit_denominator(1001)
    options = {"crf": f"{video.crf:g}"} if video.crf is not None else {}
    if video.codec == "hevc":
        options["x265-params"] = f"log-level=error:pools={threads}:frame-threads={threads}"
    stream = container.add_stream(ENCODERS[video.codec], rate=rate, options=options)
    stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], video.pixel_format
    stream.codec_context.thread_count = threads
    if video.kbit is not None:
        stream.bit_rate = 1000 * video.kbit
    if video.colour.full_range or video.colour.matrix != "bt601":  # the default is written as most write it: unsaid
        stream.codec_context.color_range = 2 if video.colour.full_range else 1
        stream.codec_context.colorspace = _H273[video.colour.matrix]
    return stream


def _planes(frame: "np.ndarray[Any, Any]", video: VideoEncoding) -> Any:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(
        format=video.pixel_format,
        src_color_range=ColorRange.JPEG,
        dst_colorspace=Colorspace.ITU709 if video.colour.matrix == "bt709" else Colorspace.ITU601,
        dst_color_range=ColorRange.JPEG if video.colour.full_range else ColorRange.MPEG,
    )


def _write_sound(container: Any, stream: Any, waveform: Tensor, rate: int) -> None:
    samples = np.ascontiguousarray(torch.nan_to_num(waveform.float()).clamp(-1.0, 1.0).numpy())
    layout = LAYOUTS[samples.shape[0]]
    for start in range(0, samples.shape[1], CHUNK_SAMPLES):
        chunk = np.ascontiguousarray(samples[:, start : start + CHUNK_SAMPLES])
        sound = av.AudioFrame.from_ndarray(chunk, format="fltp", layout=layout)
        sound.sample_rate, sound.pts, sound.time_base = rate, start, Fraction(1, rate)
        container.mux(stream.encode(sound))
    container.mux(stream.encode())
