"""Layers of the audio VAE decoder: normalization, causal convolution, residual block, attention, upsampling.

Axes: B clip, C channel, H time (mel frame), W mel frequency bin, P position (H times W).
Source: ltx_core.model.audio_vae.{causal_conv_2d, resnet, attention, upsample} and ltx_core.model.common.normalization
1.0.0. Every layer keeps its input's dtype and performs the reference's tensor operations in the reference's order.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from runners.ltx23.audio_vae_config import GROUP_COUNT, AudioVaeConfig

EPSILON = 1e-6


class AudioPixelNorm(nn.Module):
    """Divide each (time, frequency) position by its root mean square over channels; no weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, C, H, W)."""
        return x / torch.sqrt(torch.mean(x**2, dim=1, keepdim=True) + EPSILON)


def normalization(channels: int, config: AudioVaeConfig) -> nn.Module:
    """The configured normalization of `channels` channels."""
    if config.norm_type == "group":
        return nn.GroupNorm(GROUP_COUNT, channels, eps=EPSILON)
    return AudioPixelNorm()


class CausalConv2d(nn.Module):
    """Convolution that keeps (H, W); along the causal axis all padding lies before the first sample."""

    def __init__(self, channels_in: int, channels_out: int, *, kernel_size: int, axis: str | None) -> None:
        super().__init__()
        reach = kernel_size - 1
        even = (reach // 2, reach - reach // 2)
        past = (reach, 0)
        width = past if axis in ("width", "width-compatibility") else even
        height = past if axis == "height" else even
        self.padding = (*width, *height)
        self.conv = nn.Conv2d(channels_in, channels_out, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C_in, H, W) to (B, C_out, H, W)."""
        x = F.pad(x, self.padding)
        return self.conv(x)  # type: ignore[no-any-return]


class AudioResnetBlock(nn.Module):
    """Two normalized convolutions added to the input, which a 1 x 1 convolution widens where the widths differ."""

    def __init__(self, channels_in: int, channels_out: int, config: AudioVaeConfig) -> None:
        super().__init__()
        axis = config.causality_axis
        self.norm1 = normalization(channels_in, config)
        self.conv1 = CausalConv2d(channels_in, channels_out, kernel_size=3, axis=axis)
        self.norm2 = normalization(channels_out, config)
        self.conv2 = CausalConv2d(channels_out, channels_out, kernel_size=3, axis=axis)
        self.nin_shortcut: CausalConv2d | None = None
        if channels_in != channels_out:
            self.nin_shortcut = CausalConv2d(channels_in, channels_out, kernel_size=1, axis=axis)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, C_in, H, W) to (B, C_out, H, W)."""
        h: Tensor = self.conv1(F.silu(self.norm1(x)))  # (B, C_in, H, W) -> (B, C_out, H, W)
        h = self.conv2(F.silu(self.norm2(h)))
        if self.nin_shortcut is not None:
            x = self.nin_shortcut(x)
        return x + h


class AttentionBlock(nn.Module):
    """Single-head attention of all positions to all positions, added to the input."""

    def __init__(self, channels: int, config: AudioVaeConfig) -> None:
        super().__init__()
        self.norm = normalization(channels, config)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, C, H, W), shape kept."""
        h: Tensor = self.norm(x)
        # The two products, the scale after the first and the contiguous operands are the reference's: a fused
        # attention, or a scale on the query, rounds differently.
        q = rearrange(self.q(h), "B C H W -> B (H W) C").contiguous()
        k = rearrange(self.k(h), "B C H W -> B C (H W)").contiguous()
        v = rearrange(self.v(h), "B C H W -> B C (H W)").contiguous()
        weights = torch.bmm(q, k) * q.shape[2] ** -0.5  # (B, P query, P key)
        weights = torch.softmax(weights, dim=2)
        h = torch.bmm(v, weights.transpose(1, 2).contiguous())  # (B, C, P)
        h = rearrange(h, "B C (H W) -> B C H W", H=x.shape[2])
        return x + self.proj_out(h)  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Double time and frequency by repetition, then convolve.

    A causal axis then loses its first sample: n samples become 2 n - 1, which undoes the padding that the encoder
    put in front. "width-compatibility" pads causally but keeps all 2 n.
    """

    def __init__(self, channels: int, config: AudioVaeConfig) -> None:
        super().__init__()
        self.axis = config.causality_axis
        self.conv = CausalConv2d(channels, channels, kernel_size=3, axis=self.axis)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge (B, C, H, W) to (B, C, 2 H, 2 W), less the first sample of a causal axis."""
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        x = self.conv(x)
        if self.axis == "height":
            return x[:, :, 1:, :]
        if self.axis == "width":
            return x[:, :, :, 1:]
        return x
