"""Whoever watches a running official pipeline: told of its parts as they are loaded and of every step, in native terms.

A watcher may compute beside the official code with the very tensors it computes with: `SharedTensors` finds each
tensor of the checkpoint inside a loaded official module, through the names that module itself was loaded by. Nothing
here changes what the official run computes.

Source: ltx_pipelines.utils.{model_ledger,samplers} and ltx_core.model.transformer.transformer_args 1.0.0.

Axes: B sample, T token, C channel, H head, D channel of all heads together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from runners.errors import CheckpointError
from runners.ltx23.block import StreamConditions, StreamModulation, StreamRotary
from runners.ltx23.branches import BRANCHES
from runners.ltx23.latents import LatentState
from runners.ltx23.rotary import InterleavedRotary, Rotary, SplitRotary
from runners.model_files import TensorSource

Key = Callable[[str], str | None]


class WatchedEnoughError(BaseException):
    """Raised by a watcher that needs no more of a run: it ends there. No `Exception`, which would be a failed run."""


class PipelineWatcher(Protocol):
    """Told what the official pipeline is doing. Raises: WatchedEnoughError to end it."""

    def loaded(self, name: str, module: Any, key: Key) -> None:
        """A part, one of `ledger.BUILDERS`, is ready; `key` names a checkpoint tensor in it, None for another's."""

    def upsampled(self, latent: Tensor, enlarged: Tensor) -> None:
        """A first stage's video, (B, C, F, H, W), was enlarged; what follows belongs to the second stage."""

    def step(self, index: int, sigmas: Tensor, sigma: Tensor, video: LatentState, audio: LatentState) -> None:
        """A step begins: (steps + 1,) noise levels, the level () at hand, and both states as the step gets them.

        Of `res_2s` each evaluation is a step, as taps count them.
        """


class SharedTensors:
    """Tensors of a checkpoint, read out of a loaded official module: the same storage, or copies of it.

    Satisfies `runners.model_files.TensorSource`. `shapes` is that of the whole checkpoint, of which one part at a
    time can be read.
    """

    def __init__(self, source: TensorSource, *, copies: bool = False) -> None:
        self.shapes = source.shapes
        self._copies = copies
        self._tensors: dict[str, Tensor] = {}

    def hold(self, module: nn.Module, key: Key) -> None:
        """Take the tensors of `module` in place of those held before."""
        there = getattr(module, "velocity_model", module).state_dict()  # the x0 model is a shell around what was loaded
        self._tensors = {
            name: there[renamed] for name in self.shapes if (renamed := key(name)) is not None and renamed in there
        }

    def release(self) -> None:
        """Let go of all tensors."""
        self._tensors = {}

    def read(self, names: list[str], device: torch.device) -> dict[str, Tensor]:
        """Tensors by checkpoint name. Raises: CheckpointError for one that the module held now does not have."""
        missing = [name for name in names if name not in self._tensors]
        if missing:
            raise CheckpointError(
                f"The official module holds no {missing[0]!r} ({len(missing)} such); it was built from another file."
            )
        found = {name: self._tensors[name].detach().to(device) for name in names}
        return {name: tensor.clone() for name, tensor in found.items()} if self._copies else found


@dataclass(frozen=True, kw_only=True)
class AttentionCall:
    """One call of scaled dot-product attention by an official block: queries and keys normed and rotated."""

    queries: Tensor  # (B, T, D)
    keys: Tensor  # (B, S, D)
    values: Tensor  # (B, S, D)
    mask: Tensor | None
    output: Tensor  # (B, T, D)
    again: Callable[[], Tensor]  # the same call once more, with whatever kernel torch takes then


def hear_attention(block: nn.Module, heard: Callable[[tuple[str, str], AttentionCall], None]) -> None:
    """Tell `heard` of every call of scaled dot-product attention in an official block, by its stream and branch."""
    for branch, name in BRANCHES.items():
        if branch[1] == "ff":
            continue
        module: Any = getattr(block, name)
        module.attention_function = _telling(module.attention_function, partial(heard, branch))


def _telling(official: Callable[..., Tensor], heard: Callable[[AttentionCall], None]) -> Callable[..., Tensor]:
    def attend(queries: Tensor, keys: Tensor, values: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
        again = partial(official, queries, keys, values, heads, mask)
        output = again()
        heard(AttentionCall(queries=queries, keys=keys, values=values, mask=mask, output=output, again=again))
        return output

    return attend


def state_of(state: Any) -> LatentState:
    """An official latent state in native terms, sharing its tensors."""
    return LatentState(
        latent=state.latent,
        clean=state.clean_latent,
        denoise_mask=state.denoise_mask,
        positions=state.positions,
    )


def conditions_of(arguments: Any) -> StreamConditions:
    """The arguments of an official block for one stream, in native terms."""
    return StreamConditions(
        context=arguments.context,
        modulation=modulation_of(arguments),
        rotary=StreamRotary(
            own=_rotary(arguments.positional_embeddings), cross=_rotary(arguments.cross_positional_embeddings)
        ),
        enabled=arguments.enabled,
    )


def modulation_of(arguments: Any) -> StreamModulation:
    """The modulation in the arguments of an official block for one stream, in native terms."""
    return StreamModulation(
        block=arguments.timesteps,
        prompt=arguments.prompt_timestep,
        cross_scale_shift=arguments.cross_scale_shift_timestep,
        cross_gate=arguments.cross_gate_timestep,
        embedding=arguments.embedded_timestep,
    )


def _rotary(tables: tuple[Tensor, Tensor]) -> Rotary:
    cos, sin = tables
    # The split layout has an axis of heads, (B, H, T, D/2H); the interleaved one, (B, T, D), has none.
    return SplitRotary(cos, sin, -sin) if cos.ndim == 4 else InterleavedRotary(cos, sin)
