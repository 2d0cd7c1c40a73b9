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
from runners.ltx23.shared_branches import NO_SHARED_BRANCHES, SharedBranches
from runners.ltx23.timestep import ShiftScaleGate, modulate, rms_norm, table_rows
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
    """The modulation of one stream by its noise level in every block, before each block adds its tables."""

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
    shared: SharedBranches = NO_SHARED_BRANCHES  # what the passes of the step have in common


@dataclass(frozen=True, kw_only=True)
class BlockSkips:
    """Branches that a guidance pass takes out of one block."""

    video_self_attention: bool = False  # replaced by its values
    audio_self_attention: bool = False  # replaced by its values
    a2v: bool = False  # left out
    v2a: bool = False  # left out


@dataclass(frozen=True, kw_only=True)
class StreamBranches:
    """One stream's own branches in one block: their layers and tables, and what the pass says of the stream."""

    name: str  # "video" or "audio"
    at: StreamConditions
    self_attention: Attention
    text_attention: Attention
    mlp: FeedForward
    table: Tensor  # (9, C)
    prompt_table: Tensor  # (2, C)
    cross_table: Tensor  # (5, C)
    norm_eps: float

    def attend_to_self(self, x: Tensor, values_only: bool) -> Tensor:
        """The stream after self-attention, which `values_only` replaces by its values."""
        mod, rotary = self.modulation(SELF_ATTENTION_ROWS), self.at.rotary.own

        def attended() -> Tensor:
            normed = self.normed(x, mod)
            output = self.self_attention(
                normed, normed, query_rotary=rotary, key_rotary=rotary, values_only=values_only
            )
            return self.add(x, "self_attn", output, mod.gate)

        given = self.at.modulation, rotary, values_only
        return self.at.shared.add(self.self_attention, x, given, f"{self.name}/self_attn", attended)

    def attend_to_text(self, x: Tensor) -> Tensor:
        """The stream after attention to its text context."""
        mod, context, modulation = self.modulation(TEXT_ATTENTION_ROWS), self.at.context, self.at.modulation
        shift, scale = table_rows(self.prompt_table, modulation.prompt, slice(0, PROMPT_ROWS))

        def keys_values() -> tuple[Tensor, Tensor]:
            return self.text_attention.keys_values(modulate(context, scale, shift))

        def attended() -> Tensor:
            of_text = self.at.shared.of_text(self.text_attention, context, modulation, keys_values)
            output = self.text_attention(self.normed(x, mod), context, keys_values=of_text)
            return self.add(x, "text_attn", output, mod.gate)

        return self.at.shared.add(self.text_attention, x, (modulation, context), f"{self.name}/text_attn", attended)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The stream after the feed-forward branch."""
        mod = self.modulation(FEED_FORWARD_ROWS)
        return self.add(x, "ff", self.mlp(self.normed(x, mod)), mod.gate)

    def modulation(self, rows: slice) -> ShiftScaleGate:
        """Shift, scale and gate of one branch."""
        return ShiftScaleGate(*table_rows(self.table, self.at.modulation.block, rows))

    def normed(self, x: Tensor, mod: ShiftScaleGate) -> Tensor:
        """The stream as a branch takes it: RMS-normalised, scaled, shifted."""
        return modulate(rms_norm(x, self.norm_eps), mod.scale, mod.shift)

    def across(self, normed: Tensor, rows: slice) -> Tensor:
        """The normalised stream as one direction of the attention between the streams takes it."""
        table = self.cross_table[:CROSS_SCALE_SHIFT_ROWS]
        scale, shift = table_rows(table, self.at.modulation.cross_scale_shift, rows)
        return modulate(normed, scale, shift)

    @property
    def cross_gate(self) -> Tensor:
        """(B, 1, C) gate of what the stream takes from the other one."""
        table = self.cross_table[CROSS_SCALE_SHIFT_ROWS:]
        (gate,) = table_rows(table, self.at.modulation.cross_gate, slice(0, CROSS_GATE_ROWS))
        return gate

    def add(self, x: Tensor, branch: str, output: Tensor, gate: Tensor) -> Tensor:
        """The stream with a branch's output, which is tapped, added through its gate."""
        if tapping():
            tap(f"{self.name}/{branch}", output)
        return x + output * gate


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
        of_video, of_audio = self.branches(at_video, at_audio)
        if at_video.enabled:
            video = of_video.attend_to_self(video, skips.video_self_attention)
            video = of_video.attend_to_text(video)
        if at_audio.enabled:
            audio = of_audio.attend_to_self(audio, skips.audio_self_attention)
            audio = of_audio.attend_to_text(audio)

        video, audio = self._attend_to_each_other(video, audio, of_video, of_audio, skips)

        if at_video.enabled:
            video = of_video.feed_forward(video)
        if at_audio.enabled:
            audio = of_audio.feed_forward(audio)
        if tapping():
            tap("video/out", video)
            tap("audio/out", audio)
        return video, audio

    def _attend_to_each_other(
        self, video: Tensor, audio: Tensor, of_video: StreamBranches, of_audio: StreamBranches, skips: BlockSkips
    ) -> tuple[Tensor, Tensor]:
        a2v, v2a = of_video.at.enabled and not skips.a2v, of_audio.at.enabled and not skips.v2a
        if not (a2v or v2a):
            return video, audio
        video_rotary, audio_rotary = of_video.at.rotary.cross, of_audio.at.rotary.cross
        # Both directions read the streams as they are here: V2A does not see what A2V adds.
        video_normed, audio_normed = rms_norm(video, self.norm_eps), rms_norm(audio, self.norm_eps)
        if a2v:
            queries, context = of_video.across(video_normed, A2V_ROWS), of_audio.across(audio_normed, A2V_ROWS)
            attended = self.audio_to_video_attn(queries, context, query_rotary=video_rotary, key_rotary=audio_rotary)
            video = of_video.add(video, "av_attn", attended, of_video.cross_gate)
        if v2a:
            queries, context = of_audio.across(audio_normed, V2A_ROWS), of_video.across(video_normed, V2A_ROWS)
            attended = self.video_to_audio_attn(queries, context, query_rotary=audio_rotary, key_rotary=video_rotary)
            audio = of_audio.add(audio, "av_attn", attended, of_audio.cross_gate)
        return video, audio

    def branches(self, at_video: StreamConditions, at_audio: StreamConditions) -> tuple[StreamBranches, StreamBranches]:
        """Video's and audio's own branches in one pass."""
        video = StreamBranches(
            name="video",
            at=at_video,
            self_attention=self.attn1,
            text_attention=self.attn2,
            mlp=self.ff,
            table=self.scale_shift_table,
            prompt_table=self.prompt_scale_shift_table,
            cross_table=self.scale_shift_table_a2v_ca_video,
            norm_eps=self.norm_eps,
        )
        audio = StreamBranches(
            name="audio",
            at=at_audio,
            self_attention=self.audio_attn1,
            text_attention=self.audio_attn2,
            mlp=self.audio_ff,
            table=self.audio_scale_shift_table,
            prompt_table=self.audio_prompt_scale_shift_table,
            cross_table=self.scale_shift_table_a2v_ca_audio,
            norm_eps=self.norm_eps,
        )
        return video, audio
