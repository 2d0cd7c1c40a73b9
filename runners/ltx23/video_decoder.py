"""Video decoder: normalized latent to pixels.

Axes: B clip, C channel, F frame, H height, W width. Pixels come out near [-1, 1]; 2.3 grows time by 8 and space by 32.
Source: ltx_core.model.video_vae.video_vae (VideoDecoder) 1.0.0. A timestep-conditioned decoder mixes a little noise
into the latent and is told how much; noise of the blocks is drawn after it, in the order of the blocks. With
`ReleaseBehaviours.decoder_chunked` the blocks run in place, see `video_decoder_chunked`.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runners.errors import ShapeError
from runners.ltx23.video_decoder_chunked import (
    head_in_place,
    stack_in_place,
    store_channels_last,
    upsample_in_place,
)
from runners.ltx23.video_vae_config import BOTTLENECK_RATIO, VaeStage, VideoVaeConfig
from runners.ltx23.video_vae_convolution import CausalConv3d
from runners.ltx23.video_vae_resnet import ResnetBlock, ResnetStack, make_norm, modulation
from runners.ltx23.video_vae_sampling import DepthToSpaceUpsample, unpatchify
from runners.ltx23.video_vae_statistics import PerChannelStatistics
from runners.ltx23.video_vae_timestep import TimestepEmbedder
from runners.releases import ReleaseBehaviours

NOISE_SCALE = 0.025  # share of noise in the latent of a timestep-conditioned decoder
TIMESTEP = 0.05  # noise level that such a decoder is told


class VideoDecoder(nn.Module):
    """A stem convolution, the configured blocks from latent to pixel end, and a head that predicts patches."""

    CHECKPOINT_PREFIXES: ClassVar[dict[str, str]] = {
        "per_channel_statistics.": "vae.per_channel_statistics.",
        "": "vae.decoder.",
    }

    def __init__(self, config: VideoVaeConfig, reference: ReleaseBehaviours) -> None:
        super().__init__()
        self.config = config
        self.reference = reference
        stages = config.decoder_stages()
        first_width = stages[0].in_channels if stages else config.decoder_base_channels * BOTTLENECK_RATIO
        last_width = stages[-1].out_channels if stages else first_width
        self.per_channel_statistics = PerChannelStatistics(config.latent_channels)
        self.conv_in = CausalConv3d(config.latent_channels, first_width, config.decoder_padding)
        self.up_blocks = nn.ModuleList(_make_block(stage, config) for stage in stages)
        self.conv_norm_out = make_norm(config.norm_layer, last_width)
        self.conv_out = CausalConv3d(last_width, config.out_channels * config.patch_size**2, config.decoder_padding)
        if config.timestep_conditioning:
            self.timestep_scale_multiplier = nn.Parameter(torch.tensor(1000.0))
            self.last_time_embedder = TimestepEmbedder(2 * last_width)
            self.last_scale_shift_table = nn.Parameter(torch.zeros(2, last_width))

    def forward(self, latent: Tensor, generator: torch.Generator | None) -> Tensor:
        """Decode a latent whole.

        Args:
            latent: (B, C, F', H', W') normalized, in the weights' dtype.
            generator: source of the noise that timestep conditioning and noise-injecting blocks draw; 2.3 draws none.
        Returns: (B, 3, F, H, W); with 2.3 blocks F = 1 + 8 * (F' - 1), H = 32 * H', W = 32 * W'.
        Raises: ShapeError for another rank or channel count.
        """
        if latent.ndim != 5 or latent.shape[1] != self.config.latent_channels:
            raise ShapeError(
                f"The video decoder wants a (B, {self.config.latent_channels}, F, H, W) latent; "
                f"got {tuple(latent.shape)}."
            )
        if self.reference.decoder_chunked:
            return unpatchify(self._decode_in_place(latent, generator), self.config.patch_size)
        latent, timestep = self._prepare(latent, generator)
        causal = self.config.causal_decoder
        x: Tensor = self.conv_in(latent, causal)
        for block in self.up_blocks:
            if isinstance(block, ResnetStack):
                x = block(x, causal, timestep, generator)
            elif isinstance(block, ResnetBlock):
                x = block(x, causal, generator=generator)
            else:
                x = block(x, causal)
        x = self.conv_norm_out(x)
        modulations = self._last_modulations(timestep, x)
        if modulations is not None:
            x = x * (1 + modulations[1]) + modulations[0]
        x = self.conv_out(F.silu(x, inplace=True), causal)
        return unpatchify(x, self.config.patch_size)

    def _decode_in_place(self, latent: Tensor, generator: torch.Generator | None) -> Tensor:
        """All of `forward` but the patches, in the order of operations of release 1.2.0."""
        store_channels_last(self)
        latent, timestep = self._prepare(latent.to(memory_format=torch.channels_last_3d), generator)
        causal = self.config.causal_decoder
        x: Tensor = self.conv_in(latent, causal)
        for block in self.up_blocks:
            if isinstance(block, ResnetStack):
                x = stack_in_place(block, x, causal, timestep, generator)
            elif isinstance(block, DepthToSpaceUpsample):
                x = upsample_in_place(block, x, causal)
            else:
                x = block(x, causal, generator=generator)
        modulations = self._last_modulations(timestep, x)
        return head_in_place(self.conv_norm_out, self.conv_out, x, causal, modulations)

    def _prepare(self, latent: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor | None]:
        """Latent with noise mixed in and statistics undone, and the (B,) scaled timestep of a conditioned decoder."""
        timestep = None
        if self.config.timestep_conditioning:
            noise = torch.randn(latent.shape, generator=generator, dtype=latent.dtype, device=latent.device)
            latent = noise * NOISE_SCALE + (1.0 - NOISE_SCALE) * latent
            timestep = torch.full(latent.shape[:1], TIMESTEP, device=latent.device, dtype=latent.dtype)
            timestep = timestep * self.timestep_scale_multiplier.to(latent)
        return self.per_channel_statistics.denormalize(latent), timestep

    def _last_modulations(self, timestep: Tensor | None, like: Tensor) -> tuple[Tensor, ...] | None:
        """shift and scale ahead of the head, each (B, C, 1, 1, 1); None if unconditioned."""
        if timestep is None:
            return None
        return modulation(self.last_scale_shift_table, self.last_time_embedder(timestep, like.dtype), like)


def _make_block(stage: VaeStage, config: VideoVaeConfig) -> nn.Module:
    block, norm, padding = stage.block, config.norm_layer, config.decoder_padding
    if block.kind == "res_x":
        return ResnetStack(
            stage.in_channels, block.num_layers, norm, padding, block.inject_noise, config.timestep_conditioning
        )
    if block.kind == "res_x_y":  # the reference never conditions this kind on the timestep
        return ResnetBlock(stage.in_channels, stage.out_channels, norm, padding, block.inject_noise)
    return DepthToSpaceUpsample(stage.in_channels, stage.out_channels, block.stride, padding, block.residual)
