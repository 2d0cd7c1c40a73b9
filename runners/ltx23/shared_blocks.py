"""The blocks that guidance passes of one step have in common, computed once.

A pass departs from the conditional one at the first block whose inputs or skips differ: the perturbed pass at the first
block whose self-attention it replaces (28 of 48 in the released default), the isolated one and another prompt at once.
What lies before is the same function of the same tensors, so the streams that enter the block of departure are taken
over, bits and all. Which blocks these are follows from what both passes are given, never from their names.

The reference computes them again (ltx_pipelines.utils.helpers.multi_modal_guider_denoising_func 1.0.0).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from torch import Tensor

from runners.ltx23.block import BlockSkips, StreamConditions
from runners.ltx23.shared_branches import NO_SHARED_BRANCHES, SharedBranches
from runners.tap import can_repeat, current_scope, tap_again

Streams = tuple[Tensor, Tensor]  # video, audio


class SkipsByBlock(Protocol):
    """The branches that a pass leaves out (`runners.ltx23.transformer.Skips`)."""

    def at(self, block: int) -> BlockSkips:
        """The skips of one block."""


def departure(one: SkipsByBlock, other: SkipsByBlock, blocks: int) -> int:
    """The first of so many blocks that two passes skip differently; `blocks` itself if there is none."""
    return next((block for block in range(blocks) if one.at(block) != other.at(block)), blocks)


@dataclass(frozen=True, kw_only=True, eq=False)
class PassInputs:
    """Everything that a pass through the blocks depends on."""

    latents: Streams
    video: StreamConditions
    audio: StreamConditions
    skips: SkipsByBlock

    def same_but_for_skips(self, other: "PassInputs") -> bool:
        """True for the very same tensors; equal ones that were computed twice do not count."""
        return (
            all(one is its for one, its in zip(self.latents, other.latents, strict=True))
            and _same(self.video, other.video)
            and _same(self.audio, other.audio)
        )


class SharedBlocks:
    """The streams of the first pass of a step at the blocks where later ones depart from it.

    Args:
        departures: blocks before which streams are worth keeping.
        blocks: how many the transformer has.
        branches: what passes have in common beyond.
    """

    def __init__(self, departures: Iterable[int], blocks: int, branches: SharedBranches = NO_SHARED_BRANCHES) -> None:
        self.branches = branches
        self._blocks = blocks
        self._departures = frozenset(departures) - {0}
        self._kept: dict[int, Streams] = {}
        self._first: PassInputs | None = None
        self._scope = ""

    def begin(self, given: PassInputs) -> tuple[int, Streams] | None:
        """The first block that a pass has to compute with the streams (B, T, C) that enter it; None for all of them.

        Taps of the blocks before are offered again under the pass's own names.
        """
        if not self._departures or not can_repeat():
            return None
        if self._first is None:
            self._first, self._scope = given, current_scope()
            return None
        if not given.same_but_for_skips(self._first):
            return None
        departs = departure(given.skips, self._first.skips, self._blocks)
        start = max((block for block in self._kept if block <= departs), default=0)
        if start == 0:
            return None
        for block in range(start):
            tap_again(f"{self._scope}/block/{block:02d}", f"block/{block:02d}")
        return start, self._kept[start]

    def keep(self, block: int, video: Tensor, audio: Tensor) -> None:
        """Take note of the streams before a block; after the last one, before the block that there is not."""
        if block in self._departures and block not in self._kept and self._first is not None:
            self._kept[block] = video, audio


NOTHING_SHARED: Final = SharedBlocks((), 0)


def _same(one: StreamConditions, other: StreamConditions) -> bool:
    return (
        one.context is other.context
        and one.modulation is other.modulation
        and one.rotary is other.rotary
        and one.enabled == other.enabled
    )
