"""A video file that a stranger made: frames and sound as it says they are meant, and what it tells of its encoder.

The file is read as a stranger's data. Its container is one of two, told by its first bytes and handed to the library as
bytes: a playlist, or a file that names other files, is never opened. Size, number of streams and of frames are held to
what the case fixes, before anything is decoded where the header tells it and while decoding where it does not.

Axes: F frame, H height, W width, C channel, N sample.
"""

import io
import itertools
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace
from torch import Tensor

from parity.runs.encoding import (
    ENCODERS,
    PIXEL_FORMATS,
    SOUND_ENCODERS,
    SOUND_KBIT,
    Colour,
    Encoding,
    SoundEncoding,
    VideoEncoding,
)
from runners.errors import MediaError
from runners.files import HeldFile, read_bytes

MAX_RATE_HZ: Final = 192_000  # of samples
MAX_CHANNELS: Final = 2  # what the model has, and what a clip for people can hold
EXTRA_S: Final = 1.0  # of sound beyond the frames
SLACK_BYTES: Final = 16 << 20  # of a container, beyond its frames and samples
RATE_TOLERANCE: Final = 1e-4  # relative: 29.97 is written as 30000/1001
MATRICES: Final = {1: "bt709", 5: "bt601", 6: "bt601"}  # as H.273 numbers them; 2 is none said
UNSAID_MATRIX: Final = 2
FULL_RANGE: Final = 2
_OPTIONS: Final = re.compile(rb"x26[45][ -][^\0]{0,300}options: ([\x20-\x7e]{1,4000})")
_CRF: Final = re.compile(rb"(?<![a-z_-])(?:crf|qp)=([0-9]{1,2}(?:\.[0-9]{1,2})?)")
_KBIT: Final = re.compile(rb"(?<![a-z_-])bitrate=([0-9]{1,7})")


@dataclass(frozen=True, kw_only=True)
class ClipForm:
    """The properties of a clip that its case fixes."""

    frames: int
    height: int  # pixels
    width: int  # pixels
    frame_rate: float  # frames a second

    @property
    def most_samples(self) -> int:
        """The largest number of samples of one channel that a clip of this length may have."""
        return round((self.frames / self.frame_rate + EXTRA_S) * MAX_RATE_HZ)

    @property
    def most_bytes(self) -> int:
        """The largest size of a file that may be opened for it: nothing is larger than the same without a codec."""
        return self.frames * self.height * self.width * 6 + self.most_samples * MAX_CHANNELS * 8 + SLACK_BYTES


@dataclass(frozen=True, kw_only=True)
class Clip:
    """The frames and sound of a file. `waveform` is None if it has no sound."""

    frames: Tensor  # uint8 (F, H, W, 3), RGB, as the file says its planes are meant
    frame_rate: float
    waveform: Tensor | None  # float32 (C, N)
    sample_rate_hz: int  # 0 without sound
    encoding: Encoding
    doubts: tuple[tuple[str, str], ...]  # where and in which words the file contradicts the case or itself


def read_clip(path: Path | HeldFile, form: ClipForm) -> Clip:
    """Read a file. Raises: MediaError for what is no such clip."""
    data = read_bytes(path, MediaError, "wanted a video file of the case's length", max_bytes=form.most_bytes)
    return decode_clip(data, str(path), form)


def decode_clip(data: bytes, origin: str, form: ClipForm) -> Clip:
    """Decode the bytes of a file, which errors call `origin`. Raises: MediaError for what is no such clip."""
    container_format = "mov" if data[4:8] == b"ftyp" else "matroska" if data[:4] == b"\x1a\x45\xdf\xa3" else None
    if container_format is None:
        raise MediaError(f"{origin} is neither MP4, MOV, MKV nor WebM; save the clip as one, or give a folder of PNGs.")
    try:
        with av.open(io.BytesIO(data), "r", format=container_format, metadata_errors="replace") as container:
            return _decoded(container, data, origin, form)
    except (av.FFmpegError, ValueError, OSError, EOFError, StopIteration) as error:
        raise MediaError(f"{origin} cannot be decoded ({error}); save the clip again.") from error


