"""From files to a verdict: what an engine left behind, judged against the golden of tiny_ti2v.

The golden is an official run with whole outputs, which the native exact tier has every bit of.
"""

import io
import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from av.video.reformatter import ColorRange
from safetensors.torch import save_file
from typer.testing import CliRunner

from parity.cli.app import app
from parity.runs.encoding import Encoding
from parity.runs.folder import RunOutputs
from parity.runs.golden import golden_of
from parity.runs.places import form_limits_path
from parity.runs.through_encoder import encode_clip
from parity.runs.video_file import write_mp4

CASE = "tiny_ti2v"
H264_AAC = "h264-yuv420p-crf23_aac-128k"
H264_WAV = "h264-yuv420p-crf23_wav"
SaveFrames = Callable[..., Path]
SaveWav = Callable[..., Path]
Bring = Callable[..., Path]


def parity(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def golden() -> RunOutputs:
    return golden_of(CASE).outputs()


@pytest.fixture
def bring(tmp_path: Path) -> Bring:
    """Import files as a run, and hand its folder back."""

    def call(frames: Path, sound: Path | None = None, *more: object) -> Path:
        out = tmp_path / f"run_of_{frames.name}_{'' if sound is None else sound.name}"
        given = [] if sound is None else ["--audio", sound]
        said = parity(
            "import", "--case", CASE, "--frames", frames, *given, "--runner-name", "engine", "--out", out, *more
        )
        assert said.exit_code == 0, said.output
        return out

    return call


def codes(run: Path) -> tuple[int, dict[str, Any], list[str]]:
    said = parity("gate", run, "--json")
    document = json.loads(said.stdout)
    return said.exit_code, document, [one["code"] for one in document.get("failures", [])]


@pytest.mark.parametrize(("code", "bits"), [(3, 32), (1, 16), (1, 24)])
def test_pictures_and_a_wav_file_of_a_run_are_at_parity_by_outputs(
    code: int, bits: int, golden: RunOutputs, bring: Bring, save_frames: SaveFrames, save_wav: SaveWav
) -> None:
    frames = save_frames("frames", golden.video_frames)
    sound = save_wav("a.wav", golden.audio_waveform, golden.sample_rate, code=code, bits=bits)
    run = bring(frames, sound)
    said = parity("gate", run)
    assert said.exit_code == 0, said.output
    words = " ".join(said.output.split())
    assert "imported: frames from pictures, sound from a WAV file, no latents (form png_wav)" in words
    assert "machine and weights are not known" in words
    assert "judged by outputs, imported in the form png_wav" in words
    assert "of outputs without latents, which were not given" in words
    assert "outputs without latents alone catch 120 of 131 known defects" in words


def test_a_defect_in_frames_or_sound_is_not_at_parity(
    golden: RunOutputs, bring: Bring, save_frames: SaveFrames, save_wav: SaveWav
) -> None:
    good = save_frames("frames", golden.video_frames)
    darker = save_frames("darker", (golden.video_frames.float() * 0.9).to(torch.uint8))
    sound = save_wav("a.wav", golden.audio_waveform, golden.sample_rate)
    louder = save_wav("louder.wav", golden.audio_waveform * 1.2, golden.sample_rate)
    assert codes(bring(darker, sound))[0] == 1
    assert codes(bring(good, louder))[0] == 1


def test_exchanged_channels_another_rate_and_one_channel_are_found(
    golden: RunOutputs, bring: Bring, save_frames: SaveFrames, save_wav: SaveWav
) -> None:
    frames = save_frames("frames", golden.video_frames)
    for name, waveform, rate, wanted in (
        ("swapped", golden.audio_waveform.flip(0), golden.sample_rate, "swapped_channels"),
        ("rate", golden.audio_waveform, 44100, "rate_mismatch"),
        ("mono", golden.audio_waveform[:1], golden.sample_rate, "missing_channel"),
    ):
        exit_code, _, found = codes(bring(frames, save_wav(f"{name}.wav", waveform, rate)))
        assert exit_code == 1 and wanted in found, name


def test_loudspeakers_that_are_not_the_models_are_a_wrong_tag(
    golden: RunOutputs, bring: Bring, save_frames: SaveFrames, save_wav: SaveWav
) -> None:
    frames = save_frames("frames", golden.video_frames)
    exit_code, _, found = codes(bring(frames, save_wav("a.wav", golden.audio_waveform, golden.sample_rate, mask=0x600)))
    assert exit_code == 1 and found == ["wrong_tag"]


def test_a_clip_of_the_runs_own_writer_is_judged_through_the_same_encoder(
    golden: RunOutputs, bring: Bring, tmp_path: Path
) -> None:
    path = tmp_path / "clip.mp4"
    write_mp4(path, golden.video_frames, golden.frame_rate, golden.audio_waveform, golden.sample_rate)
    said = parity("gate", bring(path))
    assert said.exit_code == 0, said.output
    words = " ".join(said.output.split())
    assert f"form {H264_AAC}" in words and f"outputs through {H264_AAC} alone catch" in words


def test_a_clip_with_a_defect_is_not_at_parity(golden: RunOutputs, bring: Bring, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    frames = golden.video_frames.roll(1, dims=0)
    write_mp4(path, frames, golden.frame_rate, golden.audio_waveform, golden.sample_rate)
    assert codes(bring(path))[0] == 1


def test_a_clip_with_its_own_wav_file_has_limits_of_its_own(
    golden: RunOutputs, bring: Bring, save_wav: SaveWav, tmp_path: Path
) -> None:
    path = tmp_path / "clip.mp4"
    write_mp4(path, golden.video_frames, golden.frame_rate, golden.audio_waveform, golden.sample_rate)
    said = parity("gate", bring(path, save_wav("a.wav", golden.audio_waveform, golden.sample_rate)))
    assert said.exit_code == 0, said.output
    assert f"through {H264_WAV}" in said.output.replace("\n", " ")


def test_a_form_without_limits_says_how_to_measure_them(golden: RunOutputs, bring: Bring, tmp_path: Path) -> None:
    form = "h264-yuv420p-crf30_wav"
    assert not form_limits_path(form).exists()
    path = tmp_path / "clip.mp4"
    data = encode_clip(golden.video_frames, golden.frame_rate, None, golden.sample_rate, Encoding.of_label(form))
    path.write_bytes(data)
    sound = tmp_path / "sound.mp4"
    write_mp4(sound, golden.video_frames, golden.frame_rate, golden.audio_waveform, golden.sample_rate)
    assert (
        "has no sound" in parity("import", "--case", CASE, "--frames", path, "--runner-name", "e", "--out", "x").output
    )
    with_sound = Encoding.of_label("h264-yuv420p-crf30_aac-128k")
    path.write_bytes(
        encode_clip(golden.video_frames, golden.frame_rate, golden.audio_waveform, golden.sample_rate, with_sound)
    )
    said = parity("gate", bring(path))
    assert said.exit_code == 2
    assert f"parity calibrate --case {CASE} --weights W --form {with_sound.label}" in " ".join(said.output.split())


def test_a_wrong_colour_tag_is_found(golden: RunOutputs, bring: Bring, save_wav: SaveWav, tmp_path: Path) -> None:
    """Planes of full range in a file that says nothing, which means limited."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(24), options={"crf": "23"})
        stream.height, stream.width, stream.pix_fmt = *golden.video_frames.shape[1:3], "yuv420p"
        for picture in golden.video_frames.numpy():
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            planes = frame.reformat(format="yuv420p", src_color_range=ColorRange.JPEG, dst_color_range=ColorRange.JPEG)
            planes.color_range = 0
            container.mux(stream.encode(planes))
        container.mux(stream.encode())
    path = tmp_path / "clip.mp4"
    path.write_bytes(target.getvalue())
    exit_code, document, _ = codes(bring(path, save_wav("a.wav", golden.audio_waveform, golden.sample_rate)))
    tag = next(one for one in document["failures"] if one["code"] == "wrong_tag")
    assert exit_code == 1 and "its planes fit full range, BT.601" in tag["message"]


def test_another_frame_rate_is_found_and_too_many_frames_are_refused(
    golden: RunOutputs, bring: Bring, tmp_path: Path
) -> None:
    path = tmp_path / "clip.mp4"
    write_mp4(path, golden.video_frames, 25.0, golden.audio_waveform, golden.sample_rate)
    exit_code, _, found = codes(bring(path))
    assert exit_code == 1 and "rate_mismatch" in found
    more = torch.cat((golden.video_frames, golden.video_frames[:1]))
    write_mp4(path, more, golden.frame_rate, golden.audio_waveform, golden.sample_rate)
    said = parity("import", "--case", CASE, "--frames", path, "--runner-name", "e", "--out", tmp_path / "run")
    assert said.exit_code == 2 and "18 frames; the case has 17" in " ".join(said.output.split())
    assert not (tmp_path / "run").exists()


def test_diff_report_and_explain_read_an_import(
    golden: RunOutputs, bring: Bring, save_frames: SaveFrames, save_wav: SaveWav, tmp_path: Path
) -> None:
    sound = save_wav("a.wav", golden.audio_waveform, golden.sample_rate)
    run = bring(save_frames("frames", golden.video_frames), sound)
    numbers = tmp_path / "numbers.json"
    assert parity("diff", golden_of(CASE).folder, run, "--out", numbers).exit_code == 0
    assert parity("gate", numbers, "--numbers").exit_code == 0
    page = tmp_path / "page.html"
    assert parity("report", run, "--out", page).exit_code == 0
    assert "imported in the form png_wav" in page.read_text(encoding="utf-8")
    said = parity("explain", run)
    assert said.exit_code == 2 and "was imported without taps" in " ".join(said.output.split())


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("import") / "tiny"
    said = parity("forge", "--preset", "tiny", "--seed", 0, "--out", folder)
    assert said.exit_code == 0, said.output
    return folder


@pytest.fixture(scope="module")
def native(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A native run with whole taps of its last step and its decoders."""
    out = tmp_path_factory.mktemp("native") / "run"
    taps = "denoise/003/cond/block/*/video/* denoise/003/latent/* decode/*"
    said = parity(
        "run", "--runner", "native", "--case", CASE, "--weights", weights, "--taps", taps, "--keep", "full",
        "--out", out, "--quiet",
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    return out


def dumped(native: Path, path: Path, spoil: Sequence[str] = (), leave_out: str = "") -> Path:
    """The run's whole taps under an engine's own names."""
    from safetensors.torch import load_file

    held: dict[str, torch.Tensor] = {}
    for tap, tensor in load_file(native / "tensors.safetensors").items():
        kind, *rest = tap.split("/")
        name = f"vae.{rest[0]}" if kind == "decode" else ".".join(("unet", *rest[1:]))
        held[name] = tensor * 1.3 if tap in spoil else tensor
    held.pop(leave_out, None)
    save_file(held, path)
    return path


MAP = """
[taps]
"denoise/003/{pass}/block/{block:02d}/video/ff" = "unet.{pass}.block.{block:02d}.video.ff"
"denoise/003/latent/{stream}" = "unet.latent.{stream}"
"decode/mel" = "vae.mel"
"""


def test_a_dump_with_a_name_map_gives_taps_that_gate_and_explain_read(
    native: Path, weights: Path, golden: RunOutputs, bring: Bring, save_frames: SaveFrames, save_wav: SaveWav,
    tmp_path: Path,
) -> None:  # fmt: skip
    frames = save_frames("frames", golden.video_frames)
    sound = save_wav("a.wav", golden.audio_waveform, golden.sample_rate)
    (tmp_path / "map.toml").write_text(MAP.replace("{pass}", "cond"))
    spoilt = "denoise/003/cond/block/01/video/ff"
    for name, spoil in (("good", ()), ("spoilt", (spoilt,))):
        dump = dumped(native, tmp_path / f"{name}.safetensors", spoil)
        given = ("--taps-from", dump, "--map", tmp_path / "map.toml", "--weights", weights)
        run = bring(frames, save_wav(f"{name}.wav", golden.audio_waveform, golden.sample_rate), *given)
        said = parity("explain", run, "--against", native)
        words = " ".join(said.output.split())
        if spoil:
            assert "step 3, conditional pass, block 1, video, feed-forward" in words
            exit_code, document, _ = codes(run)
            beyond = [row["metric"] for row in document["rows"] if not row["passed"]]
            assert exit_code == 1 and beyond == ["drift.block.video.ff.second_half"]
        else:
            assert "equal in every bit" in words
            assert codes(run)[0] == 0
    short = dumped(native, tmp_path / "short.safetensors", leave_out="vae.mel")
    said = parity(
        "import", "--case", CASE, "--frames", frames, "--audio", sound, "--runner-name", "e",
        "--out", tmp_path / "run", "--taps-from", short, "--map", tmp_path / "map.toml", "--weights", weights,
    )  # fmt: skip
    assert said.exit_code == 2 and "lacks vae.mel (tap decode/mel)" in " ".join(said.output.split())
