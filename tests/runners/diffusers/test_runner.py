"""The diffusers runner: what it refuses, and that its taps are the reference's taps, named and laid out alike.

Compared with the native runner, which has the official bits. diffusers draws its noise in another order, so where
values are compared it is given the reference's noise; in fp32 and without a picture it then computes the same model.
"""

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from runners.case import Case
from runners.catalogue import open_runner
from runners.clock import Clock
from runners.diffusers.components import build_components
from runners.diffusers.runner import DiffusersRunner, pipeline_arguments
from runners.errors import CheckpointError, RunnerError
from runners.ltx23.sampling import DEFAULT_NEGATIVE_PROMPT
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions
from runners.weights import WeightsFolder

CPU = torch.device("cpu")
BF16, FP32 = RunOptions(device=CPU), RunOptions(device=CPU, dtype=torch.float32)
MAPPABLE = {"guidance.audio.stg_blocks": [1]}  # the micro case perturbs another block for each modality
PICTURE = {"request.images": [{"path": "astronaut.png"}]}
UNGUIDED: dict[str, Any] = {"guidance.video": {}, "guidance.audio": {}}


@dataclass(frozen=True, kw_only=True)
class Both:
    diffusers: Any
    native: Any


def relative_l2(reference: Tensor, candidate: Tensor) -> float:
    reference, candidate = reference.double(), candidate.double()
    return float((candidate - reference).norm() / reference.norm())


@pytest.fixture(scope="module")
def picture(micro_weights: WeightsFolder, micro_case: Callable[..., Case], run: Callable[..., Any]) -> Both:
    case = micro_case(MAPPABLE | PICTURE)
    return Both(
        diffusers=run(DiffusersRunner(micro_weights, BF16), case),
        native=run(NativeRunner(micro_weights, BF16), case),
    )


@pytest.fixture(scope="module")
def same_noise(micro_weights: WeightsFolder, micro_case: Callable[..., Case], run: Callable[..., Any]) -> Both:
    case = micro_case(MAPPABLE)
    native = run(NativeRunner(micro_weights, FP32), case)
    pipeline = importlib.import_module("diffusers").LTX2Pipeline
    with (
        patch.object(pipeline, "prepare_latents", lambda *_, **__: native.taps["init/video"]),
        patch.object(pipeline, "prepare_audio_latents", lambda *_, **__: native.taps["init/audio"]),
    ):
        return Both(diffusers=run(DiffusersRunner(micro_weights, FP32), case), native=native)


def test_a_guided_picture_run_leaves_the_same_taps_in_the_same_shapes(picture: Both) -> None:
    assert picture.diffusers.outcome.details["taps_not_offered"] == {}
    ours, theirs = (
        {name: tuple(tap.shape) for name, tap in one.taps.items()} for one in (picture.native, picture.diffusers)
    )
    assert theirs == ours
    assert sum("/block/" in name for name in theirs) > 100


def test_outputs_have_the_form_of_the_protocol(picture: Both) -> None:
    theirs, ours = picture.diffusers.outcome, picture.native.outcome
    for name in ("video_frames", "audio_waveform", "video_latent", "audio_latent", "sigmas"):
        a, b = getattr(theirs, name), getattr(ours, name)
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
    assert (theirs.sample_rate_hz, theirs.frame_rate) == (ours.sample_rate_hz, ours.frame_rate)
    assert len(theirs.step_s) == 2
    assert theirs.stage_s.keys() == ours.stage_s.keys()
    assert theirs.details["batched_passes"] == ["uncond", "cond"]
    assert theirs.details["crf_not_applied"] == [33]


def test_the_final_latents_are_the_last_step_s(picture: Both) -> None:
    taps, outcome = picture.diffusers.taps, picture.diffusers.outcome
    video = outcome.video_latent.flatten(2).transpose(1, 2)  # (B, C, F, H, W) -> (B, T, C)
    audio = outcome.audio_latent.transpose(1, 2).flatten(2)  # (B, C, T, M) -> (B, T, C*M)
    assert torch.equal(video, taps["denoise/001/latent/video"].bfloat16())
    assert torch.equal(audio, taps["denoise/001/latent/audio"].bfloat16())


def test_a_picture_fills_the_first_latent_frame_and_only_that(picture: Both) -> None:
    taps = picture.diffusers.taps
    cells = 2 * 3  # of a 64x96 latent frame
    first = taps["image/0/latent"].flatten(2).transpose(1, 2)
    assert torch.equal(taps["init/video"][:, :cells], first)
    assert torch.equal(taps["denoise/001/latent/video"][:, :cells], first)
    assert not torch.equal(taps["denoise/001/latent/video"][:, cells:], taps["init/video"][:, cells:])


