"""Branches that guidance passes of one step have in common where their blocks already differ, computed once.

The isolated pass and another prompt depart from the conditional pass within the first block: until there, all passes
go through the same self-attention of the same tokens, and those of one prompt through the same attention to the text.
In every block, passes of one prompt turn the same text into the same keys and values. A result is taken over, bits and
all, where a branch is given the very same tensors: a stream is common to the passes until a branch adds to it that is
not.

The reference computes them again (ltx_core.model.transformer.transformer 1.0.0).
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from torch import Tensor, nn

from runners.tap import can_repeat, current_scope, tap_again

Result = TypeVar("Result")


class SharedBranches:
    """Results of one step by the layer and the tensors that they come from.

    Args:
        contexts: the texts of each pass, video's and audio's (B, S, C); what is derived from one is kept if several
            passes read it.
    """

    def __init__(self, contexts: Iterable[tuple[Tensor, Tensor]]) -> None:
        passes = list(contexts)
        self._several = len(passes) > 1
        read = [text for texts in passes for text in texts]
        self._shared_contexts = [one for one in read if sum(one is its for its in read) > 1]
        self._kept: dict[tuple[int, ...], tuple[tuple[object, ...], Any]] = {}  # inputs are held: ids stay theirs
        self._common: dict[int, Tensor] = {}
        self._scopes: dict[int, str] = {}

    def project(self, layer: nn.Module, latent: Tensor) -> Tensor:
        """`layer(latent)`, which is common to all passes."""
        if not self._several or not can_repeat():
            projected: Tensor = layer(latent)
            return projected
        projected = self._once(layer, (latent,), lambda: layer(latent))[0]
        self._common[id(projected)] = projected
        return projected

    def add(
        self, layer: nn.Module, x: Tensor, given: tuple[object, ...], tap_name: str, compute: Callable[[], Tensor]
    ) -> Tensor:
        """The stream (B, T, C) with a branch added: `compute()`, taken over where `x` and `given` are the very same.

        Args:
            layer: of the branch.
            x: the stream that it reads.
            given: everything else that decides the result.
            tap_name: what `compute` taps; offered again under the name of the pass that takes over.
            compute: computes and taps the branch.
        """
        if id(x) not in self._common or not can_repeat():
            return compute()
        added, new = self._once(layer, (x, *given), compute)
        if new:
            self._common[id(added)], self._scopes[id(added)] = added, current_scope()
        else:
            tap_again(f"{self._scopes[id(added)]}/{tap_name}", tap_name)
        return added

    def of_text(
        self, layer: nn.Module, context: Tensor, modulation: object, compute: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (B, S, D) of a text under a step's modulation, as `compute` makes them."""
        if not any(context is one for one in self._shared_contexts) or not can_repeat():
            return compute()
        return self._once(layer, (context, modulation), compute)[0]

    def _once(self, layer: nn.Module, given: tuple[object, ...], compute: Callable[[], Result]) -> tuple[Result, bool]:
        key = tuple(id(one) for one in (layer, *given))
        new = key not in self._kept
        if new:
            self._kept[key] = (layer, *given), compute()
        result: Result = self._kept[key][1]
        return result, new


NO_SHARED_BRANCHES: Final = SharedBranches(())
