"""The operations of a candidate that an admission tries, one place at a time, while the official pipeline runs.

A block is one operation with several results: what each branch leaves, and both streams after it. All three sides (the
official block as it ran, the same in float64, the candidate's) begin with the official streams and conditions, so
what a branch inherits from one before it is of this block alone. The output head, the guided combination and the Euler
step are operations of their own. Nothing of a place is kept but its numbers: neither on the device nor on the host.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor, nn

from parity.admit.accuracy import Accuracy, accuracy_of
from parity.isolate.block import OfficialBlock
from parity.isolate.error import Exactly
from parity.taps.dataflow import Dataflow
from parity.taps.group import isolated_group
from parity.taps.isolated_places import isolated_places
from parity.taps.name import BLOCK_PARTS, place_of
from parity.taps.pattern import chosen
from runners.ltx23.block import BlockSkips
from runners.protocol import RunOptions
from runners.tap import listening, scope
from runners.weights import Weights

# The kinds of places, by the first word of their group, that can be tried of each candidate. Faster tiers compute what
# stands around their blocks for all tokens of a noise level at once, which no official tensor is beside.
BLOCKS: Final = ("block",)
FASTER: Final = (*BLOCKS, "guided", "latent")
EVERYTHING: Final = (*FASTER, "entry", "context", "modulation", "x0")
# A candidate's block beside an official one: (block of native, official block, skips); its taps are heard.
RunBlock = Callable[[nn.Module, OfficialBlock, BlockSkips], None]


@dataclass(kw_only=True)
class Operations:
    """Tries operations and keeps their accuracy, in data-flow order. Satisfies `parity.isolate.error.ErrorSink`."""

    run_block: RunBlock
    wanted: frozenset[str]  # the places to try
    known: frozenset[str]  # all places there are, tried or not
    pattern: str  # of what is tried, for what the candidate runs beyond them
    rows: list[Accuracy] = field(default_factory=list)

    def compare(self, where: str, reference: Tensor, candidate: Tensor, exactly: Exactly | None = None) -> None:
        """Try an operation outside of blocks, where the official one can be computed in float64."""
        if where in self.wanted and exactly is not None:
            self.rows.append(accuracy_of(where, exactly(), reference, candidate))

    def missing(self, where: str, note: str) -> None:
        """Write down what the candidate does not run, of a pass or block every place there, or runs beside it."""

        def there(places: Iterable[str]) -> list[str]:
            return sorted(place for place in places if place == where or place.startswith(f"{where}/"))

        beyond = [] if there(self.known) or not where.startswith("denoise/") else [where]
        self.rows += [Accuracy(where=place, note=note) for place in (*there(self.wanted), *beyond)]

    def block(self, official: OfficialBlock, ours: nn.Module, skips: BlockSkips) -> None:
        """Try a block."""
        if not any(place.startswith(f"{official.head}/") for place in self.wanted):
            return
        exact = official.computed_in(torch.float64)
        rows: dict[str, Accuracy] = {}

        def heard(name: str, tensor: Tensor) -> None:
            if name in official.branches:
                rows[name] = accuracy_of(name, exact[name], official.branches[name], tensor)
            else:
                rows[name] = Accuracy(where=name, note="the official code does not run this branch")

        with listening(heard), scope(official.place):
            self.run_block(ours, official, skips)
        left = official.branches.keys() - rows.keys()
        rows |= {name: Accuracy(where=name, note="the candidate does not run this branch") for name in left}
        self.rows += [rows[name] for name in sorted(rows, key=_order) if chosen(name, self.pattern)]


def _order(tap: str) -> tuple[int, str]:
    at = place_of(tap)
    return BLOCK_PARTS.index(at.part), at.stream or ""


def native_block(ours: nn.Module, official: OfficialBlock, skips: BlockSkips) -> None:
    """Run native's own block."""
    ours(*official.in_native_terms(), skips)


def diffusers_blocks(weights: Weights, options: RunOptions) -> RunBlock:
    """Run diffusers' block of the same number."""
    from runners.diffusers.blocks import DiffusersBlocks  # here, since importing it takes seconds

    blocks = DiffusersBlocks(weights, options.device, options.dtype)

    def run(_ours: nn.Module, official: OfficialBlock, skips: BlockSkips) -> None:
        blocks.run(official.index, *official.in_native_terms(), skips)

    return run


def places_to_try(flow: Dataflow, steps: Iterable[int], pattern: str, kinds: Collection[str]) -> tuple[str, ...]:
    """The places of some denoising steps, of some kinds, that a pattern chooses, in data-flow order.

    Of what a step computes, rotary tables are left out, of which float64 says nothing (`runners.official.exactly`), and
    scaled dot-product attention alone, which a fused candidate has not.
    """
    return tuple(
        place
        for place in isolated_places(flow, steps)
        if place.startswith("denoise/")
        and (isolated_group(place) or "").split(".")[0] in kinds
        and not place.endswith("/sdpa")
        and chosen(place, pattern)
    )