def test_with_the_same_noise_every_fp32_tap_agrees(same_noise: Both) -> None:
    # Swapped passes, prompts, streams or steps differ by 1e-2 and more; what is left is fp32 rounding of the sigmas.
    ours, theirs = same_noise.native.taps, same_noise.diffusers.taps
    assert theirs.keys() == ours.keys()
    different = {name: relative_l2(tap, theirs[name]) for name, tap in ours.items() if name != "decode/frames"}
    assert max(different.values()) < 1e-3, max(different, key=different.__getitem__)
    # diffusers rounds to bytes where the reference truncates.
    step = theirs["decode/frames"].int() - ours["decode/frames"].int()
    assert step.min() >= 0
    assert step.max() == 1


def test_passes_of_one_step_differ_by_more_than_the_agreement(same_noise: Both) -> None:
    taps = same_noise.native.taps
    for other in ("uncond", "perturbed", "isolated"):
        for stream in ("video", "audio"):
            assert relative_l2(taps[f"denoise/000/cond/x0/{stream}"], taps[f"denoise/000/{other}/x0/{stream}"]) > 3e-3


def test_without_guidance_one_prompt_and_one_pass_are_tapped(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], run: Callable[..., Any], same_noise: Both
) -> None:
    theirs = run(DiffusersRunner(micro_weights, FP32), micro_case(UNGUIDED))
    guided = re.compile("neg|uncond|perturbed|isolated")
    assert theirs.taps.keys() == {name for name in same_noise.native.taps if not guided.search(name)}
    assert theirs.outcome.details["batched_passes"] == []


@pytest.mark.parametrize(
    ("overrides", "option"),
    [
        ({"request.images": [{"path": "astronaut.png", "frame_idx": 8}]}, "frame_idx = 8"),
        ({"request.images": [{"path": "astronaut.png", "strength": 0.9}]}, "strength = 0.9"),
        ({"request.images": [{"path": "astronaut.png"}, {"path": "coffee.jpg"}]}, "images = 2 pictures"),
        ({"guidance.video.skip_step": 1}, "guidance.video.skip_step = 1"),
        ({"guidance.audio.stg_blocks": [0]}, r"guidance.audio.stg_blocks = \[0\]"),
        ({"guidance.video.stg_scale": 0.0}, "guidance.video.stg_scale = 0"),
        ({"guidance.audio.stg_scale": 0.0}, "guidance.audio.stg_scale = 0"),
        ({"guidance.video.stg_scale": -1.0, "guidance.audio.stg_scale": -2.0}, "guidance.*stg_scale = -1.0 and -2.0"),
        ({"guidance.video.stg_blocks": [], "guidance.audio.stg_blocks": []}, "stg_blocks = "),
        ({"guidance.video.stg_blocks": [2], "guidance.audio.stg_blocks": [2]}, "some of blocks 0 to 1"),
        ({"guidance.audio.rescale_scale": 0.0}, "guidance.audio.rescale_scale = 0"),
        ({"guidance.video.rescale_scale": -0.1}, "guidance.video.rescale_scale = -0.1"),
        ({"guidance.audio.modality_scale": 0.0}, "guidance.audio.modality_scale = 0"),
        ({"guidance.video.cfg_scale": 0.5, "guidance.audio.cfg_scale": 1.0}, "cfg_scale = 0.5 and 1.0"),
    ],
)
def test_options_without_a_counterpart_are_refused_by_name(
    overrides: dict[str, Any], option: str, micro_case: Callable[..., Case]
) -> None:
    with pytest.raises(RunnerError, match=option):
        pipeline_arguments(micro_case(MAPPABLE | overrides), num_blocks=2)


@pytest.mark.parametrize(
    ("overrides", "options", "what"),
    [
        ({"switches.skip_v2a_cross_attn_for_video_gt": True}, {}, "skip_v2a"),
        ({"switches.disable_autocast": False}, {}, "disable_autocast"),
        ({"reference": "1.2.0"}, {}, "1.2.0"),
        ({}, {"tier": "fast"}, "fast"),
        ({}, {"behaviours": {"guidance_fp32": True}}, "guidance_fp32"),
    ],
)
def test_switches_releases_tiers_and_behaviours_it_lacks_are_refused_before_anything_is_loaded(
    overrides: dict[str, Any],
    options: dict[str, Any],
    what: str,
    micro_weights: WeightsFolder,
    micro_case: Callable[..., Case],
    run: Callable[..., Any],
) -> None:
    with (
        patch("runners.diffusers.runner.build_components", side_effect=AssertionError("loaded")),
        pytest.raises(RunnerError, match=what),
    ):
        run(DiffusersRunner(micro_weights, RunOptions(device=CPU, **options)), micro_case(MAPPABLE | overrides))


