"""The denoising loop against the official one, from random states and contexts, and what each pass switches off."""

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.denoising import DenoisingStage
from runners.ltx23.stages.latent_preparation import LatentPreparationStage
from runners.ltx23.transformer import Transformer
from runners.strict import fields_of
from runners.tap import current_scope, listening

TEXT_TOKENS = 37
V2A_OFF = {"switches.skip_v2a_cross_attn_for_video_gt": True}
PICTURE = {"request.images": [{"path": "coffee.jpg", "strength": 0.8}]}


def ready(batch: Batch) -> Batch:
    """A batch with random contexts, a random picture and noise."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(batch.config.dtype)

    batch.video_context, batch.negative_video_context = random(1, TEXT_TOKENS, 96), random(1, TEXT_TOKENS, 96)
    batch.audio_context, batch.negative_audio_context = random(1, TEXT_TOKENS, 48), random(1, TEXT_TOKENS, 48)
    batch.image_latents = [random(1, 128, 1, 2, 3) for _ in batch.sampling.images]
    return LatentPreparationStage().forward(batch)


def official_latents(batch: Batch, ledger: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of both modalities after the official loop from the same states."""
    from ltx_core.components.diffusion_steps import EulerDiffusionStep
    from ltx_core.components.guiders import MultiModalGuiderParams, create_multimodal_guider_factory
    from ltx_core.types import LatentState
    from ltx_pipelines.utils.helpers import multi_modal_guider_factory_denoising_func
    from ltx_pipelines.utils.samplers import euler_denoising_loop

    def factory(guidance: Any, negative: Any) -> Any:
        params = MultiModalGuiderParams(**{**fields_of(guidance), "stg_blocks": list(guidance.stg_blocks)})
        return create_multimodal_guider_factory(params, negative)

    sampling = batch.sampling
    states = [
        LatentState(latent=s.latent, denoise_mask=s.denoise_mask, positions=s.positions, clean_latent=s.clean)
        for s in (batch.video_state, batch.audio_state)
        if s is not None
    ]
    video, audio = euler_denoising_loop(
        sigmas=batch.sigmas,
        video_state=states[0],
        audio_state=states[1],
        stepper=EulerDiffusionStep(),
        denoise_fn=multi_modal_guider_factory_denoising_func(
            factory(sampling.video_guidance, batch.negative_video_context),
            factory(sampling.audio_guidance, batch.negative_audio_context),
            batch.video_context,
            batch.audio_context,
            ledger.transformer(),
        ),
    )
    return video.latent, audio.latent


@pytest.mark.parametrize(
    "overrides",
    [
        PICTURE,
        {"guidance.audio.skip_step": 1},  # the negative pass leaves both modalities on, and video's prediction shows it
        {"guidance.audio": {}, "guidance.video.skip_step": 2, "request.num_inference_steps": 3},
    ],
    ids=["picture", "audio-skipping", "video-guided-skipping"],
)
def test_the_loop_has_the_official_bits(
    overrides: dict[str, Any], models: SimpleNamespace, make_batch: Callable[..., Batch]
) -> None:
    batch = ready(make_batch(overrides, models.dtype))
    video, audio = official_latents(batch, models.official)
    heard: dict[str, torch.Tensor] = {}
    stage = DenoisingStage(models.native.build("transformer", Transformer))
    with listening(lambda name, tensor: heard.__setitem__(name, tensor.clone())):
        stage.forward(batch)
    last = f"denoise/{batch.sampling.num_inference_steps - 1:03d}"
    assert torch.equal(heard[f"{last}/latent/video"], video)
    assert torch.equal(heard[f"{last}/latent/audio"], audio)
    assert batch.video_latent is not None and batch.audio_latent is not None
    assert batch.video_latent.shape == (1, 128, 2, 2, 3)  # a keyframe's tokens are dropped
    assert batch.audio_latent.shape == (1, 8, 5, 16)


