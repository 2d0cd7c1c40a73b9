"""A request in two stages, as diffusers' documentation has it: one pipeline called twice.

Its first call ends with latents, `LTX2LatentUpsamplePipeline` enlarges the video's, and the second call takes them up
with noise. With the distilled checkpoint neither is guided; else the first is, on the scheduler's own noise levels, and
the distilled LoRA is loaded before the second. Nothing is corrected: the second call has no picture, for diffusers then
keeps the first frame of the enlarged latent as it is, where the official pipeline encodes the picture again at full
size.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from runners.clock import UPSAMPLING, Clock
from runners.diffusers.components import build_upsampler
from runners.diffusers.lora import load_lora
from runners.diffusers.observe import DiffusersObserver
from runners.errors import CheckpointError
from runners.model_files import LoraSource, ModelFiles
from runners.stages import StagePlan
from runners.tap import tap

MAX_TOKENS: Final = 1024  # of a prompt, the default of the pipelines' call
UNGUIDED: Final[Mapping[str, Any]] = {
    "guidance_scale": 1.0,
    "stg_scale": 0.0,
    "modality_scale": 1.0,
    "guidance_rescale": 0.0,
    **dict.fromkeys(
        ("audio_guidance_scale", "audio_stg_scale", "audio_modality_scale", "audio_guidance_rescale")
    ),  # None: as for video
    "spatio_temporal_guidance_blocks": None,
}  # arguments of the second call


@dataclass(frozen=True, kw_only=True)
class Made:
    """The outputs of a pipeline, the observer of its last call and its noise levels."""

    video: Any  # (1, F, H, W, 3) in [0, 1]
    audio: Tensor  # (1, C, N)
    observer: DiffusersObserver  # of the last call
    sigmas: Tensor  # of all calls, one after another


def in_two_stages(
    pipeline: Any,
    files: ModelFiles,
    lora: LoraSource | None,
    plans: tuple[StagePlan, ...],
    arguments: Mapping[str, Any],
    clock: Clock,
) -> Made:
    """Run both stages.

    Args:
        pipeline: for text or a picture.
        files: that it was built from, with the spatial upsampler's.
        lora: of the second stage, with its strength there; None with the distilled checkpoint.
        plans: of both stages, the second one with noise levels; those of a plan are taken as they are given.
        arguments: of the pipeline's call, the first stage's guidance and `generator` among them.
        clock: told of every stage.
    Raises: CheckpointError if there is no upsampler; as `load_lora`.
    """
    if files.upsampler is None:
        raise CheckpointError("A pipeline of two stages needs a spatial upsampler, and these weights have none.")
    diffusers = importlib.import_module("diffusers")
    first, second = plans
    guided = runs_both_prompts(first)
    if first.sigmas is not None:
        _keep_levels(pipeline)
    observer = DiffusersObserver(pipeline, clock, first.steps, guided)
    with observer.attached():
        encoded = pipeline.encode_prompt(
            arguments["prompt"],
            arguments["negative_prompt"],
            do_classifier_free_guidance=guided,
            max_sequence_length=MAX_TOKENS,
        )  # once: the language model has left by the second call
        shared = {**arguments, "prompt": None, "negative_prompt": None, **_named(encoded), "return_dict": False}
        video, audio = pipeline(**shared | _of(first, observer), output_type="latent")
    sigmas = [pipeline.scheduler.sigmas.cpu()]
    clock.begin(UPSAMPLING)
    with clock.loading():
        network = build_upsampler(files.upsampler, pipeline.transformer.device, pipeline.vae.dtype)
    enlarging = diffusers.LTX2LatentUpsamplePipeline(vae=pipeline.vae, latent_upsampler=network)
    enlarged = enlarging(latents=video, output_type="latent", return_dict=False)[0]
    statistics = pipeline.vae.latents_mean, pipeline.vae.latents_std, pipeline.vae.config.scaling_factor
    tap("upsample/latent", pipeline._normalize_latents(enlarged, *statistics))  # as the second call does
    if lora is not None:
        with clock.loading():
            load_lora(pipeline, lora, files)
    _keep_levels(pipeline)
    observer = DiffusersObserver(pipeline, clock, second.steps, guided=False, stage=second.prefix)
    assert second.sigmas is not None
    with observer.attached():
        video, audio = pipeline(
            **{**shared, **UNGUIDED, **_of(second, observer)},
            latents=enlarged,
            audio_latents=audio,
            noise_scale=second.sigmas[0],
            output_type="np",
        )
    sigmas.append(pipeline.scheduler.sigmas.cpu())
    return Made(video=video, audio=audio, observer=observer, sigmas=torch.cat(sigmas))


def runs_both_prompts(plan: StagePlan) -> bool:
    """True if a call for this stage runs the negative prompt beside the positive one."""
    return any(guider.cfg_scale != 1.0 for guider in plan.guiders)


def _named(encoded: tuple[Tensor | None, ...]) -> dict[str, Tensor | None]:
    """Results of `encode_prompt`, as arguments of the call; None of the negative prompt where it is not run."""
    names = "prompt_embeds", "prompt_attention_mask", "negative_prompt_embeds", "negative_prompt_attention_mask"
    return dict(zip(names, encoded, strict=True))


def _keep_levels(pipeline: Any) -> None:
    """Give a pipeline a scheduler that takes noise levels as they are given."""
    scheduler_class: Any = importlib.import_module("diffusers").FlowMatchEulerDiscreteScheduler
    pipeline.scheduler = scheduler_class.from_config(
        pipeline.scheduler.config, use_dynamic_shifting=False, shift_terminal=None
    )


def _of(plan: StagePlan, observer: DiffusersObserver) -> dict[str, Any]:
    """Arguments that a call has of its own; of noise levels the scheduler adds the last, 0."""
    return {
        "height": plan.height,
        "width": plan.width,
        "num_inference_steps": plan.steps,
        "sigmas": None if plan.sigmas is None else list(plan.sigmas[:-1]),
        "callback_on_step_end": observer.step_ended,
    }
