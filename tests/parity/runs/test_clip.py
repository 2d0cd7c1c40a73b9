"""Video files: what they say is read, held to the case, and never believed where it costs something."""

import io
import os
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch

from parity.runs.clip import ClipForm, decode_clip, read_clip
from parity.runs.encoding import Encoding
from parity.runs.folder import RunOutputs
from parity.runs.through_encoder import encode_clip, through_encoder
from parity.runs.video_file import write_mp4
from runners.errors import MediaError

RATE_HZ = 48000
FORM = ClipForm(frames=9, height=64, width=96, frame_rate=24.0)


def frames(count: int = 9) -> torch.Tensor:
    """Smooth patches of every colour that move a little."""
    generator = torch.Generator().manual_seed(3)
    small = torch.rand(count, 3, 8, 12, generator=generator)
    large = torch.nn.functional.interpolate(small, size=(64, 96), mode="bilinear")
    return (large * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def sound(samples: int = 18000) -> torch.Tensor:
    time_s = torch.arange(samples) / RATE_HZ
    return torch.stack([torch.sin(2 * torch.pi * rate * time_s) * 0.3 for rate in (440, 660)])


def outputs() -> RunOutputs:
    return RunOutputs(
        video_frames=frames(),
        audio_waveform=sound(),
        video_latent=None,
        audio_latent=None,
        frame_rate=24.0,
        sample_rate=RATE_HZ,
    )


def test_a_runs_own_clip_is_what_its_frames_and_sound_are_through_the_same_encoder(tmp_path: Path) -> None:
    # One frame: x264 weighs several by each other (mbtree), and where it uses AVX512 on pictures as small as these,
    # what comes of it differs from call to call, on one thread, too.
    made = replace(outputs(), video_frames=frames(1), audio_waveform=sound(2016))
    write_mp4(tmp_path / "a.mp4", made.video_frames, 24.0, made.audio_waveform, RATE_HZ)
    clip = read_clip(tmp_path / "a.mp4", replace(FORM, frames=1))
    assert clip.encoding.label == "h264-yuv420p-crf23_aac-128k"
    assert (clip.frame_rate, clip.sample_rate_hz, clip.doubts) == (24.0, RATE_HZ, ())
    assert clip.waveform is not None and clip.waveform.shape == (2, 2016)
    lost = through_encoder(made, clip.encoding)
    assert (lost.video_frames.float() - clip.frames.float()).abs().mean() < 1.0  # their threads differ
    assert torch.equal(lost.audio_waveform, clip.waveform)
    assert not torch.equal(lost.video_frames, made.video_frames)


@pytest.mark.parametrize(
    "label",
    [
        "h264-yuv420p-crf18-full_wav",
        "h264-yuv444p10le-crf12.5-bt709_aac-96k",
        "hevc-yuv420p-crf20-full-bt709_mp3-128k",
        "h264-yuv422p-900k_wav",
    ],
)
def test_a_file_tells_what_it_was_made_with(label: str) -> None:
    encoding = Encoding.of_label(label)
    data = encode_clip(frames(), 24.0, None if encoding.sound is None else sound(), RATE_HZ, encoding)
    clip = decode_clip(data, "here", FORM)
    assert clip.encoding == encoding
    error = (clip.frames.float() - frames().float()).abs().mean()
    assert error < 8, "planes were read otherwise than they were made"


def test_what_is_lossless_stays_as_it_is() -> None:
    assert through_encoder(outputs(), Encoding()) is not None
    only_sound = through_encoder(outputs(), Encoding.of_label("png_aac-64k"))
    assert torch.equal(only_sound.video_frames, frames())
    assert not torch.equal(only_sound.audio_waveform, sound())


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (replace(FORM, frames=8), "9 frames; the case has 8"),
        (replace(FORM, frames=10), "has 9 frames; the case has 10"),
        (replace(FORM, height=96, width=64), "96 x 64 pixels; the case has 64 x 96"),
    ],
)
def test_the_case_says_how_many_frames_and_how_large(form: ClipForm, said: str, tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", frames(), 24.0, sound(), RATE_HZ)
    with pytest.raises(MediaError, match=said):
        read_clip(tmp_path / "a.mp4", form)


def test_more_frames_than_the_header_says_end_the_decoding() -> None:
    data = encode_clip(frames(), 24.0, None, RATE_HZ, Encoding.of_label("h264-yuv420p-crf23_wav"))
    source, target = io.BytesIO(data), io.BytesIO()
    with av.open(source) as one, av.open(target, "w", format="matroska") as other:  # says no number of frames
        stream = other.add_stream_from_template(one.streams.video[0])
        for packet in one.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                other.mux(packet)
    with pytest.raises(MediaError, match="more than 7 frames"):
        decode_clip(target.getvalue(), "here", replace(FORM, frames=7))


def test_another_frame_rate_is_told_and_a_rounded_one_is_the_cases(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", frames(), 25.0, sound(), RATE_HZ)
    assert read_clip(tmp_path / "a.mp4", FORM).frame_rate == 25.0
    write_mp4(tmp_path / "b.mp4", frames(), 29.97, sound(), RATE_HZ)
    assert read_clip(tmp_path / "b.mp4", replace(FORM, frame_rate=29.97)).frame_rate == 29.97


def test_frames_at_uneven_times_and_oblong_pixels_are_doubts() -> None:
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for index, picture in enumerate(frames().numpy()):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index + 5 * (index > 4), Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    clip = decode_clip(target.getvalue(), "here", FORM)
    assert [where for where, _ in clip.doubts] == ["video time stamps", "pixel aspect"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "neither MP4"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "neither MP4"),
        (b"\0\0\0\x20ftypisom" + bytes(400), "cannot be decoded|has 0 video"),
        (b"\x1a\x45\xdf\xa3" + bytes(400), "cannot be decoded|has 0 video"),
        (b"", "neither MP4"),
    ],
)
def test_playlists_and_rubbish_are_one_sentence(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(MediaError, match=said):
        read_clip(tmp_path / "a.mp4", FORM)


def test_damage_anywhere_is_refused_or_decoded_and_never_a_traceback(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", frames(), 24.0, sound(), RATE_HZ)
    data = (tmp_path / "a.mp4").read_bytes()
    generator = torch.Generator().manual_seed(5)
    refused = 0
    for place in torch.randint(0, len(data), (40,), generator=generator).tolist():
        damaged = bytearray(data)
        damaged[place : place + 4] = b"\xff\x00\xff\x7f"
        for bad in (bytes(damaged), data[:place]):
            try:
                decode_clip(bad, "here", FORM)
            except MediaError:
                refused += 1
    assert refused >= 40, "a file that was cut short held all frames"


@pytest.mark.parametrize("make", [lambda path: os.mkfifo(path), lambda path: path.mkdir()])
def test_what_is_no_file_is_not_waited_for(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match=r"regular file|cannot be read"):
        read_clip(tmp_path / "a.mp4", FORM)
