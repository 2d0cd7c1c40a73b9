"""One block of the audio-video transformer: two streams of tokens that look at themselves, the text and each other.

Axes: B sample, T token of the own stream, S text token, C channel of the own stream. Video and audio have their own
T and C throughout.

In each block, each stream goes through self-attention, text attention, attention to the other stream (A2V: video asks
audio; V2A: audio asks video) and a feed-forward branch. Every branch sees its input RMS-normalised, scaled and
shifted, and is added back through a gate; rows of modulation from the noise level say by how much.

Source: ltx_core.model.transformer.transformer and ltx_core.guidance.perturbations 1.0.0.

Taps, under the caller's scope: `{video,audio}/{self_attn,text_attn,av_attn,ff}`, outputs of those modules before their
gate of modulation, where they ran, and `{video,audio}/out`, the stream after the block, always.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from runners.ltx23.attention import Attention
from runners.ltx23.feed_forward import FeedForward
from runners.ltx23.rotary import Rotary
from runners.ltx23.timestep import modulate, rms_norm, table_rows
from runners.ltx23.transformer_config import TransformerConfig
from runners.tap import tap, tapping

# Rows of a stream's table and modulation: (shift, scale, gate) for each branch.
BLOCK_ROWS: Final = 9
SELF_ATTENTION_ROWS: Final = slice(0, 3)
FEED_FORWARD_ROWS: Final = slice(3, 6)
TEXT_ATTENTION_ROWS: Final = slice(6, 9)
# Rows of the text context's own table: shift, scale.
PROMPT_ROWS: Final = 2
# Rows of a stream's cross-modal table: (scale, shift) for A2V and for V2A, then the gate of the branch it receives.
CROSS_SCALE_SHIFT_ROWS: Final = 4
CROSS_GATE_ROWS: Final = 1
A2V_ROWS: Final = slice(0, 2)
V2A_ROWS: Final = slice(2, 4)


@dataclass(frozen=True, kw_only=True)
class StreamModulation:
    """What one stream's noise level does to it in every block, before each block adds its tables."""

    block: Tensor  # (B, T or 1, 9 C)
    prompt: Tensor  # (B, 1, 2 C), for the text context
    cross_scale_shift: Tensor  # (B, 1, 4 C); (B, T or 1, 4 C) where it is per token
    cross_gate: Tensor  # (B, 1, C)
    embedding: Tensor  # (B, T or 1, C), for the output head


@dataclass(frozen=True, kw_only=True)
class StreamRotary:
    """Rotary tables of one stream's tokens."""

    own: Rotary  # in self-attention
    cross: Rotary  # in the attention between the streams: time only, as wide as audio


@dataclass(frozen=True, kw_only=True)
class StreamConditions:
    """Everything that a block needs to know of one stream besides its tokens; the same for all blocks of a pass."""

    context: Tensor  # (B, S, C)
    modulation: StreamModulation
    rotary: StreamRotary
    enabled: bool  # a disabled stream is left as it is, but the other one still sees it


@dataclass(frozen=True, kw_only=True)
class BlockSkips:
    """Branches that a guidance pass takes out of one block."""

    video_self_attention: bool = False  # replaced by its values
    audio_self_attention: bool = False  # replaced by its values
    a2v: bool = False  # left out
    v2a: bool = False  # left out


