"""Blocks of diffusers' transformer by themselves, run on what a block of the reference gets, in native terms.

A block takes the same things in both: streams, contexts, modulation before the block's own tables, rotary tables. So
nothing is computed on the way to it, and what diffusers' pipeline would have fed it otherwise is not looked at.

Axes: B sample, T token, C channel.
"""

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from runners.diffusers.components import build_transformer
from runners.errors import RunnerError
from runners.ltx23.block import BlockSkips, StreamConditions
from runners.ltx23.branches import BRANCHES
from runners.ltx23.rotary import Rotary
from runners.tap import tap
from runners.weights import Weights


class DiffusersBlocks:
    """All blocks of a transformer, loaded."""

    def __init__(self, weights: Weights, device: torch.device, dtype: torch.dtype) -> None:
        """Load them. Raises: RunnerError if diffusers is not installed; as `build_transformer`."""
        try:
            self._blocks: Any = build_transformer(weights, device, dtype).transformer_blocks
        except ImportError as error:
            raise RunnerError(
                f"diffusers cannot be imported ({error}); run `make setup`, or `pip install '.[diffusers]'`."
            ) from error

    def run(
        self,
        index: int,
        video: Tensor,
        audio: Tensor,
        at_video: StreamConditions,
        at_audio: StreamConditions,
        skips: BlockSkips,
    ) -> None:
        """Run a block on (B, T, C) streams; its branches and both streams after it are tapped as native's are.

        Raises: RunnerError for a pass that diffusers cannot run: one stream disabled, or perturbed by itself.
        """
        if not (at_video.enabled and at_audio.enabled) or skips.video_self_attention != skips.audio_self_attention:
            raise RunnerError(
                "diffusers evaluates both streams in every pass and perturbs both or none; take a case that does so."
            )
        block: nn.Module = self._blocks[index]
        with ExitStack() as stack:
            for (stream, part), attribute in BRANCHES.items():
                hook = partial(_tap_output, f"{stream}/{part}")
                stack.callback(getattr(block, attribute).register_forward_hook(hook).remove)
            streams = block(**_arguments(video, audio, at_video, at_audio, skips))
        for stream, after in zip(("video", "audio"), streams, strict=True):
            tap(f"{stream}/out", after)


def _tap_output(name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
    tap(name, output)


def _arguments(
    video: Tensor, audio: Tensor, at_video: StreamConditions, at_audio: StreamConditions, skips: BlockSkips
) -> dict[str, Any]:
    of_video, of_audio = at_video.modulation, at_audio.modulation
    return {
        "hidden_states": video,
        "audio_hidden_states": audio,
        "encoder_hidden_states": at_video.context,
        "audio_encoder_hidden_states": at_audio.context,
        "temb": of_video.block,
        "temb_audio": of_audio.block,
        "temb_ca_scale_shift": of_video.cross_scale_shift,
        "temb_ca_audio_scale_shift": of_audio.cross_scale_shift,
        "temb_ca_gate": of_video.cross_gate,
        "temb_ca_audio_gate": of_audio.cross_gate,
        "temb_prompt": of_video.prompt,
        "temb_prompt_audio": of_audio.prompt,
        "video_rotary_emb": _tables(at_video.rotary.own),
        "audio_rotary_emb": _tables(at_audio.rotary.own),
        "ca_video_rotary_emb": _tables(at_video.rotary.cross),
        "ca_audio_rotary_emb": _tables(at_audio.rotary.cross),
        "use_a2v_cross_attention": not skips.a2v,
        "use_v2a_cross_attention": not skips.v2a,
        "all_perturbed": skips.video_self_attention,
    }


def _tables(rotary: Rotary) -> tuple[Tensor, Tensor]:
    return rotary.cos, rotary.sin
