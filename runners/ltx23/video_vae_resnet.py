"""Residual blocks of the video VAE: pixel or group norm, optional timestep modulation, optional injected noise.

Axes: B clip, C channel, F frame, H height, W width.
Source: ltx_core.model.video_vae.resnet and ltx_core.model.common.normalization 1.0.0. In bf16 the square in the pixel
norm is rounded before the mean, so it is taken as its own step here too. SiLU overwrites the norm's output, which keeps
the peak of memory below the reference's and changes no bit.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runners.errors import ConfigError
from runners.ltx23.video_vae_config import NORM_GROUPS, Normalization, Padding
from runners.ltx23.video_vae_convolution import CausalConv3d
from runners.ltx23.video_vae_timestep import TimestepEmbedder

GROUP_NORM_EPS = 1e-6
PIXEL_NORM_EPS = 1e-8


class PixelNorm(nn.Module):
    """Divide every cell by the root mean square of its channels: x / sqrt(mean_C(x^2) + eps)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, H, W) -> same shape."""
        return x / pixel_rms(x)


def pixel_rms(x: Tensor) -> Tensor:
    """Root mean square over channels: (B, C, F, H, W) -> (B, 1, F, H, W), in the dtype of `x`."""
    return torch.sqrt(torch.mean(x**2, dim=1, keepdim=True) + PIXEL_NORM_EPS)


def make_norm(kind: Normalization, channels: int) -> nn.Module:
    """The configured normalization of `channels`."""
    if kind == "group_norm":
        return nn.GroupNorm(NORM_GROUPS, channels, eps=GROUP_NORM_EPS)
    return PixelNorm()


def modulation(table: Tensor, embedding: Tensor, like: Tensor) -> tuple[Tensor, ...]:
    """Learned table plus timestep embedding, as one (B, C, 1, 1, 1) tensor per row.

    Args:
        table: (R, C) parameter, cast to dtype and device of `like`.
        embedding: (B, R*C).
    """
    rows = table.to(like)[None] + embedding.view(-1, *table.shape)  # (B, R, C)
    return rows[..., None, None, None].unbind(dim=1)


class ResnetBlock(nn.Module):
    """Norm, SiLU, convolution, twice, added to the input; a changed channel count gets a 1x1x1 shortcut."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm: Normalization,
        padding: Padding,
        inject_noise: bool = False,
        timestep_conditioning: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = make_norm(norm, in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels, padding)
        self.norm2 = make_norm(norm, out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels, padding)
        self.per_channel_scale1: nn.Parameter | None = None
        self.per_channel_scale2: nn.Parameter | None = None
        if inject_noise:
            self.per_channel_scale1 = nn.Parameter(torch.zeros(in_channels, 1, 1))
            self.per_channel_scale2 = nn.Parameter(torch.zeros(in_channels, 1, 1))
        self.scale_shift_table: nn.Parameter | None = None
        if timestep_conditioning:
            self.scale_shift_table = nn.Parameter(torch.zeros(4, in_channels))
        self.norm3: nn.Module = nn.Identity()
        self.conv_shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.norm3 = nn.GroupNorm(1, in_channels, eps=GROUP_NORM_EPS)
            self.conv_shortcut = nn.Conv3d(in_channels, out_channels, kernel_size=1)

    def modulations(self, embedding: Tensor | None, like: Tensor) -> tuple[Tensor, ...] | None:
        """shift1, scale1, shift2, scale2, each (B, C, 1, 1, 1), from a (B, 4*C) embedding; None if unconditioned."""
        if self.scale_shift_table is None:
            return None
        if embedding is None:
            raise ConfigError("A timestep-conditioned residual block wants a timestep embedding; got none.")
        return modulation(self.scale_shift_table, embedding, like)

    def forward(
        self, x: Tensor, causal: bool, embedding: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """(B, C, F, H, W) -> (B, C', F, H, W). `embedding` is (B, 4*C) where the block is conditioned."""
        modulations = self.modulations(embedding, x)
        hidden: Tensor = self.norm1(x)
        if modulations is not None:
            hidden = hidden * (1 + modulations[1]) + modulations[0]
        hidden = self.conv1(F.silu(hidden, inplace=True), causal)
        if self.per_channel_scale1 is not None:
            hidden = hidden + cell_noise(hidden, self.per_channel_scale1, generator)
        hidden = self.norm2(hidden)
        if modulations is not None:
            hidden = hidden * (1 + modulations[3]) + modulations[2]
        hidden = self.conv2(F.silu(hidden, inplace=True), causal)
        if self.per_channel_scale2 is not None:
            hidden = hidden + cell_noise(hidden, self.per_channel_scale2, generator)
        shortcut: Tensor = self.conv_shortcut(self.norm3(x))
        return shortcut + hidden


def cell_noise(like: Tensor, scale: Tensor, generator: torch.Generator | None) -> Tensor:
    """One (H, W) noise field, equal in every clip, channel and frame up to the channel's scale: (1, C, 1, H, W)."""
    noise = torch.randn(like.shape[-2:], device=like.device, dtype=like.dtype, generator=generator)
    return (noise[None] * scale.to(like))[None, :, None]


class ResnetStack(nn.Module):
    """`num_layers` residual blocks of equal width, which share one timestep embedder where they are conditioned."""

    def __init__(
        self,
        channels: int,
        num_layers: int,
        norm: Normalization,
        padding: Padding,
        inject_noise: bool = False,
        timestep_conditioning: bool = False,
    ) -> None:
        super().__init__()
        self.time_embedder = TimestepEmbedder(4 * channels) if timestep_conditioning else None
        self.res_blocks = nn.ModuleList(
            ResnetBlock(channels, channels, norm, padding, inject_noise, timestep_conditioning)
            for _ in range(num_layers)
        )

    def embed(self, timestep: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """(B,) scaled timesteps -> (B, 4*C) embedding that all blocks share; None if unconditioned."""
        if self.time_embedder is None:
            return None
        if timestep is None:
            raise ConfigError("A timestep-conditioned residual stack wants a timestep; got none.")
        embedding: Tensor = self.time_embedder(timestep, dtype)
        return embedding

    def forward(
        self, x: Tensor, causal: bool, timestep: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """(B, C, F, H, W) -> same shape; `timestep` is (B,), already scaled."""
        embedding = self.embed(timestep, x.dtype)
        for block in self.res_blocks:
            x = block(x, causal, embedding, generator)
        return x
