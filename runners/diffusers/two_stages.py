"""A request in two stages, as diffusers' documentation has it for a distilled checkpoint: one pipeline called twice.

Its first call ends with latents, `LTX2LatentUpsamplePipeline` enlarges the video's, and the second call takes them up
with noise. Nothing is corrected: the second call has no picture, for diffusers then keeps the first frame of the
enlarged latent as it is, where the official pipeline encodes the picture again at full size.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from runners.clock import UPSAMPLING, Clock
from runners.diffusers.components import build_upsampler
from runners.diffusers.observe import Observer
from runners.errors import CheckpointError
from runners.model_files import UpsamplerFiles
from runners.stages import StagePlan
from runners.tap import tap

MAX_TOKENS: Final = 1024  # of a prompt, the default of the pipelines' call


@dataclass(frozen=True, kw_only=True)
class Made:
    """What came out of a pipeline."""

    video: Any  # (1, F, H, W, 3) in [0, 1]
    audio: Tensor  # (1, C, N)
    observer: Observer  # of the last call
    sigmas: Tensor  # of all calls, one after another


def in_two_stages(
    pipeline: Any,
    upsampler: UpsamplerFiles | None,
    plans: tuple[StagePlan, ...],
    arguments: Mapping[str, Any],
    clock: Clock,
) -> Made:
    """Run both stages.

    Args:
        pipeline: for text or a picture, with the distilled checkpoint; its noise levels are taken as they are given.
        upsampler: the file of the spatial upsampler.
        plans: of both stages, with noise levels.
        arguments: of the pipeline's call, `generator` among them.
        clock: told of every stage.
    Raises: CheckpointError if there is no upsampler.
    """
    if upsampler is None:
        raise CheckpointError("A pipeline of two stages needs a spatial upsampler, and these weights have none.")
    diffusers = importlib.import_module("diffusers")
    pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(
        pipeline.scheduler.config, use_dynamic_shifting=False, shift_terminal=None
    )
    first, second = plans
    observer = Observer(pipeline, clock, first.steps, guided=False)
    with observer.attached():
        embeds, mask, *_ = pipeline.encode_prompt(
            arguments["prompt"], do_classifier_free_guidance=False, max_sequence_length=MAX_TOKENS
        )  # once: the language model has left by the second call
        encoded = {"prompt": None, "negative_prompt": None, "prompt_embeds": embeds, "prompt_attention_mask": mask}
        shared = {**arguments, **encoded, "return_dict": False}
        video, audio = pipeline(**shared | _of(first, observer), output_type="latent")
    sigmas = [pipeline.scheduler.sigmas.cpu()]
    clock.begin(UPSAMPLING)
    with clock.loading():
        network = build_upsampler(upsampler, pipeline.transformer.device, pipeline.vae.dtype)
    enlarging = diffusers.LTX2LatentUpsamplePipeline(vae=pipeline.vae, latent_upsampler=network)
    enlarged = enlarging(latents=video, output_type="latent", return_dict=False)[0]
    statistics = pipeline.vae.latents_mean, pipeline.vae.latents_std, pipeline.vae.config.scaling_factor
    tap("upsample/latent", pipeline._normalize_latents(enlarged, *statistics))  # as the second call does
    observer = Observer(pipeline, clock, second.steps, guided=False, stage=second.prefix)
    assert second.sigmas is not None
    with observer.attached():
        video, audio = pipeline(
            **shared | _of(second, observer),
            latents=enlarged,
            audio_latents=audio,
            noise_scale=second.sigmas[0],
            output_type="np",
        )
    sigmas.append(pipeline.scheduler.sigmas.cpu())
    return Made(video=video, audio=audio, observer=observer, sigmas=torch.cat(sigmas))


def _of(plan: StagePlan, observer: Observer) -> dict[str, Any]:
    """What a call has of its own; the scheduler adds the last noise level, 0."""
    assert plan.sigmas is not None
    return {
        "height": plan.height,
        "width": plan.width,
        "num_inference_steps": plan.steps,
        "sigmas": list(plan.sigmas[:-1]),
        "callback_on_step_end": observer.step_ended,
    }