def test_a_modality_that_skips_a_step_keeps_its_last_prediction(
    models: SimpleNamespace, make_batch: Callable[..., Batch]
) -> None:
    overrides = {"guidance.video.skip_step": 1, "guidance.audio.skip_step": 2, "request.num_inference_steps": 4}
    batch = ready(make_batch(overrides, models.dtype))
    heard: dict[str, torch.Tensor] = {}
    with listening(lambda name, tensor: heard.__setitem__(name, tensor.clone())):
        DenoisingStage(models.native.build("transformer", Transformer)).forward(batch)
    video, audio = ([heard[f"denoise/{step:03d}/guided/{m}"] for step in range(4)] for m in ("video", "audio"))
    assert torch.equal(video[0], video[1]) and not torch.equal(video[1], video[2]) and torch.equal(video[2], video[3])
    assert torch.equal(audio[0], audio[1]) and torch.equal(audio[1], audio[2]) and not torch.equal(audio[2], audio[3])
    evaluated = {int(name.split("/")[1]) for name in heard if "/cond/" in name}
    assert evaluated == {0, 2, 3}  # at step 1 both skip, so nothing is evaluated


def test_without_v2a_no_pass_lets_audio_attend_to_video(
    models: SimpleNamespace, make_batch: Callable[..., Batch]
) -> None:
    batch = ready(make_batch(V2A_OFF, models.dtype))
    heard: set[str] = set()
    with listening(lambda name, _: heard.add(name)):
        DenoisingStage(models.native.build("transformer", Transformer)).forward(batch)
    assert not [name for name in heard if name.endswith("audio/av_attn")]
    for one_pass, attends in (("cond", True), ("uncond", True), ("perturbed", True), ("isolated", False)):
        assert (f"denoise/000/{one_pass}/block/01/video/av_attn" in heard) is attends


@pytest.mark.parametrize("off", [False, True], ids=["v2a-on", "v2a-off"])
def test_all_four_model_calls_get_the_flag_and_none_where_it_is_off(
    off: bool, models: SimpleNamespace, make_batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = DenoisingStage(models.native.build("transformer", Transformer))
    original, calls = stage.transformer.forward, []

    def spy(*arguments: Any, **options: Any) -> Any:
        given = inspect.signature(original).bind(*arguments, **options).arguments
        calls.append((current_scope(), given.get("disable_v2a_cross_attn", "not given")))
        return original(*arguments, **options)

    monkeypatch.setattr(stage.transformer, "forward", spy)
    stage.forward(ready(make_batch(V2A_OFF if off else None, models.dtype)))
    passes = ("cond", "uncond", "perturbed", "isolated")
    assert calls == [(f"denoise/{step:03d}/{name}", off) for step in range(2) for name in passes]


def test_the_flag_travels_in_the_extra_alone(models: SimpleNamespace, make_batch: Callable[..., Batch]) -> None:
    asked, not_asked = ready(make_batch(V2A_OFF, models.dtype)), ready(make_batch(dtype=models.dtype))
    assert asked.extra.pop("ltx2_skip_v2a_cross_attn_for_video_gt") is True
    not_asked.extra["ltx2_skip_v2a_cross_attn_for_video_gt"] = True
    for batch, attends in ((asked, True), (not_asked, False)):
        heard: dict[str, torch.Tensor] = {}
        with listening(heard.__setitem__):
            DenoisingStage(models.native.build("transformer", Transformer)).forward(batch)
        assert any(name.endswith("audio/av_attn") for name in heard) is attends


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ("video_state", "DenoisingStage needs video_state and audio_state"),
        ("audio_state", "DenoisingStage needs video_state and audio_state"),
        ("sigmas", "DenoisingStage needs sigmas"),
        ("video_context", "DenoisingStage needs video_context"),
        ("audio_context", "DenoisingStage needs audio_context"),
        ("negative_video_context", "DenoisingStage needs negative_video_context"),
        ("negative_audio_context", "DenoisingStage needs negative_audio_context"),
    ],
)
def test_what_an_earlier_stage_should_have_left_is_named(
    field: str, sentence: str, models: SimpleNamespace, make_batch: Callable[..., Batch]
) -> None:
    batch = ready(make_batch(dtype=models.dtype))
    setattr(batch, field, None)
    with pytest.raises(ValueError, match=sentence):
        DenoisingStage(models.native.build("transformer", Transformer)).forward(batch)
