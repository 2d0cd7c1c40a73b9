"""One block over all lanes: `runners.ltx23.block` with the operations between its products fused.

A stream travels with the input of its next branch: adding a branch's output prepares the branch after it, so the stream
is read and written once for each branch.

Axes: L lane, M leading lane that sees the other modality, T token of the own stream, S text token, C channel of the
own stream, U distinct noise level, K block.

Taps are those of `runners.ltx23.block`, under every pass that a lane stands for.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from runners.ltx23.attention import Attention
from runners.ltx23.block import (
    A2V_ROWS,
    FEED_FORWARD_ROWS,
    SELF_ATTENTION_ROWS,
    TEXT_ATTENTION_ROWS,
    V2A_ROWS,
    AudioVideoBlock,
)
from runners.ltx23.fast.attention import CrossAttention, SelfAttention
from runners.ltx23.fast.fp8 import Fp8Product
from runners.ltx23.fast.fused import Prepare, Rows, TokenRotary, add_branch_, modulate, norm_modulate
from runners.ltx23.fast.lanes import Lane, lanes_of
from runners.ltx23.fast.products import Make, linear_of
from runners.ltx23.fast.side_stream import SideStream
from runners.ltx23.feed_forward import FeedForward
from runners.tap import tap, tapping


@dataclass(frozen=True, kw_only=True)
class BlockLanes:
    """The lanes of one block."""

    block: int
    lanes: tuple[Lane, ...]
    seeing: int  # M: leading lanes whose streams look at each other

    @property
    def prompts(self) -> list[int]:
        """For each lane the number of its prompt; the negative one is the last."""
        return [int(lane.passes[0].negative_prompt) for lane in self.lanes]

    def offer(self, name: str, tensor: Tensor) -> None:
        """Tap the lanes of (L or M, T, C) under every pass that they stand for."""
        if tapping():
            for row, lane in enumerate(self.lanes[: len(tensor)]):  # M are the first of L
                for one in lane.passes:
                    tap(f"{one.name}/block/{self.block:02d}/{name}", tensor[row : row + 1])

    def values_only(self, stream: str) -> list[bool]:
        """For each lane whether values replace the stream's self-attention."""
        skips = [lane.passes[0].skips.at(self.block) for lane in self.lanes]
        return [one.video_self_attention if stream == "video" else one.audio_self_attention for one in skips]


@dataclass(frozen=True, kw_only=True)
class StreamStep:
    """Conditions of one stream in a step, as every block needs them."""

    row: Tensor  # (T,) int32 noise level of each token
    cross_row: Tensor  # (T,) int32, likewise for the scale and shift of the attention between the streams
    only_row: Tensor  # (T,) int32 zeros: one level for all
    own: Tensor  # (K, 9, U, C) fp32: shift, scale and gate of self-attention, feed-forward and text attention
    cross: Tensor  # (K, 4, U or 1, C) fp32: scale and shift of A2V and of V2A
    cross_gate: Tensor  # (K, 1, C) fp32
    text: Tensor  # (prompts, S, C)
    text_row: Tensor  # (S,) int32 zeros
    text_modulation: Tensor  # (K, 2, 1, C) fp32: shift and scale of the text
    rotary: TokenRotary
    cross_rotary: TokenRotary
    enabled: bool  # a disabled stream is left as it is, but the other one still sees it
    looks: bool  # it takes from the other stream, in lanes that see it

    def rows(self, block: int, branch: slice) -> Rows:
        """Scale and shift of one of the stream's own branches."""
        shift, scale, _ = self.own[block, branch].unbind()
        return Rows(scale, shift)

    def gate(self, block: int, branch: slice) -> Tensor:
        """(U, C) gate of such a branch."""
        return self.own[block, branch][2]

    def cross_rows(self, block: int, direction: slice) -> Rows:
        """Scale and shift of one direction of the attention between the streams."""
        scale, shift = self.cross[block, direction].unbind()
        return Rows(scale, shift)