class AudioVideoBlock(nn.Module):
    """See the module. Parameters of video have no prefix, those of audio `audio_`, as in the checkpoint."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        video, audio = config.video, config.audio
        self.norm_eps = config.norm_eps

        def attention(query_width: int, context_width: int, heads: int, head_width: int) -> Attention:
            return Attention(
                query_width=query_width,
                context_width=context_width,
                heads=heads,
                head_width=head_width,
                norm_eps=config.norm_eps,
                gated=config.gated_attention,
            )

        self.attn1 = attention(video.width, video.width, video.heads, video.head_width)
        self.attn2 = attention(video.width, video.width, video.heads, video.head_width)
        self.ff = FeedForward(video.width)
        self.scale_shift_table = nn.Parameter(torch.empty(BLOCK_ROWS, video.width))
        self.prompt_scale_shift_table = nn.Parameter(torch.empty(PROMPT_ROWS, video.width))

        self.audio_attn1 = attention(audio.width, audio.width, audio.heads, audio.head_width)
        self.audio_attn2 = attention(audio.width, audio.width, audio.heads, audio.head_width)
        self.audio_ff = FeedForward(audio.width)
        self.audio_scale_shift_table = nn.Parameter(torch.empty(BLOCK_ROWS, audio.width))
        self.audio_prompt_scale_shift_table = nn.Parameter(torch.empty(PROMPT_ROWS, audio.width))

        # Both cross-modal attentions have audio's heads. The last word of a table's name is the stream it modulates,
        # in both directions; the "a2v" in it says nothing.
        self.audio_to_video_attn = attention(video.width, audio.width, audio.heads, audio.head_width)
        self.video_to_audio_attn = attention(audio.width, video.width, audio.heads, audio.head_width)
        cross_rows = CROSS_SCALE_SHIFT_ROWS + CROSS_GATE_ROWS
        self.scale_shift_table_a2v_ca_video = nn.Parameter(torch.empty(cross_rows, video.width))
        self.scale_shift_table_a2v_ca_audio = nn.Parameter(torch.empty(cross_rows, audio.width))

    def forward(
        self, video: Tensor, audio: Tensor, at_video: StreamConditions, at_audio: StreamConditions, skips: BlockSkips
    ) -> tuple[Tensor, Tensor]:
        """(B, T, C) video and audio streams before the block to those after it."""
        if at_video.enabled:
            video = self._attend_to_self(
                video, at_video, self.attn1, self.scale_shift_table, skips.video_self_attention, "video"
            )
            video = self._attend_to_text(
                video, at_video, self.attn2, self.scale_shift_table, self.prompt_scale_shift_table, "video"
            )
        if at_audio.enabled:
            audio = self._attend_to_self(
                audio, at_audio, self.audio_attn1, self.audio_scale_shift_table, skips.audio_self_attention, "audio"
            )
            audio = self._attend_to_text(
                audio,
                at_audio,
                self.audio_attn2,
                self.audio_scale_shift_table,
                self.audio_prompt_scale_shift_table,
                "audio",
            )

        video, audio = self._attend_to_each_other(video, audio, at_video, at_audio, skips)

        if at_video.enabled:
            video = self._feed_forward(video, at_video, self.ff, self.scale_shift_table, "video")
        if at_audio.enabled:
            audio = self._feed_forward(audio, at_audio, self.audio_ff, self.audio_scale_shift_table, "audio")
        if tapping():
            tap("video/out", video)
            tap("audio/out", audio)
        return video, audio

    def _attend_to_self(
        self, x: Tensor, at: StreamConditions, attention: Attention, table: Tensor, values_only: bool, stream: str
    ) -> Tensor:
        shift, scale, gate = table_rows(table, at.modulation.block, SELF_ATTENTION_ROWS)
        normed = modulate(rms_norm(x, self.norm_eps), scale, shift)
        attended: Tensor = attention(
            normed, normed, query_rotary=at.rotary.own, key_rotary=at.rotary.own, values_only=values_only
        )
        if tapping():
            tap(f"{stream}/self_attn", attended)
        return x + attended * gate

    def _attend_to_text(
        self, x: Tensor, at: StreamConditions, attention: Attention, table: Tensor, prompt_table: Tensor, stream: str
    ) -> Tensor:
        shift, scale, gate = table_rows(table, at.modulation.block, TEXT_ATTENTION_ROWS)
        context_shift, context_scale = table_rows(prompt_table, at.modulation.prompt, slice(0, PROMPT_ROWS))
        normed = modulate(rms_norm(x, self.norm_eps), scale, shift)
        attended: Tensor = attention(normed, modulate(at.context, context_scale, context_shift))
        if tapping():
            tap(f"{stream}/text_attn", attended)
        return x + attended * gate

    def _attend_to_each_other(
        self, video: Tensor, audio: Tensor, at_video: StreamConditions, at_audio: StreamConditions, skips: BlockSkips
    ) -> tuple[Tensor, Tensor]:
        a2v, v2a = at_video.enabled and not skips.a2v, at_audio.enabled and not skips.v2a
        if not (a2v or v2a):
            return video, audio
        # Both directions read the streams as they are here: V2A does not see what A2V adds.
        video_normed, audio_normed = rms_norm(video, self.norm_eps), rms_norm(audio, self.norm_eps)
        video_table, audio_table = self.scale_shift_table_a2v_ca_video, self.scale_shift_table_a2v_ca_audio
        if a2v:
            attended = self.audio_to_video_attn(
                _modulate_across(video_normed, at_video, video_table, A2V_ROWS),
                _modulate_across(audio_normed, at_audio, audio_table, A2V_ROWS),
                query_rotary=at_video.rotary.cross,
                key_rotary=at_audio.rotary.cross,
            )
            if tapping():
                tap("video/av_attn", attended)
            video = video + attended * _gate_across(at_video, video_table)
        if v2a:
            attended = self.video_to_audio_attn(
                _modulate_across(audio_normed, at_audio, audio_table, V2A_ROWS),
                _modulate_across(video_normed, at_video, video_table, V2A_ROWS),
                query_rotary=at_audio.rotary.cross,
                key_rotary=at_video.rotary.cross,
            )
            if tapping():
                tap("audio/av_attn", attended)
            audio = audio + attended * _gate_across(at_audio, audio_table)
        return video, audio

    def _feed_forward(
        self, x: Tensor, at: StreamConditions, feed_forward: FeedForward, table: Tensor, stream: str
    ) -> Tensor:
        shift, scale, gate = table_rows(table, at.modulation.block, FEED_FORWARD_ROWS)
        y: Tensor = feed_forward(modulate(rms_norm(x, self.norm_eps), scale, shift))
        if tapping():
            tap(f"{stream}/ff", y)
        return x + y * gate


def _modulate_across(normed: Tensor, at: StreamConditions, table: Tensor, rows: slice) -> Tensor:
    scale, shift = table_rows(table[:CROSS_SCALE_SHIFT_ROWS], at.modulation.cross_scale_shift, rows)
    return modulate(normed, scale, shift)


def _gate_across(at: StreamConditions, table: Tensor) -> Tensor:
    (gate,) = table_rows(table[CROSS_SCALE_SHIFT_ROWS:], at.modulation.cross_gate, slice(0, CROSS_GATE_ROWS))
    return gate
