"""Branches of one stream, worked by hand; the whole block is held to the official bits in test_transformer.py.

Axes: B sample, T token, C channel.
"""

from typing import Any

import torch
from torch import Tensor

from runners.ltx23.block import (
    A2V_ROWS,
    SELF_ATTENTION_ROWS,
    V2A_ROWS,
    StreamBranches,
    StreamConditions,
    StreamModulation,
)
from runners.tap import listening

C = 4


def rows_of(count: int, first: float) -> Tensor:
    """(count, C) rows that hold first, first + 1, ..."""
    return (first + torch.arange(count)[:, None]).expand(count, C).clone()


def video_branches() -> StreamBranches:
    """Rows of the block's table hold 0 to 8 and of the cross-modal one 20 to 24; the noise level adds nothing."""
    zero: Any = torch.zeros
    modulation = StreamModulation(
        block=zero(1, 1, 9 * C),
        prompt=zero(1, 1, 2 * C),
        cross_scale_shift=zero(1, 1, 4 * C),
        cross_gate=zero(1, 1, C),
        embedding=zero(1, 1, C),
    )
    unused: Any = None
    plain: Any = lambda x: x  # noqa: E731 - a layer that does nothing
    return StreamBranches(
        name="video",
        at=StreamConditions(context=zero(1, 5, C), modulation=modulation, rotary=unused, enabled=True),
        self_attention=unused,
        text_attention=unused,
        mlp=plain,
        table=rows_of(9, 0),
        prompt_table=rows_of(2, 10),
        cross_table=rows_of(5, 20),
        norm_eps=0.0,
    )


def test_rows_are_shift_scale_and_gate_of_self_attention_then_feed_forward() -> None:
    branches = video_branches()
    shift, scale, gate = (value[0, 0, 0].item() for value in branches.modulation(SELF_ATTENTION_ROWS))
    assert (shift, scale, gate) == (0, 1, 2)
    x = torch.tensor([[[3.0, 4.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0], [5.0, 0.0, 0.0, 0.0]]])
    heard: dict[str, Tensor] = {}
    with listening(heard.__setitem__):
        after = branches.feed_forward(x)
    # Rows 3 to 5: a token of ones becomes 1 (1 + 4) + 3 = 8, and comes back five times.
    assert heard["video/ff"][0, 1].tolist() == [8.0] * C
    assert after[0, 1].tolist() == [42.0] * C
    torch.testing.assert_close(heard["video/ff"][0, 0], torch.tensor([9.0, 11.0, 3.0, 3.0]))  # 1.2 * 5 + 3, 1.6 * 5 + 3


def test_rows_between_the_streams_are_scale_and_shift_of_either_direction_then_a_gate() -> None:
    branches, ones = video_branches(), torch.ones(1, 1, C)
    assert branches.across(ones, A2V_ROWS)[0, 0, 0] == 1 + 20 + 21
    assert branches.across(ones, V2A_ROWS)[0, 0, 0] == 1 + 22 + 23
    assert branches.cross_gate[0, 0].tolist() == [24.0] * C
