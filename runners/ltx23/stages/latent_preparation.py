"""Latent preparation: sigmas, what a stage begins with, pictures put in, noise added (video first), one generator.

A first stage begins with nothing; a second one with the first one's video, enlarged, and its sound, both under noise of
the stage's first level. Source: ltx_pipelines.utils.helpers.{noise_video_state,noise_audio_state} 1.0.0.
"""

from dataclasses import replace

import torch
from torch import Tensor

from runners.errors import ShapeError
from runners.ltx23.conditioning import condition_on_image
from runners.ltx23.latents import (
    AUDIO_CHANNELS,
    AUDIO_MEL_BINS,
    VIDEO_CHANNELS,
    LatentState,
    audio_frames,
    audio_positions,
    audio_tokens,
    empty_state,
    video_grid,
    video_positions,
    video_shape,
    video_tokens,
    with_noise,
)
from runners.ltx23.scheduler import sigma_schedule
from runners.ltx23.stages.batch import Batch, needed
from runners.tap import tap


class LatentPreparationStage:
    """Fills in `generator`, `sigmas`, `video_state` and `audio_state`."""

    def forward(self, batch: Batch) -> Batch:
        """Make the two states from which denoising starts."""
        lerp_fp32 = batch.config.reference.noise_lerp_fp32
        batch.sigmas = self.schedule(batch)
        batch.schedules.append(batch.sigmas)
        if batch.generator is None:
            batch.generator = torch.Generator(device=batch.device).manual_seed(batch.sampling.seed)
        scale = self.noise_scale(batch)
        video = with_noise(self.conditioned_video(batch), batch.generator, lerp_fp32, scale)
        audio = with_noise(self.initial_audio(batch), batch.generator, lerp_fp32, scale)
        tap("init/video", video.latent)
        tap("init/audio", audio.latent)
        batch.video_state, batch.audio_state = video, audio
        return batch

    def schedule(self, batch: Batch) -> Tensor:
        """Noise levels of the stage: those that were asked for, or the scheduler's."""
        plan, sampling = batch.plan, batch.sampling
        if plan.sigmas is not None:
            return torch.tensor(plan.sigmas)
        if not sampling.kind.sigmas_by_size:
            return sigma_schedule(plan.steps)
        return sigma_schedule(plan.steps, video_shape(sampling.num_frames, plan.height, plan.width).tokens)

    def noise_scale(self, batch: Batch) -> float:
        """The share of noise in what a stage begins with: all of it, or the first noise level of a second stage."""
        sigmas = needed(batch.sigmas, type(self).__name__, "sigmas")
        return 1.0 if batch.initial_video is None else float(sigmas[0])

    def conditioned_video(self, batch: Batch) -> LatentState:
        """Video tokens before the noise: what the stage begins with, and the request's pictures at their frames."""
        sampling, config, plan = batch.sampling, batch.config, batch.plan
        shape = video_shape(sampling.num_frames, plan.height, plan.width)
        positions_dtype = torch.float32 if config.reference.positions_fp32 else config.dtype
        positions = video_positions(shape, sampling.frame_rate, positions_dtype, batch.device)
        state = empty_state(shape.tokens, VIDEO_CHANNELS, positions, config.dtype)
        if batch.initial_video is not None:
            state = _begun_with(state, video_tokens(batch.initial_video))
        elif sampling.kind.two_stages and config.reference.noise_lerp_fp32:
            # A lerp keeps the layout in memory of what it starts from, where the official tokens are a view of a grid.
            # Products without guidance, and convolutions of what becomes of it, have other bits in another layout.
            state = _begun_with(state, video_tokens(video_grid(state.latent, shape).contiguous()))
        for image, latent in zip(sampling.images, batch.image_latents, strict=True):
            state = condition_on_image(
                state,
                latent,
                image.frame_idx,
                image.strength,
                shape,
                sampling.frame_rate,
                config.reference.keyframe_spans_one_frame,
                sampling.kind.only_keyframes,
                config.reference.noise_lerp_fp32,
            )
        return state

    def initial_audio(self, batch: Batch) -> LatentState:
        """Audio tokens before the noise: what the stage begins with, at their times."""
        frames = audio_frames(batch.sampling.num_frames, batch.sampling.frame_rate)
        positions = audio_positions(frames, batch.device)
        state = empty_state(frames, AUDIO_CHANNELS * AUDIO_MEL_BINS, positions, batch.config.dtype)
        return state if batch.initial_audio is None else _begun_with(state, audio_tokens(batch.initial_audio))


def _begun_with(state: LatentState, tokens: Tensor) -> LatentState:
    """A state that begins with tokens (B, T, C) in place of zeros. Raises: ShapeError."""
    if tokens.shape != state.latent.shape:
        raise ShapeError(
            f"A stage of {tuple(state.latent.shape)} tokens cannot begin with {tuple(tokens.shape)}; the stage before "
            "must be of half the height and width."
        )
    return replace(state, latent=tokens.clone(), clean=tokens.clone())
