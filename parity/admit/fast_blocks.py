"""Blocks of native's faster tiers by themselves: one lane, fed what an official block got.

These tiers compute all passes of a step together, and a stream travels with the input of its next branch
(`runners.ltx23.fast`). Here a block has one lane with one pass; its modulation has a level for each token, as the
official one has, and the input of its first branch is made by the tier's own operation.

Axes: L lane (one), T token, C channel, U noise level, K block, R row.
"""

from einops import rearrange, repeat
from torch import Tensor, nn

from parity.isolate.block import OfficialBlock
from runners.ltx23.block import CROSS_SCALE_SHIFT_ROWS, SELF_ATTENTION_ROWS, AudioVideoBlock, BlockSkips
from runners.ltx23.block import StreamConditions as Conditions
from runners.ltx23.fast.block import BlockLanes, FastBlock, LaneStream, StreamStep
from runners.ltx23.fast.fp8_choice import choice_of_tier
from runners.ltx23.fast.fused import Prepare, TokenRotary, norm_modulate
from runners.ltx23.fast.lanes import Lane
from runners.ltx23.fast.products import maker
from runners.ltx23.fast.side_stream import SideStream
from runners.ltx23.passes import GuidancePass
from runners.ltx23.transformer import Skips
from runners.protocol import Tier
from runners.tap import listener, listening


class FastBlocks:
    """Runs blocks of a tier; each is made when it is first asked for. Satisfies `parity.admit.operations.RunBlock`."""

    def __init__(self, tier: Tier) -> None:
        self._choice = choice_of_tier(tier)
        self._made: dict[int, FastBlock] = {}

    def __call__(self, ours: nn.Module, official: OfficialBlock, skips: BlockSkips) -> None:
        """Run one; its branches and both streams after it are tapped as native's are."""
        assert isinstance(ours, AudioVideoBlock)
        index = official.index
        if index not in self._made:
            self._made[index] = FastBlock(ours, maker(self._choice.of_block(index), keep=True))
        video, audio, at_video, at_audio = official.in_native_terms()
        both = skips.a2v and skips.v2a
        one = GuidancePass(
            name="",
            skips=Skips(
                video_self_attention=frozenset({index} if skips.video_self_attention else ()),
                audio_self_attention=frozenset({index} if skips.audio_self_attention else ()),
                a2v=both,
                v2a=both,
            ),
        )
        lanes = BlockLanes(block=index, lanes=(Lane((one,)),), seeing=0 if both else 1)
        step_video = _step(ours, "video", at_video, index, looks=not skips.a2v)
        step_audio = _step(ours, "audio", at_audio, index, looks=not skips.v2a)
        outer, head = listener(), f"/block/{index:02d}/"
        assert outer is not None

        def heard(name: str, tensor: Tensor) -> None:
            outer(f"{official.head}/{name.rpartition(head)[2]}", tensor)

        with listening(heard):
            self._made[index].forward(
                _stream(video, step_video, index, ours.norm_eps),
                _stream(audio, step_audio, index, ours.norm_eps),
                step_video,
                step_audio,
                lanes,
                SideStream(video.device),
            )


def _stream(x: Tensor, at: StreamStep, block: int, eps: float) -> LaneStream:
    lane = x.float().contiguous()
    first = Prepare(rows=at.rows(block, SELF_ATTENTION_ROWS), row=at.row, out=x.new_empty(x.shape))
    return LaneStream(x=lane, prepared=norm_modulate(lane, first, eps))


def _step(block: AudioVideoBlock, name: str, at: Conditions, index: int, *, looks: bool) -> StreamStep:
    """Conditions of a stream for the block; tables end at the block, so that nothing is prepared for a next one."""
    prefix = "" if name == "video" else "audio_"
    modulation, tokens = at.modulation, at.rotary.own.cos.shape[-2]

    def table(parameter: str) -> Tensor:
        return block.get_parameter(parameter).float()[:, None]  # (R, 1, C)

    def upto(rows: Tensor) -> Tensor:
        return repeat(rows, "r u c -> k r u c", k=index + 1)  # a view

    crossing = table(f"scale_shift_table_a2v_ca_{name}")
    width = crossing.shape[-1]
    own = table(f"{prefix}scale_shift_table") + _by_row(modulation.block, width)
    cross = crossing[:CROSS_SCALE_SHIFT_ROWS] + _by_row(modulation.cross_scale_shift, width)
    zeros = own.new_zeros(tokens).int()
    each = own.new_ones(tokens).cumsum(0).int() - 1
    return StreamStep(
        row=each if own.shape[1] > 1 else zeros,
        cross_row=each if cross.shape[1] > 1 else zeros,
        only_row=zeros,
        own=upto(own),
        cross=upto(cross),
        cross_gate=upto(crossing[CROSS_SCALE_SHIFT_ROWS:] + _by_row(modulation.cross_gate, width))[:, 0],
        text=at.context,
        text_row=at.context.new_zeros(at.context.shape[1]).int(),
        text_modulation=upto(table(f"{prefix}prompt_scale_shift_table") + _by_row(modulation.prompt, width)),
        rotary=TokenRotary.of(at.rotary.own),
        cross_rotary=TokenRotary.of(at.rotary.cross),
        enabled=at.enabled,
        looks=looks,
    )


def _by_row(modulation: Tensor, width: int) -> Tensor:
    """(1, U, R C) modulation as (R, U, C) fp32, contiguous."""
    return rearrange(modulation[0].float(), "u (r c) -> r u c", c=width).contiguous()
