"""Defects of positions, noise and schedule: what the first step starts from.

Axes: B sample, C channel, F latent frame, H and W cell, T token, M mel bin.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

import torch
from einops import rearrange
from torch import Tensor

from parity.calibrate.defects.defect import AUDIO, BOTH, SUBTLE, VIDEO, Defect, together, wrapped
from parity.calibrate.defects.variant import PICTURE, TWO_PICTURES, UNGUIDED_30_STEPS
from runners.ltx23 import conditioning
from runners.ltx23.latents import VideoShape, cell_bounds_px, with_noise
from runners.ltx23.scheduler import sigma_schedule
from runners.ltx23.stages import denoising, latent_preparation
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.latent_preparation import LatentPreparationStage
from runners.tap import tap

Original = Callable[..., Any]
FIRST_BLOCK: Final = "denoise/000/cond/block/00/*"


def _audio_noise_first(_: Original, stage: LatentPreparationStage, batch: Batch) -> Batch:
    sampling = batch.sampling
    batch.sigmas = sigma_schedule(sampling.num_inference_steps)
    batch.generator = torch.Generator(device=batch.device).manual_seed(sampling.seed)
    batch.audio_state = with_noise(stage.empty_audio(batch), batch.generator, False)
    batch.video_state = with_noise(stage.conditioned_video(batch), batch.generator, False)
    tap("init/video", batch.video_state.latent)
    tap("init/audio", batch.audio_state.latent)
    return batch


def _next_seed(original: Original, stage: LatentPreparationStage, batch: Batch) -> Batch:
    batch.sampling = replace(batch.sampling, seed=batch.sampling.seed + 1)
    prepared: Batch = original(stage, batch)
    return prepared


def _sigmas_of_real_tokens(original: Original, stage: LatentPreparationStage, batch: Batch) -> Batch:
    original(stage, batch)
    assert batch.video_state is not None
    batch.sigmas = sigma_schedule(batch.sampling.num_inference_steps, batch.video_state.latent.shape[1])
    return batch


def _no_causal_shift(
    _: Original, shape: VideoShape, frame_rate: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    positions = cell_bounds_px(shape, device).float()
    positions[:, 0] /= frame_rate
    return positions.to(dtype)


def _noise_by_channel(original: Original, *args: Any, **options: Any) -> Any:
    draw = torch.randn

    def drawn(shape: torch.Size, **how: Any) -> Tensor:
        batch, tokens, channels = shape
        return draw((batch, channels, tokens), **how).transpose(1, 2).contiguous()

    with patch.object(torch, "randn", drawn):
        return original(*args, **options)


def _whole_frame_rate(original: Original, stage: LatentPreparationStage, batch: Batch) -> Batch:
    batch.sampling = replace(batch.sampling, frame_rate=float(round(batch.sampling.frame_rate)))
    prepared: Batch = original(stage, batch)
    return prepared


LATENT_DEFECTS: Final = (
    Defect(
        id="noise_audio_first",
        component="stages.latent_preparation",
        description="the generator gives audio its noise before video",
        first_taps=("init/*",),
        apply=wrapped(LatentPreparationStage, "forward", _audio_noise_first),
        shows_in=BOTH,
    ),
    Defect(
        id="noise_of_next_seed",
        component="stages.latent_preparation",
        description="the seed is off by one",
        first_taps=("init/*",),
        apply=wrapped(LatentPreparationStage, "forward", _next_seed),
        shows_in=BOTH,
    ),
    Defect(
        id="sigmas_of_real_token_count",
        component="stages.latent_preparation",
        description="the schedule is shifted for the request's own number of tokens instead of 4096",
        first_taps=(FIRST_BLOCK, "denoise/000/latent/*"),  # the first sigma moves by an ULP, the second by much
        isolated_at=("sigmas",),
        apply=wrapped(LatentPreparationStage, "forward", _sigmas_of_real_tokens),
        shows_in=BOTH,
    ),
    Defect(
        id="positions_at_25_fps",
        component="latents",
        description="time positions are computed for 25 frames a second whatever the request says",
        first_taps=(FIRST_BLOCK,),
        isolated_at=("init/video/positions",),
        apply=wrapped(
            latent_preparation, "video_positions", lambda original, shape, rate, *rest: original(shape, 25.0, *rest)
        ),
        shows_in=SUBTLE,
    ),
    Defect(
        id="positions_without_causal_shift",
        component="latents",
        description="the first latent frame spans eight pixel frames in time, like all others",
        first_taps=(FIRST_BLOCK,),
        isolated_at=("init/video/positions",),
        apply=wrapped(latent_preparation, "video_positions", _no_causal_shift),
        shows_in=SUBTLE,
    ),
    Defect(
        id="audio_frames_cut_off",
        component="latents",
        description="the number of audio frames is cut to a whole number instead of rounded",
        first_taps=("init/audio",),
        isolated_at=("init/audio*",),
        apply=wrapped(latent_preparation, "audio_frames", lambda original, frames, rate: int(frames / rate * 25.0)),
        shows_in=AUDIO,
    ),
    Defect(
        id="tokens_column_by_column",
        component="latents",
        description="tokens run through columns before rows, unlike their positions",
        first_taps=("init/video",),
        isolated_at=("init/video*",),
        apply=together(
            wrapped(
                conditioning, "video_tokens", lambda original, latent: rearrange(latent, "b c f h w -> b (f w h) c")
            ),
            wrapped(
                denoising,
                "video_grid",
                lambda original, tokens, shape: rearrange(
                    tokens, "b (f w h) c -> b c f h w", f=shape.frames, h=shape.height
                ),
            ),
        ),
        shows_in=VIDEO,
        variant=PICTURE,
    ),
    Defect(
        id="audio_latent_bin_major",
        component="latents",
        description="an audio token is unpacked bin by bin instead of channel by channel",
        first_taps=("decode/mel",),
        apply=wrapped(denoising, "audio_grid", lambda original, tokens: rearrange(tokens, "b t (m c) -> b c t m", c=8)),
        shows_in=AUDIO,
    ),
    Defect(
        id="noise_by_channel",
        component="latents",
        description="noise is drawn channel by channel instead of token by token",
        first_taps=("init/*",),
        apply=wrapped(latent_preparation, "with_noise", _noise_by_channel),
        shows_in=BOTH,
    ),
    Defect(
        id="frame_rate_rounded",
        component="stages.latent_preparation",
        description="a frame rate that is no integer is rounded to one",
        first_taps=(FIRST_BLOCK,),
        isolated_at=("init/video/positions",),
        apply=wrapped(
            LatentPreparationStage,
            "forward",
            _whole_frame_rate,
            when=lambda stage, batch: not float(batch.sampling.frame_rate).is_integer(),
        ),
        shows_in=SUBTLE,
        variant=TWO_PICTURES,
    ),
    Defect(
        id="audio_frames_rounded_up",
        component="latents",
        description="the number of audio frames is rounded up instead of to the nearest whole number",
        first_taps=("init/audio",),
        isolated_at=("init/audio*",),
        apply=wrapped(
            latent_preparation, "audio_frames", lambda original, frames, rate: math.ceil(frames / rate * 25.0)
        ),
        shows_in=AUDIO,
        variant=UNGUIDED_30_STEPS,
    ),
)