def _decoded(container: Any, data: bytes, origin: str, form: ClipForm) -> Clip:
    videos, sounds = container.streams.video, container.streams.audio
    if len(videos) != 1 or len(sounds) > 1:
        raise MediaError(
            f"{origin} has {len(videos)} video and {len(sounds)} audio streams; wanted one, and at most one."
        )
    video = videos[0]
    context = video.codec_context
    if context is None or any(sound.codec_context is None for sound in sounds):
        raise MediaError(f"{origin} has a stream of a codec that is not known; save the clip again.")
    said = (context.width, context.height)
    if said != (form.width, form.height):
        raise MediaError(
            f"{origin} has frames of {said[0]} x {said[1]} pixels; the case has {form.width} x {form.height}."
        )
    if video.frames > form.frames:
        raise MediaError(f"{origin} says it has {video.frames} frames; the case has {form.frames}.")
    pixel_format = str(context.pix_fmt).replace("yuvj", "yuv")  # an older name of the same planes in full range
    if context.name not in ENCODERS or pixel_format not in PIXEL_FORMATS:
        raise MediaError(
            f"{origin} is {str(context.name)[:40]} in {str(context.pix_fmt)[:40]}; this reads {' and '.join(ENCODERS)} "
            f"in {', '.join(PIXEL_FORMATS)}. Save it as one of these, or as PNGs, which lose nothing."
        )
    colour = _colour(context, origin)
    frames, ticks = _frames(container, video, colour, origin, form)
    rate = float(video.average_rate or 0)
    doubts = list(_doubts(video, ticks))
    waveform, sample_rate_hz, sound = None, 0, None
    if sounds:
        container.seek(0)
        waveform, sample_rate_hz, sound = _sound(container, sounds[0], origin, form)
    encoding = VideoEncoding(codec=context.name, pixel_format=pixel_format, **_quality(data, video), colour=colour)
    return Clip(
        frames=frames,
        frame_rate=form.frame_rate if abs(rate - form.frame_rate) <= RATE_TOLERANCE * form.frame_rate else rate,
        waveform=waveform,
        sample_rate_hz=sample_rate_hz,
        encoding=Encoding(video=encoding, sound=sound),
        doubts=tuple(doubts),
    )


def _colour(context: Any, origin: str) -> Colour:
    matrix = int(context.colorspace)
    if matrix != UNSAID_MATRIX and matrix not in MATRICES:
        raise MediaError(f"{origin} says colour matrix {matrix} (H.273); this reads BT.601 and BT.709.")
    full = int(context.color_range) == FULL_RANGE
    return Colour(full_range=full, matrix="bt709" if MATRICES.get(matrix) == "bt709" else "bt601")


def _frames(container: Any, video: Any, colour: Colour, origin: str, form: ClipForm) -> tuple[Tensor, list[int]]:
    video.thread_count = 1
    video.codec_context.options = {"max_pixels": str(4 * max(form.height * form.width, 1 << 14))}  # blocks are padded
    pictures: list[np.ndarray[Any, Any]] = []
    ticks = []
    for frame in container.decode(video):
        if len(pictures) == form.frames:
            raise MediaError(f"{origin} has more than {form.frames} frames, which the case has.")
        if (frame.width, frame.height) != (form.width, form.height):
            raise MediaError(f"{origin} changes the size of its frames to {frame.width} x {frame.height} pixels.")
        pictures.append(rgb_of(frame, colour))
        ticks.append(-1 if frame.pts is None else frame.pts)
    if len(pictures) < form.frames:
        raise MediaError(f"{origin} has {len(pictures)} frames; the case has {form.frames}.")
    return torch.from_numpy(np.stack(pictures)), ticks


