"""Denoising step by step, with what the run under test kept standing in for ours between the parts of a step.

The loop is that of `runners.ltx23.stages.denoising`; a trial that feeds nothing and goes to the end has its bits. The
sampler `res_2s` goes from a point that it keeps in fp64 and no tap holds, so that nothing is fed into it.

Axes: B sample, T token, C channel.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from parity.identify.run_tensors import fed
from runners.ltx23.latents import LatentState
from runners.ltx23.stages.batch import Batch, needed
from runners.ltx23.stages.denoising import DenoisingStage, Pair, advance
from runners.tap import scope, tap


def denoise(stage: DenoisingStage, batch: Batch, steps: int, own: Mapping[str, Tensor]) -> tuple[LatentState, ...]:
    """Denoise for some steps.

    Args:
        stage: with its transformer loaded.
        batch: as latent preparation leaves it.
        steps: how many steps of the schedule to run; of `res_2s` always all.
        own: tensors of the run under test by tap; x0, guided predictions and latents are used.
    Returns: the states of video and audio.
    """
    video, audio = batch.video_state, batch.audio_state
    assert video is not None and audio is not None
    if batch.plan.sampler == "res_2s":
        with batch.config.autocast(batch.device):
            return stage.by_res_2s(batch, video, audio)
    schedule = needed(batch.sigmas, "denoise", "sigmas")
    sigmas, changes = schedule.tolist(), schedule.diff().tolist()
    on_device = schedule.to(batch.device)
    rotary = stage.transformer.rotary_tables(video.positions, audio.positions, batch.config.dtype)
    last: Pair | None = None
    original = stage.predict
    for index in range(steps):
        head = f"denoise/{index:03d}"

        def predict(*step: Any, head: str = head, **options: Any) -> dict[str, Pair]:
            x0 = original(*step, **options)
            # Predictions that the run has in a higher precision stay so where the combination wants it.
            dtype = None if batch.config.reference.guidance_fp32 else batch.config.dtype
            return {name: _fed(own, f"{head}/{name}/x0", ours, dtype) for name, ours in x0.items()}

        with batch.config.autocast(batch.device), scope(head), patch.object(stage, "predict", predict):
            step = stage.step_at(index, batch, video, audio, on_device[index], rotary)
            guided = stage.evaluate_stage1_guided_x0(batch, step, last)
            tap("guided/video", guided[0])
            tap("guided/audio", guided[1])
            last = _fed(own, f"{head}/guided", guided, batch.config.dtype)
            video = advance(video, last[0], sigmas[index], changes[index])
            audio = advance(audio, last[1], sigmas[index], changes[index])
            tap("latent/video", video.latent)
            tap("latent/audio", audio.latent)
        latents = _fed(own, f"{head}/latent", (video.latent, audio.latent), batch.config.dtype)
        video, audio = replace(video, latent=latents[0]), replace(audio, latent=latents[1])
    return video, audio


def _fed(own: Mapping[str, Tensor], name: str, ours: Pair, dtype: torch.dtype | None) -> Pair:
    return fed(own, f"{name}/video", ours[0], dtype), fed(own, f"{name}/audio", ours[1], dtype)
