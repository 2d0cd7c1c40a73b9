"""The official runner: the released pipeline as it is, its fp32 oracle, and the ground truth without V2A."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from runners.case import Case
from runners.clock import STAGES, UPSAMPLING
from runners.errors import CaseError, MediaError, RunnerError
from runners.native.runner import NativeRunner
from runners.official.runner import OfficialRunner
from runners.protocol import RunOptions
from runners.weights import WeightsFolder

CPU = torch.device("cpu")
BF16, FP32 = RunOptions(device=CPU), RunOptions(device=CPU, dtype=torch.float32)
PICTURE = {"request.images": [{"path": "astronaut.png", "strength": 0.9}]}
V2A_OFF = {"switches.skip_v2a_cross_attn_for_video_gt": True}
PASSES = ("cond", "uncond", "perturbed", "isolated")

Run = Callable[..., Any]
MakeCase = Callable[..., Case]


@pytest.fixture(scope="module")
def plain(micro_case: MakeCase, official_run: Run) -> Any:
    """An official run of the micro case, in bf16."""
    return official_run(micro_case())


def test_the_oracles_path_in_bf16_equals_the_pipeline_class_bit_for_bit(
    micro_weights: WeightsFolder, micro_case: MakeCase, run: Run, official_run: Run
) -> None:
    through_class = official_run(micro_case(PICTURE))
    through_helpers = run(OfficialRunner(micro_weights, BF16, through_helpers=True), micro_case(PICTURE))
    assert through_class.outcome.details["through_helpers"] is False
    assert through_helpers.outcome.details["through_helpers"] is True
    assert through_class.taps.keys() == through_helpers.taps.keys()
    for name, tensor in through_class.taps.items():
        assert torch.equal(tensor, through_helpers.taps[name]), name
    for name in ("video_frames", "audio_waveform", "video_latent", "audio_latent", "sigmas"):
        assert torch.equal(getattr(through_class.outcome, name), getattr(through_helpers.outcome, name)), name


def test_the_fp32_oracle_is_near_the_bf16_run_and_not_equal(
    plain: Any, micro_case: MakeCase, official_run: Run
) -> None:
    oracle = official_run(micro_case(), torch.float32)
    assert oracle.outcome.details["through_helpers"] is True
    assert {tensor.dtype for name, tensor in oracle.taps.items() if "block" in name} == {torch.float32}
    # Compared before the noise, which differs: it is drawn in the run's dtype.
    context = oracle.taps["connector/pos/video"]
    error = (plain.taps["connector/pos/video"].float() - context).norm() / context.norm()
    assert 1e-4 < error < 0.1


def test_a_run_has_every_tap_stage_and_step(micro_case: MakeCase, official_run: Run) -> None:
    executed = official_run(micro_case(PICTURE))
    names = {f"text/{sign}/hidden" for sign in ("pos", "neg")}
    names |= {f"connector/{sign}/{modality}" for sign in ("pos", "neg") for modality in ("video", "audio")}
    names |= {"image/0/latent", "init/video", "init/audio", "decode/frames", "decode/mel", "decode/waveform"}
    for step in ("denoise/000", "denoise/001"):
        names |= {f"{step}/{kind}/{modality}" for kind in ("guided", "latent") for modality in ("video", "audio")}
        for one_pass in PASSES:
            names |= {f"{step}/{one_pass}/x0/{modality}" for modality in ("video", "audio")}
            for modality in ("video", "audio"):
                branches = ["self_attn", "text_attn", "av_attn", "ff", "out"]
                names |= {f"{step}/{one_pass}/block/{b:02d}/{modality}/{x}" for b in (0, 1) for x in branches}
    # An attention that is skipped has no output to tap: self-attention still has its values, cross-modal has nothing.
    isolated = [f"denoise/{step:03d}/isolated/block/{b:02d}" for step in (0, 1) for b in (0, 1)]
    names -= {f"{block}/{modality}/av_attn" for block in isolated for modality in ("video", "audio")}
    assert executed.taps.keys() == names
    outcome = executed.outcome
    assert set(STAGES) - {UPSAMPLING} <= outcome.stage_s.keys() and len(outcome.step_s) == 2
    assert all(seconds >= 0 for seconds in outcome.stage_s.values())
    assert outcome.video_frames.shape == (9, 64, 96, 3) and outcome.video_frames.dtype == torch.uint8
    assert outcome.audio_waveform.dtype == torch.float32 and outcome.audio_waveform.shape[0] == 2
    assert outcome.video_latent.shape == (1, 128, 2, 2, 3)
    assert outcome.audio_latent.shape == (1, 8, 5, 16)
    assert outcome.sigmas.shape == (3,) and outcome.sigmas.dtype == torch.float32


@pytest.mark.parametrize("runner", [OfficialRunner, NativeRunner])
def test_without_v2a_audio_never_attends_to_video_in_any_pass_and_sounds_different(
    runner: Any, plain: Any, micro_weights: WeightsFolder, micro_case: MakeCase, run: Run
) -> None:
    # Native has the official bits (test_exact_tier.py), so that one run with V2A serves both.
    with_v2a = plain
    without = run(runner(micro_weights, BF16), micro_case(V2A_OFF))
    for one_pass in ("cond", "uncond", "perturbed"):
        tail = f"denoise/000/{one_pass}/block/01"
        assert f"{tail}/audio/av_attn" in with_v2a.taps
        assert f"{tail}/video/av_attn" in without.taps  # video attends to audio as ever
    assert [name for name in without.taps if name.endswith("audio/av_attn")] == []
    for one_pass in PASSES:
        assert f"denoise/001/{one_pass}/x0/audio" in without.taps
    changed = without.taps["denoise/000/cond/block/00/audio/out"], with_v2a.taps["denoise/000/cond/block/00/audio/out"]
    assert not torch.equal(*changed)
    difference = without.outcome.audio_waveform - with_v2a.outcome.audio_waveform
    assert difference.norm() > 0.01 * with_v2a.outcome.audio_waveform.norm()


def test_two_runs_are_bit_identical(plain: Any, micro_weights: WeightsFolder, micro_case: MakeCase, run: Run) -> None:
    again = run(OfficialRunner(micro_weights, BF16), micro_case())
    assert all(torch.equal(tensor, again.taps[name]) for name, tensor in plain.taps.items())


@pytest.mark.parametrize(
    ("overrides", "error", "sentence"),
    [
        ({"switches.disable_autocast": False}, RunnerError, "does not understand disable_autocast = false"),
        ({"reference": "1.2.0"}, RunnerError, "does not run reference release '1.2.0'"),
        ({"request.images": [{"path": "none.png"}]}, CaseError, "'none.png' of case 'micro' is not a file"),
        ({"request.images": [{"path": "no.png"}]}, MediaError, "no.png cannot be decoded as a picture"),
        (
            {"request.images": [{"path": "dot.png"}]},
            RunnerError,
            r"official code 1.0.0 cannot run this case with these weights: IndexError at media_io.py:\d+: tuple index",
        ),
    ],
)
def test_what_it_cannot_run_is_refused_in_one_sentence(
    overrides: dict[str, Any],
    error: type[Exception],
    sentence: str,
    micro_weights: WeightsFolder,
    micro_case: MakeCase,
    pictures: Path,
    run: Run,
) -> None:
    (pictures / "no.png").write_text("this is no picture")
    Image.new("RGB", (1, 1)).save(pictures / "dot.png")  # too small for H.264, which the official code does not check
    with pytest.raises(error, match=sentence):
        run(OfficialRunner(micro_weights, BF16), micro_case(overrides))