@dataclass(kw_only=True)
class LaneStream:
    """One stream of all lanes on its way through the blocks; its tensors are written again and again.

    Until the first attention to text, where the passes begin to differ, one lane may stand for all.
    """

    x: Tensor  # (L, T, C) the stream, in fp32: bf16 would lose more here than everywhere else together
    prepared: Tensor  # (L, T, C) the input of the branch that comes next, in the model's dtype
    asking: Tensor | None = None  # (M, T, C) as it looks at the other stream
    asked: Tensor | None = None  # (M, T, C) as the other stream looks at it

    def spread(self, lanes: int) -> None:
        """Put copies of the one lane that there is in place of all."""
        if len(self.x) < lanes:
            self.x, self.prepared = self.x.repeat(lanes, 1, 1), self.prepared.repeat(lanes, 1, 1)


class StreamBlock:
    """One stream's part of one block."""

    def __init__(
        self,
        name: str,
        self_attention: Attention,
        text_attention: Attention,
        look: Attention,
        mlp: FeedForward,
        eps: float,
        make: Make,
    ) -> None:
        self.name, self.eps = name, eps
        self.asking_rows, self.asked_rows = (A2V_ROWS, V2A_ROWS) if name == "video" else (V2A_ROWS, A2V_ROWS)
        self.self_attention = SelfAttention(self_attention, f"{name}/self", make)
        self.text_attention = CrossAttention(text_attention, f"{name}/text", make)
        self.cross_attention = CrossAttention(look, f"{name}/cross", make)
        self.ff = FeedForwardProducts(mlp, f"{name}/ff", make)

    def attend(self, stream: LaneStream, at: StreamStep, lanes: BlockLanes) -> None:
        """Self-attention and attention to text, where the stream is enabled; prepares what comes after."""
        block, seeing = lanes.block, lanes.seeing
        asked = at.cross_rows(block, self.asked_rows)
        if not at.enabled:
            stream.spread(len(lanes.lanes))
            if seeing:
                stream.asked = torch.empty_like(stream.prepared[:seeing])
                norm_modulate(stream.x[:seeing], Prepare(rows=asked, row=at.cross_row, out=stream.asked), self.eps)
            return
        values_only = lanes.values_only(self.name)[: len(stream.x)]
        attended = self.self_attention(stream.prepared, at.rotary, values_only)
        if len(stream.x) < len(lanes.lanes):
            attended = attended.repeat(len(lanes.lanes), 1, 1)
            stream.spread(len(lanes.lanes))
        x = stream.x
        lanes.offer(f"{self.name}/self_attn", attended)
        text = Prepare(rows=at.rows(block, TEXT_ATTENTION_ROWS), row=at.row, out=stream.prepared)
        add_branch_(x, attended, at.gate(block, SELF_ATTENTION_ROWS), at.row, (text,), self.eps)

        shift, scale = at.text_modulation[block].unbind()
        text_context = Prepare(rows=Rows(scale, shift), row=at.text_row, out=torch.empty_like(at.text))
        keys_values = self.text_attention.keys_values(modulate(at.text, text_context), None)
        attended = self.text_attention(stream.prepared, lanes_of(keys_values, lanes.prompts), None)
        lanes.offer(f"{self.name}/text_attn", attended)
        gate = at.gate(block, TEXT_ATTENTION_ROWS)
        if seeing:
            stream.asking, stream.asked = (torch.empty_like(stream.prepared[:seeing]) for _ in range(2))
            asking = at.cross_rows(block, self.asking_rows)
            across = (
                Prepare(rows=asking, row=at.cross_row, out=stream.asking),
                Prepare(rows=asked, row=at.cross_row, out=stream.asked),
            )
            add_branch_(x[:seeing], attended[:seeing], gate, at.row, across, self.eps)
        if seeing < len(x):
            alone = self._ahead(at, block, stream.prepared[seeing:])
            add_branch_(x[seeing:], attended[seeing:], gate, at.row, (alone,), self.eps)

    def go_on(
        self, stream: LaneStream, at: StreamStep, other: LaneStream, at_other: StreamStep, lanes: BlockLanes
    ) -> None:
        """Attention to the other stream and feed-forward, once both have attended, where the stream is enabled."""
        if not at.enabled:
            return
        if lanes.seeing and at.looks:
            self.look_at(stream, at, other, at_other, lanes)
        elif lanes.seeing:
            self.look_away(stream, at, lanes)
        self.feed_forward(stream, at, lanes)

    def look_at(
        self, stream: LaneStream, at: StreamStep, other: LaneStream, at_other: StreamStep, lanes: BlockLanes
    ) -> None:
        """Attention of the leading lanes to the other stream, as it was before either looked."""
        block, seeing = lanes.block, lanes.seeing
        assert stream.asking is not None and other.asked is not None
        keys_values = self.cross_attention.keys_values(other.asked, at_other.cross_rotary)
        attended = self.cross_attention(stream.asking, keys_values, at.cross_rotary)
        lanes.offer(f"{self.name}/av_attn", attended)
        ahead = self._ahead(at, block, stream.prepared[:seeing])
        add_branch_(stream.x[:seeing], attended, at.cross_gate[block], at.only_row, (ahead,), self.eps)

    def look_away(self, stream: LaneStream, at: StreamStep, lanes: BlockLanes) -> None:
        """Prepare the leading lanes' feed-forward branch where nobody looks."""
        front = slice(0, lanes.seeing)
        norm_modulate(stream.x[front], self._ahead(at, lanes.block, stream.prepared[front]), self.eps)

    def feed_forward(self, stream: LaneStream, at: StreamStep, lanes: BlockLanes) -> None:
        """The feed-forward branch; prepares the next block's self-attention."""
        output = self.ff(stream.prepared)
        lanes.offer(f"{self.name}/ff", output)
        block = lanes.block
        following: tuple[Prepare, ...] = ()
        if block + 1 < len(at.own):
            following = (Prepare(rows=at.rows(block + 1, SELF_ATTENTION_ROWS), row=at.row, out=stream.prepared),)
        add_branch_(stream.x, output, at.gate(block, FEED_FORWARD_ROWS), at.row, following, self.eps)

    def _ahead(self, at: StreamStep, block: int, out: Tensor) -> Prepare:
        return Prepare(rows=at.rows(block, FEED_FORWARD_ROWS), row=at.row, out=out)


