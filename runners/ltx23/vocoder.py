"""Vocoder: a generator that turns a log-mel spectrogram into a waveform, upsampling by transposed convolutions.

Axes: B clip, S stereo channel, T mel frame, W mel bin, C feature channel, N sample.
Source: HiFi-GAN (Kong et al. 2020, section 2.2) for blocks "1" and BigVGAN v2 (Lee et al. 2023) for blocks "AMP1", as
in ltx_core.model.audio_vae.{vocoder, resnet} 1.0.0. Everything runs in the weights' dtype.
"""

from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from runners.errors import ShapeError
from runners.ltx23.antialiased_activation import AntiAliasedSnake
from runners.ltx23.vocoder_config import AUDIO_CHANNELS, MEL_BINS, VocoderConfig

BLOCK_SLOPE = 0.1  # leaky ReLU inside
FINAL_SLOPE = 0.01  # leaky ReLU before the last convolution


class LeakyBlock(nn.Module):
    """Three residual pairs of convolutions, the first of each pair dilated, with leaky ReLUs in front."""

    def __init__(self, channels: int, kernel_size: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel_size, dilation=dilation, padding="same") for dilation in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel_size, padding="same") for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, C, N), shape kept."""
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            h = dilated(F.leaky_relu(x, BLOCK_SLOPE))
            h = plain(F.leaky_relu(h, BLOCK_SLOPE))
            x = h + x
        return x


class SnakeBlock(nn.Module):
    """Three residual pairs of convolutions, the first of each pair dilated, with anti-aliased snakes in front."""

    def __init__(self, channels: int, kernel_size: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        reach = (kernel_size - 1) // 2
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel_size, dilation=dilation, padding=reach * dilation)
            for dilation in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel_size, padding=reach) for _ in dilations)
        self.acts1 = nn.ModuleList(AntiAliasedSnake(channels) for _ in dilations)
        self.acts2 = nn.ModuleList(AntiAliasedSnake(channels) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, C, N), shape kept."""
        for act1, dilated, act2, plain in zip(self.acts1, self.convs1, self.acts2, self.convs2, strict=True):
            x = x + plain(act2(dilated(act1(x))))
        return x


class Vocoder(nn.Module):
    """One generator, as the vocoder itself or inside the bandwidth extension."""

    CHECKPOINT_PREFIXES: ClassVar[dict[str, str]] = {"": "vocoder."}

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.upsample_initial_channel >> stage for stage in range(len(config.upsample_rates) + 1)]
        stages = zip(widths, widths[1:], config.upsample_rates, config.upsample_kernel_sizes, strict=False)
        blocks = list(zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True))
        block_of: type[LeakyBlock | SnakeBlock] = SnakeBlock if config.resblock == "AMP1" else LeakyBlock

        self.conv_pre = nn.Conv1d(AUDIO_CHANNELS * MEL_BINS, widths[0], 7, padding=3)
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(wide, narrow, size, rate, padding=(size - rate) // 2)
            for wide, narrow, rate, size in stages
        )
        # Flat in the checkpoint: all blocks of the first stage, then all of the second, and so on.
        self.resblocks = nn.ModuleList(block_of(width, *block) for width in widths[1:] for block in blocks)
        self.act_post = AntiAliasedSnake(widths[-1]) if config.resblock == "AMP1" else nn.LeakyReLU(FINAL_SLOPE)
        self.conv_post = nn.Conv1d(widths[-1], AUDIO_CHANNELS, 7, padding=3, bias=config.use_bias_at_final)

    @property
    def output_sampling_rate_hz(self) -> int:
        """Rate of the waveform."""
        return self.config.output_sampling_rate_hz

    def forward(self, mel: Tensor) -> Tensor:
        """Generate a waveform.

        Args:
            mel: (B, 2, T, 64) log-mel spectrogram of both stereo channels, in the weights' dtype.
        Returns: (B, 2, N) in the same dtype; N is T times the product of the upsampling rates.
        Raises: ShapeError for any other shape.
        """
        if mel.ndim != 4 or mel.shape[1] != AUDIO_CHANNELS or mel.shape[3] != MEL_BINS:
            raise ShapeError(
                f"The vocoder wants a spectrogram (B, {AUDIO_CHANNELS}, T, {MEL_BINS}); got {tuple(mel.shape)}. "
                f"Its bins are audio_vae mel_bins, its channels out_ch."
            )
        x: Tensor = self.conv_pre(rearrange(mel, "B S T W -> B (S W) T"))
        blocks_per_stage = len(self.config.resblock_kernel_sizes)
        for stage, up in enumerate(self.ups):
            if self.config.resblock == "1":
                x = F.leaky_relu(x, BLOCK_SLOPE)
            x = up(x)  # (B, C, N) -> (B, C/2, N * rate)
            blocks = self.resblocks[stage * blocks_per_stage : (stage + 1) * blocks_per_stage]
            # A mean over a stack accumulates in float32 and rounds once; adding in turn would round each time.
            x = torch.stack([block(x) for block in blocks], dim=0).mean(dim=0)
        x = self.conv_post(self.act_post(x))  # (B, 2, N)
        if self.config.final_activation == "tanh":
            return torch.tanh(x)
        if self.config.final_activation == "clamp":
            return torch.clamp(x, -1, 1)
        return x