def test_a_case_becomes_the_documented_arguments(micro_case: Callable[..., Case]) -> None:
    arguments = pipeline_arguments(micro_case(MAPPABLE), num_blocks=2)
    assert arguments == {
        "prompt": "An astronaut waves at the camera and says hello.",
        "negative_prompt": "blurry, silent",
        "height": 64,
        "width": 96,
        "num_frames": 9,
        "frame_rate": 45.0,
        "num_inference_steps": 2,
        "guidance_scale": 3.0,
        "stg_scale": 1.0,
        "modality_scale": 3.0,
        "guidance_rescale": 0.7,
        "audio_guidance_scale": 7.0,
        "audio_stg_scale": 1.0,
        "audio_modality_scale": 3.0,
        "audio_guidance_rescale": 0.7,
        "spatio_temporal_guidance_blocks": [1],
        "use_cross_timestep": True,
    }


def test_the_default_negative_prompt_of_both_packages_is_the_same_text(micro_case: Callable[..., Case]) -> None:
    case = micro_case(MAPPABLE)
    silent = replace(case, request=replace(case.request, negative_prompt=None))
    assert pipeline_arguments(silent, num_blocks=2)["negative_prompt"] == DEFAULT_NEGATIVE_PROMPT


def test_components_hold_the_checkpoint_s_values_and_gemma_is_built_as_transformers_loads_it(
    micro_weights: WeightsFolder,
) -> None:
    from transformers import Gemma3ForConditionalGeneration

    built = build_components(micro_weights, CPU, torch.bfloat16)
    components = built.arguments
    assert all(value.is_meta for value in components["transformer"].parameters())  # it waits for Gemma to leave
    built.fill_transformer()
    name = "model.diffusion_model.transformer_blocks.1.audio_attn2.q_norm.weight"
    stored = micro_weights.model.read([name], CPU)[name]
    assert torch.equal(components["transformer"].state_dict()["transformer_blocks.1.audio_attn2.norm_q.weight"], stored)
    loaded = Gemma3ForConditionalGeneration.from_pretrained(str(micro_weights.gemma_folder), dtype=torch.bfloat16)
    theirs, ours = loaded.state_dict(), components["text_encoder"].state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    buffers = dict(components["text_encoder"].named_buffers())
    for key, buffer in loaded.named_buffers():  # used in the dtype of the weights
        assert torch.equal(buffer.bfloat16(), buffers[key].bfloat16()), key


def test_gemma_leaves_before_the_transformer_comes(micro_weights: WeightsFolder) -> None:
    with DiffusersRunner(micro_weights, BF16) as runner:
        pipeline = runner.open_pipeline(True, Clock(CPU))
        language_model, transformer = pipeline.text_encoder, pipeline.transformer
        assert not any(value.is_meta for value in language_model.parameters())
        [called] = transformer._forward_pre_hooks.values()
        called()
        assert all(value.is_meta for value in language_model.parameters())
        assert not any(value.is_meta for value in transformer.parameters())
        assert not transformer._forward_pre_hooks  # once


def test_a_checkpoint_that_lacks_a_tensor_is_refused_by_its_name(micro_weights: WeightsFolder) -> None:
    name = "vocoder.bwe_generator.conv_pre.weight"
    shapes = {key: shape for key, shape in micro_weights.model.shapes.items() if key != name}
    with (
        patch.object(micro_weights.model, "shapes", shapes),
        pytest.raises(CheckpointError, match=r"vocoder: bwe_generator\.conv_in\.weight"),
    ):
        build_components(micro_weights, CPU, torch.bfloat16)


def test_another_version_is_refused(micro_weights: WeightsFolder) -> None:
    import diffusers

    with patch.object(diffusers, "__version__", "0.38.0"), pytest.raises(RunnerError, match=r"0\.38\.0 is installed"):
        DiffusersRunner(micro_weights, BF16).__enter__()


def test_the_catalogue_opens_it_and_gives_it_no_pipeline_options(micro_weights: WeightsFolder) -> None:
    assert isinstance(open_runner("diffusers", micro_weights, BF16), DiffusersRunner)
    with pytest.raises(RunnerError, match="no pipeline options"):
        open_runner("diffusers", micro_weights, BF16, {"disable_autocast": False})


def test_the_vocoder_is_built_as_diffusers_loads_it(micro_weights: WeightsFolder, tmp_path: Path) -> None:
    # Its resampling filter is in no file: `from_pretrained` computes it in the dtype that is asked for.
    built = build_components(micro_weights, CPU, torch.bfloat16).arguments["vocoder"]
    built.save_pretrained(tmp_path)
    loaded = type(built).from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert built.resampler.filter.dtype == torch.bfloat16
    assert torch.equal(loaded.resampler.filter, built.resampler.filter)
    assert all(torch.equal(value, built.state_dict()[key]) for key, value in loaded.state_dict().items())
