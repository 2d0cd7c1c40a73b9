"""Text connectors: small transformers that turn a prompt's features into the text context of each stream.

Axes: B prompt (always 1), S text token, C channel, R learned register.

Real tokens are moved to the front, learned registers take the places of the padding, and from there every token is a
real one: the output has no mask. A prompt goes through alone; batching two changes the numbers.

Source: ltx_core.text_encoders.gemma.embeddings_connector and embeddings_processor 1.0.0.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from runners.errors import ShapeError
from runners.ltx23.attention import Attention
from runners.ltx23.feed_forward import FeedForward
from runners.ltx23.rotary import Rotary, rotary_table
from runners.ltx23.text_features import TextFeatures
from runners.ltx23.timestep import rms_norm
from runners.ltx23.transformer_config import ConnectorConfig, TextConnectorsConfig

NORM_EPS = 1e-6


class TextConnectors(nn.Module):
    """Hidden states of a prompt to the text context of both streams: features, then one connector for each stream."""

    CHECKPOINT_PREFIXES: ClassVar[dict[str, str]] = {
        "features.": "text_embedding_projection.",
        "video_connector.": "model.diffusion_model.video_embeddings_connector.",
        "audio_connector.": "model.diffusion_model.audio_embeddings_connector.",
    }

    def __init__(self, config: TextConnectorsConfig) -> None:
        super().__init__()
        self.features = TextFeatures(config)
        self.video_connector = Connector(config.video)
        self.audio_connector = Connector(config.audio)

    def forward(self, hidden_states: tuple[Tensor, ...], mask: Tensor) -> tuple[Tensor, Tensor]:
        """Text context of one prompt.

        Args:
            hidden_states: all hidden states of the language model, (1, S, its width) each.
            mask: (1, S) integers, 1 where a token is not padding.
        Returns: video (1, S, video width) and audio (1, S, audio width) context.
        Raises: ShapeError for more than one prompt, or S that is no multiple of the number of registers.
        """
        video, audio = self.features(hidden_states, mask)
        return self.video_connector(video, mask), self.audio_connector(audio, mask)


class Connector(nn.Module):
    """Transformer over text tokens and registers."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.config = config
        self.learnable_registers = nn.Parameter(torch.empty(config.num_registers, config.width))
        self.transformer_1d_blocks = nn.ModuleList([_ConnectorBlock(config) for _ in range(config.num_layers)])

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """(1, S, C) features and (1, S) mask, 1 where a token is not padding, to (1, S, C) context."""
        batch, tokens, _ = features.shape
        if batch != 1 or mask.shape != (1, tokens):
            raise ShapeError(
                f"A connector takes one prompt at a time, (1, S, C) features with a (1, S) mask; got "
                f"{tuple(features.shape)} and {tuple(mask.shape)}."
            )
        x = self.replace_padding(features, mask.bool()[0])
        positions = torch.arange(tokens, dtype=torch.float32, device=x.device)[None, None]  # (B, A, S)
        rotary = rotary_table(
            positions,
            width=self.config.width,
            heads=self.config.heads,
            max_positions=(self.config.max_position,),
            config=self.config.rotary,
            dtype=x.dtype,
        )
        # The additive mask (m - 1) finfo.max with every token real. Its zeros change nothing in exact arithmetic, but
        # attention with a mask runs another kernel than attention without one.
        additive_mask = torch.zeros(1, 1, 1, tokens, dtype=features.dtype, device=x.device)
        for block in self.transformer_1d_blocks:
            x = block(x, additive_mask, rotary)
        return rms_norm(x, NORM_EPS)

    def replace_padding(self, features: Tensor, is_real: Tensor) -> Tensor:
        """Real tokens first, then registers at the places that remain: (1, S, C), with is_real (S,)."""
        tokens, registers = features.shape[1], self.learnable_registers.shape[0]
        if tokens % registers:
            raise ShapeError(
                f"The prompt is padded to {tokens} tokens; wanted a multiple of the {registers} registers."
            )
        tiled = self.learnable_registers.tile(tokens // registers, 1)  # (R, C) -> (S, C)
        real = features[:, is_real]
        moved = nn.functional.pad(real, (0, 0, 0, tokens - real.shape[1]))
        # Left padding, turned around, marks the real tokens where they have moved to. A sum of products, not a choice,
        # to keep the reference's type promotion and signs of zero.
        keep = is_real.flip(0).int()[None, :, None]  # (1, S, 1)
        return keep * moved + (1 - keep) * tiled


class _ConnectorBlock(nn.Module):
    """Self-attention and feed-forward, each behind an RMS norm; no modulation."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.attn1 = Attention(
            query_width=config.width,
            context_width=config.width,
            heads=config.heads,
            head_width=config.head_width,
            norm_eps=NORM_EPS,
            gated=config.gated_attention,
        )
        self.ff = FeedForward(config.width)

    def forward(self, x: Tensor, mask: Tensor, rotary: Rotary) -> Tensor:
        normed = rms_norm(x, NORM_EPS)
        x = self.attn1(normed, normed, query_rotary=rotary, key_rotary=rotary, mask=mask) + x
        y: Tensor = self.ff(rms_norm(x, NORM_EPS)) + x
        return y
