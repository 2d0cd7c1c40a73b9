"""Audio VAE decoder: from audio latents to a log-mel spectrogram, and on through the vocoder to a waveform.

Axes: B clip, C channel, T latent frame, F latent frequency bin, H mel frame, W mel bin, N sample.
Source: ltx_core.model.audio_vae.audio_vae.{AudioDecoder, decode_audio} 1.0.0. Everything up to the waveform runs in the
dtype of the weights; the waveform is cast to float32 at the end.
"""

from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from runners.errors import ShapeError
from runners.ltx23.audio_vae_config import AudioVaeConfig
from runners.ltx23.audio_vae_layers import AttentionBlock, AudioResnetBlock, CausalConv2d, Upsample, normalization
from runners.ltx23.bandwidth_extension import ExtendedVocoder
from runners.ltx23.vocoder import Vocoder
from runners.tap import tap

FRAMES_PER_LATENT = 4  # mel frames for each latent frame, whatever the number of levels


class AudioChannelStatistics(nn.Module):
    """Mean and deviation of each latent value over the training data; the names with hyphens are the checkpoint's."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.register_buffer("std-of-means", torch.ones(length))
        self.register_buffer("mean-of-means", torch.zeros(length))

    def denormalize(self, latent: Tensor) -> Tensor:
        """Give (B, C, T, F) its scale back. One statistic belongs to each pair of channel and bin, C major.

        Raises: ShapeError if C times F is not the number of statistics.
        """
        deviation = self.get_buffer("std-of-means").to(latent)  # (C*F,)
        mean = self.get_buffer("mean-of-means").to(latent)
        channels, bins = latent.shape[1], latent.shape[3]
        if channels * bins != deviation.numel():
            raise ShapeError(
                f"The audio latent has {channels} channels of {bins} bins, {channels * bins} values a frame; the "
                f"checkpoint holds statistics of {deviation.numel()} (audio_vae ch). Make the latent's bins "
                f"{deviation.numel() / channels:g}."
            )
        rows = rearrange(latent, "B C T F -> B T (C F)")
        return rearrange(rows * deviation + mean, "B T (C F) -> B C T F", C=channels)


class MidBlock(nn.Module):
    """Two residual blocks at the coarsest level, with attention between them if configured."""

    def __init__(self, channels: int, config: AudioVaeConfig) -> None:
        super().__init__()
        self.block_1 = AudioResnetBlock(channels, channels, config)
        self.attn_1 = AttentionBlock(channels, config) if config.mid_block_add_attention else nn.Identity()
        self.block_2 = AudioResnetBlock(channels, channels, config)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, C, H, W), shape kept."""
        return self.block_2(self.attn_1(self.block_1(x)))  # type: ignore[no-any-return]


class AudioDecoderLevel(nn.Module):
    """One resolution of the way up: residual blocks, each followed by attention if the level attends, then growth."""

    def __init__(
        self, channels_in: int, channels_out: int, config: AudioVaeConfig, *, attends: bool, grows: bool
    ) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * config.num_res_blocks
        self.block = nn.ModuleList(AudioResnetBlock(width, channels_out, config) for width in widths)
        self.attn = nn.ModuleList(AttentionBlock(channels_out, config) for _ in widths if attends)
        self.upsample = Upsample(channels_out, config) if grows else None

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, C_in, H, W) to (B, C_out, H', W')."""
        for index, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        return x if self.upsample is None else self.upsample(x)


class AudioDecoder(nn.Module):
    """Decoder of the audio VAE."""

    CHECKPOINT_PREFIXES: ClassVar[dict[str, str]] = {
        "per_channel_statistics.": "audio_vae.per_channel_statistics.",
        "": "audio_vae.decoder.",
    }

    def __init__(self, config: AudioVaeConfig) -> None:
        super().__init__()
        self.config = config
        axis = config.causality_axis
        level_widths = [config.ch * multiplier for multiplier in config.ch_mult]
        levels = range(len(level_widths))
        coarsest = level_widths[-1]

        self.per_channel_statistics = AudioChannelStatistics(config.ch)
        self.conv_in = CausalConv2d(config.z_channels, coarsest, kernel_size=3, axis=axis)
        self.mid = MidBlock(coarsest, config)
        # Stored finest first, run coarsest first; each level's input is the next coarser level's output.
        resolution_of_coarsest = config.resolution // 2 ** levels[-1]
        self.up = nn.ModuleList(
            AudioDecoderLevel(
                level_widths[min(level + 1, levels[-1])],
                level_widths[level],
                config,
                attends=resolution_of_coarsest * 2 ** (levels[-1] - level) in config.attn_resolutions,
                grows=level != 0,
            )
            for level in levels
        )
        self.norm_out = normalization(level_widths[0], config)
        self.conv_out = CausalConv2d(level_widths[0], config.out_ch, kernel_size=3, axis=axis)

    def forward(self, latent: Tensor) -> Tensor:
        """Decode latents to a log-mel spectrogram in the weights' dtype.

        Args:
            latent: (B, C, T, F) normalized latents in the weights' dtype; C is `z_channels`, C times F is `ch`.
        Returns: (B, out_ch, H, W); W is `mel_bins`, H is 4 T, or 4 T - 3 if any axis is causal.
        Raises: ShapeError if the latent does not fit the configuration.
        """
        if latent.ndim != 4 or latent.shape[1] != self.config.z_channels:
            raise ShapeError(
                f"The audio decoder wants latents (B, {self.config.z_channels}, T, F); got {tuple(latent.shape)}."
            )
        x: Tensor = self.conv_in(self.per_channel_statistics.denormalize(latent))
        x = self.mid(x)
        for level in reversed(self.up):
            x = level(x)
        x = self.conv_out(F.silu(self.norm_out(x)))
        return self._fit(x, frames_latent=latent.shape[2], bins_latent=latent.shape[3])

    def _fit(self, mel: Tensor, *, frames_latent: int, bins_latent: int) -> Tensor:
        """Crop, then fill with zeros at the end, to the frames and bins that the latent stands for."""
        frames = frames_latent * FRAMES_PER_LATENT
        if self.config.causality_axis is not None:  # whichever axis is causal, as officially
            frames = max(frames - (FRAMES_PER_LATENT - 1), 1)
        bins = bins_latent if self.config.mel_bins is None else self.config.mel_bins
        mel = mel[:, :, :frames, :bins]
        return F.pad(mel, (0, bins - mel.shape[3], 0, frames - mel.shape[2]))


def decode_audio(latent: Tensor, decoder: AudioDecoder, vocoder: Vocoder | ExtendedVocoder) -> tuple[Tensor, int]:
    """Decode one clip's audio latents to a waveform; the spectrogram is tapped as `decode/mel`.

    Args:
        latent: (1, C, T, F) normalized latents in the dtype of the decoder's weights.
    Returns: (C, N) float32 waveform with full scale 1.0, and its sampling rate in Hz.
    Raises: ShapeError if there is not exactly one clip, or shapes do not fit the models.
    """
    if latent.shape[0] != 1:
        raise ShapeError(f"decode_audio wants one clip, latents (1, C, T, F); got {tuple(latent.shape)}.")
    mel: Tensor = decoder(latent)
    tap("decode/mel", mel)
    waveform: Tensor = vocoder(mel)  # (1, C, N)
    return waveform.squeeze(0).float(), vocoder.output_sampling_rate_hz
