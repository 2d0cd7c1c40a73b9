"""The spatial upsampler between two stages: a clean video latent at twice the height and width.

It works on latents as the video encoder computes them, so that the model's normalized latent is mapped back first and
normalized again after. In it: a convolution and residual blocks over time and space, then in each latent frame a
convolution to four times the channels, which a pixel shuffle lays out as 2 x 2 cells, then residual blocks again.

Source: ltx_core.model.upsampler.{model,res_block,pixel_shuffle,spatial_rational_resampler} 1.0.0; pixel shuffle: Shi et
al. 2016, group norm: Wu and He 2018.

Axes: B clip, C channel, F frame, H height, W width in latent cells.
"""

from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from runners.errors import ShapeError
from runners.ltx23.upsampler_config import NORM_GROUPS, UpsamplerConfig
from runners.ltx23.video_vae_statistics import PerChannelStatistics

SCALE = 2  # of height and width


class UpsamplerBlock(nn.Module):
    """Two normed convolutions over time and space, added to what came in before the last activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, kernel_size=3, padding=1)
        self.norm1 = nn.GroupNorm(NORM_GROUPS, channels)
        self.conv2 = nn.Conv3d(channels, channels, kernel_size=3, padding=1)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, H, W) to the same."""
        inner = F.silu(self.norm1(self.conv1(x)))
        return F.silu(self.norm2(self.conv2(inner)) + x)


class ShuffleEnlargement(nn.Sequential):
    """A convolution to C * 4 channels, named "0" in files, which become cells."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Conv2d(channels, SCALE**2 * channels, kernel_size=3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2H, 2W)."""
        return shuffled(self[0](x))


class RationalEnlargement(nn.Module):
    """The same under the names of files with a rational resampler, whose filter at stride 1 is not used."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, SCALE**2 * channels, kernel_size=3, padding=1)
        self.blur_down = nn.Module()
        self.blur_down.register_buffer("kernel", torch.zeros(1, 1, 5, 5))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2H, 2W)."""
        return shuffled(self.conv(x))


class Upsampler(nn.Module):
    """The network; `upsample` puts the statistics around it."""

    CHECKPOINT_PREFIXES: ClassVar[dict[str, str]] = {"": ""}

    def __init__(self, config: UpsamplerConfig) -> None:
        super().__init__()
        width, blocks = config.mid_channels, config.num_blocks_per_stage
        self.initial_conv = nn.Conv3d(config.in_channels, width, kernel_size=3, padding=1)
        self.initial_norm = nn.GroupNorm(NORM_GROUPS, width)
        self.res_blocks = nn.ModuleList(UpsamplerBlock(width) for _ in range(blocks))
        self.upsampler = RationalEnlargement(width) if config.rational_resampler else ShuffleEnlargement(width)
        self.post_upsample_res_blocks = nn.ModuleList(UpsamplerBlock(width) for _ in range(blocks))
        self.final_conv = nn.Conv3d(width, config.in_channels, kernel_size=3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, C, F, H, W) to (B, C, F, 2H, 2W), both as the encoder computes latents. Raises: ShapeError."""
        if latent.ndim != 5 or latent.shape[1] != self.initial_conv.in_channels:
            raise ShapeError(
                f"The upsampler wants (B, {self.initial_conv.in_channels}, F, H, W); got {tuple(latent.shape)}."
            )
        x = F.silu(self.initial_norm(self.initial_conv(latent)))
        for block in self.res_blocks:
            x = block(x)
        frames = self.upsampler(rearrange(x, "b c f h w -> (b f) c h w"))
        x = rearrange(frames, "(b f) c h w -> b c f h w", b=latent.shape[0])
        for block in self.post_upsample_res_blocks:
            x = block(x)
        enlarged: Tensor = self.final_conv(x)
        return enlarged


def shuffled(x: Tensor) -> Tensor:
    """Pixel shuffle: (B, C * 4, H, W) to (B, C, 2H, 2W), a channel's four values row by row."""
    return rearrange(x, "b (c rows columns) h w -> b c (h rows) (w columns)", rows=SCALE, columns=SCALE)


def upsample(latent: Tensor, upsampler: Upsampler, statistics: PerChannelStatistics) -> Tensor:
    """A normalized latent, (B, C, F, H, W), at twice the height and width, normalized, in its own dtype.

    Args:
        latent: of the first stage, denoised.
        upsampler: the network.
        statistics: of the video VAE.
    Raises: ShapeError.
    """
    return statistics.normalize(upsampler(statistics.denormalize(latent)))