class FeedForwardProducts:
    """The feed-forward branch: widen, GELU, narrow."""

    def __init__(self, mlp: FeedForward, name: str, make: Make) -> None:
        self._widen = make(f"{name}/widen", [linear_of(mlp, "net.0.proj")])
        self._narrow = make(f"{name}/narrow", [linear_of(mlp, "net.2")])

    def __call__(self, x: Tensor) -> Tensor:
        """(L, T, C) -> (L, T, C)."""
        if isinstance(self._widen, Fp8Product) and isinstance(self._narrow, Fp8Product):
            return self._narrow.of_gelu(self._widen(x))  # GELU on the way to fp8: the wide tensor is read once
        return self._narrow(self._widen.gelu(x))


class FastBlock:
    """A block of the model as the fast tier computes it."""

    def __init__(self, block: AudioVideoBlock, make: Make) -> None:
        eps = block.norm_eps
        self.video = StreamBlock("video", block.attn1, block.attn2, block.audio_to_video_attn, block.ff, eps, make)
        self.audio = StreamBlock(
            "audio", block.audio_attn1, block.audio_attn2, block.video_to_audio_attn, block.audio_ff, eps, make
        )

    def forward(
        self,
        video: LaneStream,
        audio: LaneStream,
        at_video: StreamStep,
        at_audio: StreamStep,
        lanes: BlockLanes,
        side: SideStream,
    ) -> None:
        """Both streams of all lanes through the block, in place; audio on the side stream."""
        with side.beside():
            self.audio.attend(audio, at_audio, lanes)
        self.video.attend(video, at_video, lanes)
        side.join()
        with side.beside():
            self.audio.go_on(audio, at_audio, video, at_video, lanes)
        self.video.go_on(video, at_video, audio, at_audio, lanes)
        side.join()
        if tapping():
            lanes.offer("video/out", video.x.to(video.prepared.dtype))
            lanes.offer("audio/out", audio.x.to(audio.prepared.dtype))
