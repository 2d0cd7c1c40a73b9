"""Latent states: shapes, token order, positions and noise of the two streams before denoising.

Source: ltx_core.types, ltx_core.tools, ltx_core.components.{patchifiers,noisers} 1.0.0.

Axes: B sample, C channel, F latent frame, H and W latent cell, T token, M mel bin of the audio latent; bounds are the
two ends [start, end) of a cell.
"""

from dataclasses import dataclass, replace

import torch
from einops import rearrange, repeat
from torch import Tensor

VIDEO_CHANNELS = 128
VIDEO_SCALE = (8, 32, 32)  # pixel frames, pixel rows and pixel columns a latent cell spans
AUDIO_CHANNELS = 8
AUDIO_MEL_BINS = 16
AUDIO_SAMPLE_RATE_HZ = 16000
AUDIO_HOP_SAMPLES = 160
AUDIO_LATENT_HOPS = 4  # mel frames a latent audio frame spans


@dataclass(frozen=True, kw_only=True)
class LatentState:
    """One stream on its way: tokens, how strongly each is denoised, where it is, and what it is pulled back to."""

    latent: Tensor  # (B, T, C), the model's dtype
    clean: Tensor  # (B, T, C), the model's dtype: conditioning tokens, zero elsewhere
    denoise_mask: Tensor  # (B, T, 1), fp32: 1 is noise, 0 is given
    positions: Tensor  # (B, axes, T, 2): seconds for time, pixels for space


@dataclass(frozen=True, kw_only=True)
class VideoShape:
    """Shape of a video latent."""

    frames: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """Number of tokens, T."""
        return self.frames * self.height * self.width


def video_shape(num_frames: int, height_px: int, width_px: int) -> VideoShape:
    """Latent shape of a clip of `num_frames` (8k + 1) pixel frames."""
    time, rows, columns = VIDEO_SCALE
    return VideoShape(frames=(num_frames - 1) // time + 1, height=height_px // rows, width=width_px // columns)


def audio_frames(num_frames: int, frame_rate: float) -> int:
    """Latent audio frames as long as the clip; halves round to even, as Python does."""
    per_second = AUDIO_SAMPLE_RATE_HZ / AUDIO_HOP_SAMPLES / AUDIO_LATENT_HOPS
    return round(num_frames / frame_rate * per_second)


def video_tokens(latent: Tensor) -> Tensor:
    """(B, C, F, H, W) to (B, T, C)."""
    return rearrange(latent, "b c f h w -> b (f h w) c")


def video_grid(tokens: Tensor, shape: VideoShape) -> Tensor:
    """(B, T, C) to (B, C, F, H, W)."""
    return rearrange(tokens, "b (f h w) c -> b c f h w", f=shape.frames, h=shape.height, w=shape.width)


def audio_tokens(latent: Tensor) -> Tensor:
    """(B, C, T, M) to (B, T, C * M)."""
    return rearrange(latent, "b c t m -> b t (c m)")


def audio_grid(tokens: Tensor) -> Tensor:
    """(B, T, C * M) to (B, C, T, M)."""
    return rearrange(tokens, "b t (c m) -> b c t m", c=AUDIO_CHANNELS, m=AUDIO_MEL_BINS)


def cell_bounds_px(shape: VideoShape, device: torch.device) -> Tensor:
    """Ends of every latent cell in pixel frames, rows and columns, before the causal shift: int64 (1, 3, T, 2)."""
    axes = (torch.arange(size, device=device) for size in (shape.frames, shape.height, shape.width))
    starts = torch.stack(torch.meshgrid(*axes, indexing="ij"))  # (3, F, H, W)
    bounds = rearrange(torch.stack((starts, starts + 1), dim=-1), "dim f h w end -> 1 dim (f h w) end")
    return bounds * torch.tensor(VIDEO_SCALE, device=device).view(1, 3, 1, 1)


def video_positions(shape: VideoShape, frame_rate: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(1, 3, T, 2) positions of the clip's own tokens, in seconds and pixels.

    The first latent frame holds one pixel frame, so time is shifted back by 7 frames and cut at zero. Release 1.0.0
    then rounds to the model's dtype (`dtype`); from 1.2.0 on they stay fp32 (reference behaviour `positions_fp32`).
    """
    bounds = cell_bounds_px(shape, device)
    bounds[:, 0] = (bounds[:, 0] + 1 - VIDEO_SCALE[0]).clamp(min=0)
    positions = bounds.float()
    positions[:, 0] = positions[:, 0] / frame_rate
    return positions.to(dtype)


def audio_positions(frames: int, device: torch.device) -> Tensor:
    """fp32 (1, 1, T, 2) start and end of each latent audio frame in seconds; causal, so the first are cut at zero."""

    def seconds(first: int) -> Tensor:
        mel_frame = torch.arange(first, first + frames, dtype=torch.float32, device=device) * AUDIO_LATENT_HOPS
        return (mel_frame + 1 - AUDIO_LATENT_HOPS).clip(min=0) * AUDIO_HOP_SAMPLES / AUDIO_SAMPLE_RATE_HZ

    return repeat(torch.stack((seconds(0), seconds(1)), dim=-1), "t end -> 1 1 t end")


def empty_state(num_tokens: int, channels: int, positions: Tensor, dtype: torch.dtype) -> LatentState:
    """A state that is all to be denoised: zeros in `dtype`, mask of ones, on the device of `positions`."""
    latent = torch.zeros(1, num_tokens, channels, dtype=dtype, device=positions.device)
    mask = torch.ones(1, num_tokens, 1, dtype=torch.float32, device=positions.device)
    return LatentState(latent=latent, clean=latent.clone(), denoise_mask=mask, positions=positions)


def with_noise(
    state: LatentState, generator: torch.Generator, lerp_fp32: bool, noise_scale: float = 1.0
) -> LatentState:
    """Fill a state with noise where its mask says so.

    Args:
        state: conditioned state.
        generator: the run's one generator, on the state's device; video is drawn before audio.
        lerp_fp32: reference behaviour `noise_lerp_fp32`, fp32 lerps from the latent, then from the clean latent.
        noise_scale: share of noise where the mask is 1; the rest is what the state begins with.
    """
    latent = state.latent
    noise = torch.randn(latent.shape, generator=generator, dtype=latent.dtype, device=latent.device)
    if lerp_fp32:
        noisy = torch.lerp(latent.float(), noise.float(), noise_scale)
        mixed = torch.lerp(state.clean.float(), noisy, state.denoise_mask)
    else:
        share = state.denoise_mask * noise_scale
        mixed = noise * share + latent * (1 - share)  # promoted to fp32 by the mask
    return replace(state, latent=mixed.to(latent.dtype))
