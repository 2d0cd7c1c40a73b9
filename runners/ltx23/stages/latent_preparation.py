"""Latent preparation: sigmas, empty states, pictures put in, noise added (video first) from one generator."""

import torch

from runners.ltx23.conditioning import condition_on_image
from runners.ltx23.latents import (
    AUDIO_CHANNELS,
    AUDIO_MEL_BINS,
    VIDEO_CHANNELS,
    LatentState,
    audio_frames,
    audio_positions,
    empty_state,
    video_positions,
    video_shape,
    with_noise,
)
from runners.ltx23.scheduler import sigma_schedule
from runners.ltx23.stages.batch import Batch
from runners.tap import tap


class LatentPreparationStage:
    """Fills in `generator`, `sigmas`, `video_state` and `audio_state`."""

    def forward(self, batch: Batch) -> Batch:
        """Make the two states from which denoising starts."""
        sampling, reference = batch.sampling, batch.config.reference
        batch.sigmas = sigma_schedule(sampling.num_inference_steps)
        batch.generator = torch.Generator(device=batch.device).manual_seed(sampling.seed)
        video = with_noise(self.conditioned_video(batch), batch.generator, reference.noise_lerp_fp32)
        audio = with_noise(self.empty_audio(batch), batch.generator, reference.noise_lerp_fp32)
        tap("init/video", video.latent)
        tap("init/audio", audio.latent)
        batch.video_state, batch.audio_state = video, audio
        return batch

    def conditioned_video(self, batch: Batch) -> LatentState:
        """Video tokens before the noise: nothing but the request's pictures at their frames."""
        sampling, config = batch.sampling, batch.config
        shape = video_shape(sampling.num_frames, sampling.height, sampling.width)
        positions_dtype = torch.float32 if config.reference.positions_fp32 else config.dtype
        positions = video_positions(shape, sampling.frame_rate, positions_dtype, batch.device)
        state = empty_state(shape.tokens, VIDEO_CHANNELS, positions, config.dtype)
        for image, latent in zip(sampling.images, batch.image_latents, strict=True):
            state = condition_on_image(
                state,
                latent,
                image.frame_idx,
                image.strength,
                shape,
                sampling.frame_rate,
                config.reference.keyframe_spans_one_frame,
            )
        return state

    def empty_audio(self, batch: Batch) -> LatentState:
        """Audio tokens before the noise: nothing, at their times."""
        frames = audio_frames(batch.sampling.num_frames, batch.sampling.frame_rate)
        positions = audio_positions(frames, batch.device)
        return empty_state(frames, AUDIO_CHANNELS * AUDIO_MEL_BINS, positions, batch.config.dtype)
