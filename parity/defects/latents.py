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

from parity.defects.defect import AUDIO, BOTH, VIDEO, Defect, replaces, together, wrapped
from parity.defects.variant import PICTURE, TWO_PICTURES, UNGUIDED_30_STEPS
from runners.ltx23 import conditioning
from runners.ltx23.latents import VideoShape, cell_bounds_px
from runners.ltx23.scheduler import sigma_schedule
from runners.ltx23.stages import denoising, latent_preparation
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.latent_preparation import LatentPreparationStage
from runners.tap import tap

Original = Callable[..., Any]
POSITIONS: Final = ("init/video/positions",)
FIRST_BLOCK: Final = "denoise/000/cond/block/00/*"


@replaces(LatentPreparationStage, "forward", "init/*", shows_in=BOTH)
def noise_audio_first(_: Original, stage: LatentPreparationStage, batch: Batch) -> Batch:
    """The generator gives audio its noise before video."""
    batch.sigmas = stage.schedule(batch)
    batch.schedules.append(batch.sigmas)
    batch.generator = torch.Generator(device=batch.device).manual_seed(batch.sampling.seed)
    with_noise = vars(latent_preparation)["with_noise"]  # perhaps with another defect in it
    batch.audio_state = with_noise(stage.initial_audio(batch), batch.generator, False)
    batch.video_state = with_noise(stage.conditioned_video(batch), batch.generator, False)
    tap("init/video", batch.video_state.latent)
    tap("init/audio", batch.audio_state.latent)
    return batch


@replaces(LatentPreparationStage, "forward", "init/*", shows_in=BOTH)
def noise_of_next_seed(original: Original, stage: LatentPreparationStage, batch: Batch) -> Batch:
    """The seed is off by one."""
    batch.sampling = replace(batch.sampling, seed=batch.sampling.seed + 1)
    prepared: Batch = original(stage, batch)
    return prepared


# The first sigma moves by an ULP, the second by much.
@replaces(
    LatentPreparationStage,
    "forward",
    FIRST_BLOCK,
    "denoise/000/latent/*",
    isolated_at=("sigmas",),
    shows_in=BOTH,
    when=lambda _stage, batch: batch.plan.sigmas is None,
)
def sigmas_of_real_token_count(original: Original, stage: LatentPreparationStage, batch: Batch) -> Batch:
    """The schedule is shifted for the request's own number of tokens instead of 4096."""
    original(stage, batch)
    assert batch.video_state is not None
    batch.sigmas = sigma_schedule(batch.plan.steps, batch.video_state.latent.shape[1])
    return batch


@replaces(latent_preparation, "video_positions", FIRST_BLOCK, isolated_at=POSITIONS)
def positions_at_25_fps(original: Original, shape: Any, rate: Any, *rest: Any) -> Any:
    """Time positions are computed for 25 frames a second whatever the request says."""
    return original(shape, 25.0, *rest)


@replaces(latent_preparation, "video_positions", FIRST_BLOCK, isolated_at=POSITIONS)
def positions_without_causal_shift(
    _: Original, shape: VideoShape, frame_rate: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The first latent frame spans eight pixel frames in time, like all others."""
    positions = cell_bounds_px(shape, device).float()
    positions[:, 0] /= frame_rate
    return positions.to(dtype)


@replaces(latent_preparation, "audio_frames", "init/audio", isolated_at=("init/audio*",), shows_in=AUDIO)
def audio_frames_cut_off(original: Original, frames: Any, rate: Any) -> Any:
    """The number of audio frames is cut to a whole number instead of rounded."""
    return int(frames / rate * 25.0)


tokens_column_by_column = Defect(
    id="tokens_column_by_column",
    component="latents",
    description="tokens run through columns before rows, unlike their positions",
    first_taps=("init/video",),
    isolated_at=("init/video*",),
    apply=together(
        wrapped(conditioning, "video_tokens", lambda original, latent: rearrange(latent, "b c f h w -> b (f w h) c")),
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
)


@replaces(denoising, "audio_grid", "decode/mel", shows_in=AUDIO)
def audio_latent_bin_major(original: Original, tokens: Any) -> Any:
    """An audio token is unpacked bin by bin instead of channel by channel."""
    return rearrange(tokens, "b t (m c) -> b c t m", c=8)


@replaces(latent_preparation, "with_noise", "init/*", shows_in=BOTH)
def noise_by_channel(original: Original, *args: Any, **options: Any) -> Any:
    """Noise is drawn channel by channel instead of token by token."""
    draw = torch.randn

    def drawn(shape: torch.Size, **how: Any) -> Tensor:
        batch, tokens, channels = shape
        return draw((batch, channels, tokens), **how).transpose(1, 2).contiguous()

    with patch.object(torch, "randn", drawn):
        return original(*args, **options)


@replaces(
    LatentPreparationStage,
    "forward",
    FIRST_BLOCK,
    isolated_at=POSITIONS,
    variant=TWO_PICTURES,
    when=lambda stage, batch: not float(batch.sampling.frame_rate).is_integer(),
)
def frame_rate_rounded(original: Original, stage: LatentPreparationStage, batch: Batch) -> Batch:
    """A frame rate that is no integer is rounded to one."""
    batch.sampling = replace(batch.sampling, frame_rate=float(round(batch.sampling.frame_rate)))
    prepared: Batch = original(stage, batch)
    return prepared


@replaces(
    latent_preparation,
    "audio_frames",
    "init/audio",
    isolated_at=("init/audio*",),
    shows_in=AUDIO,
    variant=UNGUIDED_30_STEPS,
)
def audio_frames_rounded_up(original: Original, frames: Any, rate: Any) -> Any:
    """The number of audio frames is rounded up instead of to the nearest whole number."""
    return math.ceil(frames / rate * 25.0)
