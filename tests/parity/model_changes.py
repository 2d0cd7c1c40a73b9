"""Changes to native's parts that more than one test looks for, each wrong in one place."""

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from runners.ltx23.attention import Attention
from runners.ltx23.transformer import Skips, Transformer


def audio_positions_doubled() -> AbstractContextManager[Any]:
    """The audio stream's scale does not reach its cross-modal positions."""
    original = Transformer.rotary_tables

    def tables(self: Transformer, video: Tensor, audio: Tensor, dtype: torch.dtype) -> Any:
        right, wrong = original(self, video, audio, dtype), original(self, video, 2 * audio, dtype)
        return replace(right, audio=replace(right.audio, cross=wrong.audio.cross))

    return patch.object(Transformer, "rotary_tables", tables)


def perturbed_one_late() -> AbstractContextManager[Any]:
    """The perturbed pass perturbs the block after the one it was told to."""
    original = Skips.at
    return patch.object(Skips, "at", lambda self, block: original(self, block - 1) if block else original(self, 99))


def video_keys_not_normed(block: int) -> AbstractContextManager[Any]:
    """Keys of video's self-attention in one block get another epsilon in their norm."""
    original = Transformer.__init__

    def made(self: Transformer, *args: Any) -> None:
        original(self, *args)
        attention = self.transformer_blocks[block].attn1
        assert isinstance(attention, Attention)
        attention.k_norm.eps = 10.0

    return patch.object(Transformer, "__init__", made)
