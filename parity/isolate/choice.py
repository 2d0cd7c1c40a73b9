"""The choice of what an isolation measures and holds each measurement against."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from runners.clock import STAGES

Around = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The steps and blocks to measure; None means all of them."""

    stages: frozenset[str] = frozenset(STAGES)
    steps: frozenset[int] | None = None
    blocks: frozenset[int] | None = None  # where some are named, nothing of denoising but these
    harmless: bool = True  # run each official block with plain matrix products for attention, too, as a floor
    oracle: bool = False  # run each official block in fp32, too, to say who is nearer to it
    around: Around = nullcontext  # entered whenever the candidate computes, left before the official code goes on

    def step(self, index: int) -> bool:
        """True if a step is measured."""
        return self.steps is None or index in self.steps

    def from_step(self, index: int) -> bool:
        """True if a step or one after it is measured."""
        return "denoising" in self.stages and (self.steps is None or index <= max(self.steps))

    def block(self, index: int) -> bool:
        """True if a block is measured."""
        return self.blocks is None or index in self.blocks
