"""WAV files of every kind that is read, and those that are refused in a sentence."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from parity.runs.wav import read_wav
from runners.errors import MediaError

SAMPLES = torch.tensor([[0.5, -0.25, 0.0, -1.0, 0.125], [0.0, 0.75, -0.5, 0.25, -0.125]])  # exact in 16 bits
RATE_HZ = 44100
SaveWav = Callable[..., Path]


@pytest.mark.parametrize(("code", "bits"), [(1, 16), (1, 24), (1, 32), (3, 32), (3, 64)])
@pytest.mark.parametrize("mask", [None, 3])
def test_samples_of_every_kind_are_the_same_numbers(code: int, bits: int, mask: int | None, save_wav: SaveWav) -> None:
    sound = read_wav(save_wav("a.wav", SAMPLES, RATE_HZ, bits=bits, code=code, mask=mask), 5)
    assert sound.waveform.dtype == torch.float32
    assert torch.equal(sound.waveform, SAMPLES)
    assert (sound.sample_rate_hz, sound.doubts) == (RATE_HZ, ())


def test_one_channel_is_read_and_three_are_refused(save_wav: SaveWav) -> None:
    assert read_wav(save_wav("one.wav", SAMPLES[:1], 8000), 5).waveform.shape == (1, 5)
    with pytest.raises(MediaError, match="3 channels"):
        read_wav(save_wav("three.wav", torch.zeros(3, 5), 8000), 5)


def test_a_pair_for_other_loudspeakers_is_a_doubt(save_wav: SaveWav) -> None:
    (doubt,) = read_wav(save_wav("rear.wav", SAMPLES, RATE_HZ, mask=0x30), 5).doubts
    assert doubt[0] == "audio channel mask" and "0x30" in doubt[1]


def test_what_is_longer_than_the_case_is_refused(save_wav: SaveWav) -> None:
    with pytest.raises(MediaError, match="more than 4 samples"):
        read_wav(save_wav("long.wav", SAMPLES, RATE_HZ), 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:40], "has no data"),
        (lambda data: b"RIFX" + data[4:], "not a WAV"),
        (lambda data: data[:-1], "ends inside"),
        (lambda data: data.replace(b"data", b"tada"), "has no data"),
        (lambda data: data.replace(b"fmt ", b"fmt2"), "does not say its format"),
        (lambda data: data[:20] + struct.pack("<H", 17) + data[22:], "format 17"),
        (lambda data: data[:24] + struct.pack("<I", 1 << 30) + data[28:], "1073741824 Hz"),
        (lambda data: data[:12] + b"x" * 8 * 1100, "ends inside"),
        (lambda data: data[:12] + (b"junk" + bytes(4)) * 1100, "more than 1000 chunks"),
        (lambda data: data + data[-48:-40] + data[-40:], "two chunks"),
    ],
)
def test_a_damaged_file_is_one_sentence(change: Callable[[bytes], bytes], said: str, save_wav: SaveWav) -> None:
    path = save_wav("a.wav", SAMPLES, RATE_HZ)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(MediaError, match=said):
        read_wav(path, 5)


def test_a_pipe_a_folder_and_a_huge_file_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    for name in ("pipe.wav", ".", "no.wav"):
        with pytest.raises(MediaError, match=r"not a regular file|no file that can be read"):
            read_wav(tmp_path / name, 5)
    with (tmp_path / "sparse.wav").open("wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(MediaError, match="more than"):
        read_wav(tmp_path / "sparse.wav", 5)
