"""A WAV file that a stranger made, read as samples of full scale 1.0.

Axes: C channel, N sample.

PCM of 16, 24 and 32 bits is divided by half its range, floats are taken as they are. `WAVE_FORMAT_EXTENSIBLE` says
which loudspeaker each channel is for: a pair that is not front left and front right is a doubt. Nothing is resampled.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from parity.runs.clip import MAX_CHANNELS, MAX_RATE_HZ
from runners.errors import MediaError
from runners.files import HeldFile, read_bytes

PCM: Final = 1
FLOAT: Final = 3
EXTENSIBLE: Final = 0xFFFE
FORMATS: Final = {(PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64)}
MASKS: Final = {1: (0, 0x1, 0x4), 2: (0, 0x3)}  # number of channels -> masks: none said, front left, centre, both front
SLACK_BYTES: Final = 4 << 20  # of chunks with titles and pictures
MOST_CHUNKS: Final = 1000
_GUID_TAIL: Final = bytes.fromhex("000000001000800000aa00389b71")


@dataclass(frozen=True, kw_only=True)
class Sound:
    """The sound in a file."""

    waveform: Tensor  # float32 (C, N)
    sample_rate_hz: int
    doubts: tuple[tuple[str, str], ...]  # where and in which words the file contradicts what the model puts out


@dataclass(frozen=True, kw_only=True)
class _Form:
    code: int
    bits: int
    channels: int
    rate_hz: int
    mask: int


def read_wav(path: Path | HeldFile, most_samples: int) -> Sound:
    """Read a file of at most `most_samples` samples a channel. Raises: MediaError for what is none."""
    most_bytes = most_samples * MAX_CHANNELS * 8 + SLACK_BYTES
    data = read_bytes(path, MediaError, "wanted a WAV file of the case's length", max_bytes=most_bytes)
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise MediaError(f"{path} is not a WAV file (RIFF/WAVE); save the sound as one.")
    chunks = _chunks(data, path)
    form, samples = _form(chunks.get(b"fmt ", b""), path), chunks.get(b"data")
    if samples is None:
        raise MediaError(f"{path} has no data; save the sound again.")
    frame_bytes = form.channels * form.bits // 8
    if len(samples) == 0 or len(samples) % frame_bytes:
        raise MediaError(f"{path} has {len(samples)} bytes of samples, which is no whole number of {frame_bytes}.")
    if len(samples) // frame_bytes > most_samples:
        raise MediaError(f"{path} has more than {most_samples} samples, which the case's frames need.")
    doubts: tuple[tuple[str, str], ...] = ()
    if form.mask not in MASKS[form.channels]:
        what = (
            f"its {form.channels} channels are said to be loudspeakers {form.mask:#x}; the model's are {MASKS[2][1]:#x}"
        )
        doubts = (("audio channel mask", what),)
    return Sound(waveform=_samples(samples, form), sample_rate_hz=form.rate_hz, doubts=doubts)


def _chunks(data: bytes, path: Path | HeldFile) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    place = 12
    for _ in range(MOST_CHUNKS):
        if place + 8 > len(data):
            return found
        name, size = data[place : place + 4], struct.unpack_from("<I", data, place + 4)[0]
        if place + 8 + size > len(data):
            raise MediaError(f"{path} ends inside its chunk {name!r}: {size} bytes were said; save the sound again.")
        if name in found and name in (b"fmt ", b"data"):
            raise MediaError(f"{path} has two chunks {name!r}; save the sound again.")
        found.setdefault(name, data[place + 8 : place + 8 + size])
        place += 8 + size + size % 2
    raise MediaError(f"{path} has more than {MOST_CHUNKS} chunks; save the sound again.")


def _form(chunk: bytes, path: Path | HeldFile) -> _Form:
    if len(chunk) < 16:
        raise MediaError(f"{path} does not say its format; save the sound again.")
    code, channels, rate_hz, _, block, bits = struct.unpack_from("<HHIIHH", chunk)
    mask = 0
    if code == EXTENSIBLE:
        if len(chunk) < 40 or chunk[26:40] != _GUID_TAIL:
            raise MediaError(f"{path} has an extended format that is neither PCM nor floats; save the sound again.")
        mask, code = struct.unpack_from("<IH", chunk, 20)
    if (code, bits) not in FORMATS or block != channels * bits // 8:
        raise MediaError(
            f"{path} has format {code} of {bits} bits in blocks of {block} bytes; wanted PCM of 16, 24 or 32 bits or "
            "floats of 32 or 64."
        )
    if not 1 <= channels <= MAX_CHANNELS or not 1 <= rate_hz <= MAX_RATE_HZ:
        raise MediaError(
            f"{path} has {channels} channels at {rate_hz} Hz; wanted at most {MAX_CHANNELS} at most {MAX_RATE_HZ} Hz."
        )
    return _Form(code=code, bits=bits, channels=channels, rate_hz=rate_hz, mask=mask)


def _samples(data: bytes, form: _Form) -> Tensor:
    if form.code == FLOAT:
        flat = np.frombuffer(data, dtype=f"<f{form.bits // 8}").astype(np.float32)
    elif form.bits == 24:
        padded = np.zeros((len(data) // 3, 4), dtype=np.uint8)  # the sample in the upper three bytes of an int32
        padded[:, 1:] = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3)
        flat = (padded.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
    else:
        flat = (np.frombuffer(data, dtype=f"<i{form.bits // 8}") / 2.0 ** (form.bits - 1)).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(flat.reshape(-1, form.channels).T))  # (N, C) -> (C, N)