def rgb_of(frame: Any, colour: Colour) -> "np.ndarray[Any, Any]":
    """A decoded frame as RGB, uint8 (H, W, 3), its planes read as `colour` says."""
    made = frame.reformat(
        format="rgb24",
        src_colorspace=Colorspace.ITU709 if colour.matrix == "bt709" else Colorspace.ITU601,
        src_color_range=ColorRange.JPEG if colour.full_range else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
    )
    picture: np.ndarray[Any, Any] = made.to_ndarray()
    return picture


def _doubts(video: Any, ticks: list[int]) -> list[tuple[str, str]]:
    found = []
    steps = {after - before for before, after in itertools.pairwise(ticks)}
    if steps and max(steps) - min(steps) > 1:
        found.append(
            ("video time stamps", f"frames are {min(steps)} to {max(steps)} ticks of {video.time_base} s apart")
        )
    aspect = video.codec_context.sample_aspect_ratio
    if aspect and Fraction(aspect) != 1:
        found.append(("pixel aspect", f"pixels are said to be {aspect} as wide as high; the model's are square"))
    return found


def _sound(container: Any, stream: Any, origin: str, form: ClipForm) -> tuple[Tensor, int, SoundEncoding | None]:
    context = stream.codec_context
    rate, channels = int(context.sample_rate or 0), int(context.layout.nb_channels)
    if not 1 <= rate <= MAX_RATE_HZ or not 1 <= channels <= MAX_CHANNELS:
        raise MediaError(
            f"The sound of {origin} has {channels} channels at {rate} Hz; wanted at most {MAX_CHANNELS} at most "
            f"{MAX_RATE_HZ} Hz."
        )
    name = {"mp3float": "mp3"}.get(context.name, context.name)
    if name not in SOUND_ENCODERS:
        raise MediaError(
            f"The sound of {origin} is {str(name)[:40]}; this reads {', '.join(SOUND_ENCODERS)} in a video file. Give "
            "it as a WAV file with --audio."
        )
    most, parts, count, packed_bytes = form.most_samples, [], 0, 0
    to_planes = av.AudioResampler(format="fltp", layout=context.layout, rate=rate)
    for packet in container.demux(stream):
        packed_bytes += packet.size
        for frame in packet.decode():
            if frame.sample_rate != rate or frame.layout.nb_channels != channels:
                raise MediaError(f"The sound of {origin} changes its rate or its channels on the way.")
            for part in to_planes.resample(frame):
                parts.append(part.to_ndarray())
                count += part.samples
        if count > most:
            raise MediaError(f"The sound of {origin} is longer than {most} samples, more than the case's frames need.")
    if not parts:
        raise MediaError(f"The sound of {origin} has no samples; give it with --audio, or take it out.")
    waveform = np.concatenate(parts, axis=1)
    if stream.duration is not None:  # the last frame of a codec is padded; the container says how far
        length = round(stream.duration * stream.time_base * rate)
        waveform = waveform[:, : max(length, 1)]
    bit_rate = context.bit_rate or stream.bit_rate or 8 * packed_bytes * rate / count
    kbit = min(SOUND_KBIT, key=lambda known: abs(known - bit_rate / 1000))
    return torch.from_numpy(np.ascontiguousarray(waveform)), rate, SoundEncoding(codec=name, kbit=kbit)


def _quality(data: bytes, video: Any) -> dict[str, Any]:
    """A rate factor, where the encoder left its options in the stream, else the bit rate it asked for or reached."""
    options = _OPTIONS.search(data)
    said = b"" if options is None else options.group(1)
    if (crf := _CRF.search(said)) is not None:
        return {"crf": float(crf.group(1)), "kbit": None}
    kbit = _KBIT.search(said)
    rate = int(kbit.group(1)) if kbit is not None else round((video.bit_rate or 0) / 1000)
    return {"crf": None, "kbit": min(max(rate, 1), 9_999_999)}
