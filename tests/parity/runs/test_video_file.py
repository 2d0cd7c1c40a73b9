"""The clip for people: it has the frames, the sound and the rates it was given."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from parity.runs.video_file import write_mp4
from runners.errors import MediaError

RATE_HZ = 48000


def frames(count: int = 9) -> torch.Tensor:
    """A gray level that rises from frame to frame."""
    levels = torch.linspace(20, 230, count).round().to(torch.uint8)
    return levels.view(-1, 1, 1, 1).expand(-1, 32, 64, 3)


def tone(channels: int = 2, samples: int = 14400) -> torch.Tensor:
    time_s = torch.arange(samples) / RATE_HZ
    return 0.5 * torch.sin(2 * torch.pi * 1000 * time_s).expand(channels, -1)


@pytest.mark.parametrize("frame_rate", [24.0, 29.97, 23.976, 12.5])
def test_frames_sound_and_rates_are_in_the_file(frame_rate: float, tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", frames(), frame_rate, tone(), RATE_HZ)
    with av.open(str(tmp_path / "a.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.width, video.height) == (64, 32) and (audio.rate, audio.channels) == (RATE_HZ, 2)
        assert float(video.average_rate) == pytest.approx(frame_rate, rel=1e-3)
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(decoded) == 9
    for level, picture in zip(frames()[:, 0, 0, 0].tolist(), decoded, strict=True):
        assert abs(picture.mean() - level) < 6
    with av.open(str(tmp_path / "a.mp4")) as container:
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    assert abs(sound.shape[1] - 14400) < 3 * 1024
    assert np.abs(sound[:, 4000:8000]).max() == pytest.approx(0.5, abs=0.1)


def test_sound_that_is_no_number_is_silence_and_too_loud_is_clipped(tmp_path: Path) -> None:
    spoiled = torch.full((1, 4096), float("nan"))
    spoiled[:, 2048:] = float("inf")
    write_mp4(tmp_path / "a.mp4", frames(), 24.0, spoiled, RATE_HZ)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.audio[0].channels == 1


def test_one_frame_and_one_sample_are_a_clip(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", frames(1), 24.0, torch.zeros(2, 1), RATE_HZ)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert len(list(container.decode(video=0))) == 1


def test_what_the_codecs_do_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="A waveform of 3 channels cannot be written; 1 or 2 are wanted"):
        write_mp4(tmp_path / "a.mp4", frames(), 24.0, tone(channels=3), RATE_HZ)
    with pytest.raises(MediaError, match=r"could not be written to .*none/a.mp4"):
        write_mp4(tmp_path / "none/a.mp4", frames(), 24.0, tone(), RATE_HZ)
    with pytest.raises(MediaError, match="could not be written"):
        write_mp4(tmp_path / "a.mp4", frames(), 24.0, tone(), 12345)
