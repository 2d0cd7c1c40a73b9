"""Video encoder: pixels to normalized latent.

Axes: B clip, C channel, F frame, H height, W width. Pixels are in [-1, 1]; 2.3 shrinks time by 8 and space by 32.
Source: ltx_core.model.video_vae.video_vae (VideoEncoder) 1.0.0. Only the mean of the latent distribution is used, so
the log-variance channels that the reference expands are cut off instead.
"""

import logging
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from runners.errors import ConfigError, ShapeError
from runners.ltx23.video_vae_config import VaeStage, VideoVaeConfig
from runners.ltx23.video_vae_convolution import CausalConv3d
from runners.ltx23.video_vae_resnet import ResnetBlock, ResnetStack, make_norm
from runners.ltx23.video_vae_sampling import SpaceToDepthDownsample, patchify
from runners.ltx23.video_vae_statistics import PerChannelStatistics

logger = logging.getLogger(__name__)

FRAMES_PER_LATENT = 8  # the reference crops to 1 + 8*k frames, whatever the blocks


class VideoEncoder(nn.Module):
    """Patches, a stem convolution, the configured blocks, and a head that predicts latent means."""

    CHECKPOINT_PREFIXES: ClassVar[dict[str, str]] = {
        "per_channel_statistics.": "vae.per_channel_statistics.",
        "": "vae.encoder.",
    }

    def __init__(self, config: VideoVaeConfig) -> None:
        """Raises: ConfigError if the channels of the configuration's blocks do not fit."""
        super().__init__()
        self.config = config
        stages = config.encoder_stages()
        width = stages[-1].out_channels if stages else config.latent_channels
        log_variances = {"per_channel": config.latent_channels, "none": 0}.get(config.latent_log_var, 1)
        self.per_channel_statistics = PerChannelStatistics(config.latent_channels)
        self.conv_in = CausalConv3d(
            config.in_channels * config.patch_size**2, config.latent_channels, config.encoder_padding
        )
        self.down_blocks = nn.ModuleList(_make_block(stage, config) for stage in stages)
        self.conv_norm_out = make_norm(config.norm_layer, width)
        self.conv_out = CausalConv3d(width, config.latent_channels + log_variances, config.encoder_padding)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode a clip; frames beyond the last 1 + 8*k are dropped with a logged warning, as in the reference.

        Args:
            pixels: (B, C, F, H, W) in [-1, 1], in the weights' dtype.
        Returns: (B, latent channels, F', H', W'); with 2.3 blocks F' = 1 + (F - 1) / 8, H' = H / 32, W' = W / 32.
        Raises: ShapeError for another rank or channel count, no frames, or sides that the blocks cannot fold;
        ConfigError for a checkpoint without log-variance channels, which serves requests without pictures only.
        """
        if self.config.latent_log_var == "none":
            raise ConfigError(
                "The reference encoder cannot run with latent_log_var 'none': it halves its output channels and then "
                "misses statistics for them. Wanted 'uniform', 'per_channel' or 'constant', or no pictures."
            )
        if pixels.ndim != 5 or pixels.shape[1] != self.config.in_channels or pixels.shape[2] < 1:
            raise ShapeError(
                f"The video encoder wants (B, {self.config.in_channels}, F, H, W) pixels with F >= 1; "
                f"got {tuple(pixels.shape)}."
            )
        surplus = (pixels.shape[2] - 1) % FRAMES_PER_LATENT
        if surplus:
            logger.warning("Encoding wants 1 + 8*k frames; the last %d of %d are dropped.", surplus, pixels.shape[2])
            pixels = pixels[:, :, :-surplus]
        x: Tensor = self.conv_in(patchify(pixels, self.config.patch_size), causal=True)
        for block in self.down_blocks:
            x = block(x, causal=True)
        x = self.conv_norm_out(x)
        x = self.conv_out(F.silu(x, inplace=True), causal=True)
        return self.per_channel_statistics.normalize(x[:, : self.config.latent_channels])


def _make_block(stage: VaeStage, config: VideoVaeConfig) -> nn.Module:
    block, norm, padding = stage.block, config.norm_layer, config.encoder_padding
    if block.kind == "res_x":
        return ResnetStack(stage.in_channels, block.num_layers, norm, padding)
    if block.kind == "res_x_y":
        return ResnetBlock(stage.in_channels, stage.out_channels, norm, padding)
    if block.kind.endswith("_res"):
        return SpaceToDepthDownsample(stage.in_channels, stage.out_channels, block.stride, padding)
    return CausalConv3d(stage.in_channels, stage.out_channels, padding, stride=block.stride)
