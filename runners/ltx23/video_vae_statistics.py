"""Per-channel mean and standard deviation that map VAE latents to the model's normalized latents and back.

Axes: B clip, C latent channel, F frame, H height, W width.
Source: ltx_core.model.video_vae.ops (PerChannelStatistics) 1.0.0.
"""

import torch
from torch import Tensor, nn


class PerChannelStatistics(nn.Module):
    """Two (C,) buffers under the checkpoint's names; arithmetic runs in the dtype of the latent."""

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        self.register_buffer("std-of-means", torch.ones(latent_channels))
        self.register_buffer("mean-of-means", torch.zeros(latent_channels))

    def _column(self, name: str, like: Tensor) -> Tensor:
        return self.get_buffer(name).view(1, -1, 1, 1, 1).to(like)

    def normalize(self, latent: Tensor) -> Tensor:
        """(B, C, F, H, W) as the encoder computes it -> zero mean, unit deviation."""
        return (latent - self._column("mean-of-means", latent)) / self._column("std-of-means", latent)

    def denormalize(self, latent: Tensor) -> Tensor:
        """Inverse of `normalize`: what the decoder takes in."""
        return latent * self._column("std-of-means", latent) + self._column("mean-of-means", latent)
