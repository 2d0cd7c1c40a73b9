"""Lanes: the rows of the batch in which guidance passes are computed together.

Passes that are the same function of the same tensors share a lane until the first block that they skip differently,
where the lane splits. Lanes are ordered so that those which see the other modality stand together, at the front.

Axes: L lane.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from runners.errors import ConfigError
from runners.ltx23.passes import GuidancePass


@dataclass(frozen=True)
class Lane:
    """One row of the batch, and the passes that it stands for."""

    passes: tuple[GuidancePass, ...]

    @property
    def isolated(self) -> bool:
        """True if its streams do not look at each other."""
        return self.passes[0].skips.a2v

    def split(self, block: int) -> Iterator["Lane"]:
        """The lanes that this one becomes at a block: one for each way in which its passes skip branches there."""
        by_skips: dict[object, list[GuidancePass]] = {}
        for one in self.passes:
            by_skips.setdefault(one.skips.at(block), []).append(one)
        return (Lane(tuple(passes)) for passes in by_skips.values())


def first_lanes(passes: Sequence[GuidancePass]) -> tuple[Lane, ...]:
    """The lanes that passes begin in: one for each prompt, and for each whether the streams look at each other.

    Raises: ConfigError for a pass that leaves out one of the two directions alone; no official one does.
    """
    alike: dict[tuple[bool, bool], list[GuidancePass]] = {}
    for one in passes:
        if one.skips.a2v != one.skips.v2a:
            raise ConfigError(f"Pass {one.name} leaves out one of A2V and V2A; the fast tier has both or neither.")
        alike.setdefault((one.skips.a2v, not one.negative_prompt), []).append(one)
    return tuple(Lane(tuple(alike[key])) for key in sorted(alike))  # those that see each other at the front


def seeing(lanes: Sequence[Lane]) -> int:
    """Number of lanes, at the front, whose streams look at each other."""
    return sum(not lane.isolated for lane in lanes)


def skip_alike(lanes: Sequence[Lane]) -> bool:
    """True if all passes compute the same self-attention in the first block, on what is still the same input."""
    skips = [one.skips.at(0) for lane in lanes for one in lane.passes]
    return len({(one.video_self_attention, one.audio_self_attention) for one in skips}) == 1


def split_lanes(lanes: Sequence[Lane], block: int) -> tuple[tuple[Lane, ...], tuple[int, ...] | None]:
    """The lanes of a block, and for each the row of the lane it comes from; None where they are the same as before."""
    after: list[Lane] = []
    rows: list[int] = []
    for row, lane in enumerate(lanes):
        for part in lane.split(block):
            after.append(part)
            rows.append(row)
    return tuple(after), None if len(after) == len(lanes) else tuple(rows)


def lanes_of(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """Copies of some rows of (L, ...), in order; without an index tensor, which a CUDA graph could not capture."""
    return torch.cat([tensor[row : row + 1] for row in rows])
