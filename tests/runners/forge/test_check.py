import re
from pathlib import Path

import pytest
import torch

from runners.forge import scales
from runners.forge.check import Figure, check_weights
from runners.forge.make import forge
from runners.weights import WeightsFolder

CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings("ignore:.*torchaudio.*")


def test_every_figure_of_tiny_lies_in_its_range(tiny_weights: Path) -> None:
    assert [figure for figure in check_weights(WeightsFolder(tiny_weights), CPU) if not figure.holds] == []


def test_dead_branches_and_saturated_ends_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled = (
        (re.compile(r".*blocks\.2\.audio_ff\.net\.2\..*"), scales.spread_recipe(0.0, 1e-6)),
        (re.compile(r".*blocks\.1\.audio_to_video_attn\.to_(v|out\.0)\..*"), scales.spread_recipe(0.0, 1e-6)),
        (re.compile(r"vae\.decoder\.conv_out\.conv\.weight"), scales.gain_recipe(6.0)),
        (re.compile(r"vocoder\.vocoder\.conv_post\.weight"), scales.gain_recipe(3.0)),
    )
    monkeypatch.setattr(scales, "COMPILED_RULES", spoiled + scales.COMPILED_RULES)
    folder = forge("tiny", 0, tmp_path / "spoiled")
    short = {"request.num_frames": 9, "request.num_inference_steps": 1}
    failing = {figure.name for figure in check_weights(WeightsFolder(folder), CPU, short) if not figure.holds}
    assert failing >= {
        "audio ff share of stream, least",
        "video av_attn share of stream, least",
        "frames: share of bytes at 0 or 255",
        "waveform: share of samples at the limit",
    }
    assert "video ff share of stream, least" not in failing


def test_a_figure_that_was_never_measured_does_not_hold() -> None:
    assert not Figure(name="x", value=float("nan"), low=0.0, high=1.0).holds
    assert Figure(name="x", value=1.0, low=0.0, high=1.0).holds
    assert not Figure(name="x", value=1.01, low=0.0, high=1.0).holds
