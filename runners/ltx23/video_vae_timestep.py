"""Timestep embedding of a video decoder that denoises while it decodes: sinusoids, then a two-layer network.

Axes: B clip, E embedding width.
Source: ltx_core.model.transformer.timestep_embedding (PixArtAlphaCombinedTimestepSizeEmbeddings) 1.0.0.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runners.ltx23.timestep import SINUSOID_WIDTH, sinusoidal_embedding


class TimestepEmbedder(nn.Module):
    """Sinusoids in float32, rounded to the model's dtype, through linear, SiLU, linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.timestep_embedder = nn.ModuleDict(
            {"linear_1": nn.Linear(SINUSOID_WIDTH, width), "linear_2": nn.Linear(width, width)}
        )

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """(B,) scaled timesteps -> (B, E) in `dtype`."""
        hidden = self.timestep_embedder["linear_1"](sinusoidal_embedding(timestep).to(dtype))
        embedding: Tensor = self.timestep_embedder["linear_2"](F.silu(hidden))
        return embedding
