"""From the hidden states of the language model to one feature per token for video and one for audio.

Axes: B prompt, S text token, D channel of the language model, L hidden state (its embedding and each of its layers).

Each token's hidden states are RMS-normalised one by one, laid side by side, and projected twice. Padding becomes zero
before the projection (and the projection's bias after it).

Source: ltx_core.text_encoders.gemma.feature_extractor 1.0.0, `FeatureExtractorV2`.
"""

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from runners.errors import ShapeError
from runners.ltx23.transformer_config import TextConnectorsConfig

EPS = 1e-6


class TextFeatures(nn.Module):
    """All hidden states of a prompt to features as wide as the two streams."""

    def __init__(self, config: TextConnectorsConfig) -> None:
        super().__init__()
        self.config = config
        flat_width = config.hidden_width * config.num_hidden_states
        self.video_aggregate_embed = nn.Linear(flat_width, config.video.width)
        self.audio_aggregate_embed = nn.Linear(flat_width, config.audio.width)

    def forward(self, hidden_states: tuple[Tensor, ...], mask: Tensor) -> tuple[Tensor, Tensor]:
        """Features of each token.

        Args:
            hidden_states: L tensors (B, S, D).
            mask: (B, S), nonzero where a token is not padding.
        Returns: video (B, S, video width) and audio (B, S, audio width) features.
        Raises: ShapeError if their number or width is not the configured one.
        """
        if {state.shape[-1] for state in hidden_states} != {self.config.hidden_width} or (
            len(hidden_states) != self.config.num_hidden_states
        ):
            raise ShapeError(
                f"Wanted {self.config.num_hidden_states} hidden states of {self.config.hidden_width} channels; got "
                f"{len(hidden_states)} of {sorted({state.shape[-1] for state in hidden_states})}. Is this the language "
                "model the checkpoint was trained with?"
            )
        stacked = torch.stack(hidden_states, dim=-1)  # (B, S, D, L)
        mean_square = torch.mean(stacked**2, dim=2, keepdim=True)  # (B, S, 1, L)
        normed = rearrange(stacked * torch.rsqrt(mean_square + EPS), "b s d l -> b s (d l)")
        normed = torch.where(mask.bool().unsqueeze(-1), normed, torch.zeros_like(normed))
        return self.project(normed, self.video_aggregate_embed), self.project(normed, self.audio_aggregate_embed)

    def project(self, normed: Tensor, projection: nn.Linear) -> Tensor:
        """(B, S, D L) to one stream's (B, S, C), of the same expected size for every language model and stream."""
        projected: Tensor = projection(normed * math.sqrt(projection.out_features / self.config.hidden_width))
        return projected
