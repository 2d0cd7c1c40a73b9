"""The wiring of a step in our denoising stage, learnt by running it without its blocks, which costs next to nothing.

That shows which passes it runs, with which context, which branches it skips in which block, and the conditions (rotary
tables, modulation) it computes for them.

Axes: B sample, T token, C channel.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

from torch import Tensor

from runners.ltx23.block import BlockSkips, StreamConditions
from runners.ltx23.stages.denoising import Pair
from runners.ltx23.transformer import Transformer
from runners.tap import current_scope, listening


class BlockCall(NamedTuple):
    """The call of a block of ours. Of all blocks of a pass the streams are those before the first."""

    video: Tensor  # (B, T, C)
    audio: Tensor  # (B, T, C)
    at_video: StreamConditions
    at_audio: StreamConditions
    skips: BlockSkips


@dataclass(frozen=True, kw_only=True)
class PassWiring:
    """The arguments of one guidance pass."""

    call: Callable[[], Pair]  # the transformer's forward with the pass's arguments
    blocks: Mapping[int, BlockCall]


def wiring_of(transformer: Transformer, run: Callable[[], object]) -> dict[str, PassWiring]:
    """The passes that `run` runs, by the scope of each; nothing that it computes is kept or tapped."""
    passes = {}

    def record(call: Callable[[], Pair]) -> Pair:
        blocks: dict[int, BlockCall] = {}

        def left_out(index: int, *arguments: Any) -> Pair:
            blocks[index] = BlockCall(*arguments)
            return blocks[index].video, blocks[index].audio

        passes[current_scope()] = PassWiring(call=call, blocks=blocks)
        stubs = [partial(left_out, index) for index in range(len(transformer.transformer_blocks))]
        with blocks_as(transformer, stubs):
            return call()

    with passes_as(transformer, record):
        run()
    return passes


@contextmanager
def passes_as(transformer: Transformer, instead: Callable[[Callable[[], Pair]], Pair]) -> Iterator[None]:
    """While inside, every pass goes to `instead`, which may call it as it is; nothing is tapped."""
    forward = transformer.forward

    def redirected(*arguments: Any, **options: Any) -> Pair:
        return instead(partial(forward, *arguments, **options))

    with patch.object(transformer, "forward", redirected), unheard():
        yield


@contextmanager
def blocks_as(transformer: Transformer, forwards: Sequence[Callable[..., Pair]]) -> Iterator[None]:
    """While inside, each block computes what `forwards` has in its place."""
    with ExitStack() as stack:
        for block, forward in zip(transformer.transformer_blocks, forwards, strict=True):
            stack.enter_context(patch.object(block, "forward", forward))
        yield


@contextmanager
def unheard() -> Iterator[None]:
    """While inside, taps are not those of the run that is measured, and nobody hears them."""
    with listening(lambda _name, _tensor: None):
        yield
