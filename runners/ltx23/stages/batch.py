"""The batch that flows through the stages: one request, and what each stage has made of it so far.

Axes: B sample, S token of the prompt, D width, L Gemma layer, C channel, T token, F frame, H height, W width, N sample
of the waveform.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from runners.clock import Clock
from runners.errors import StageInputError
from runners.ltx23.latents import LatentState
from runners.ltx23.pipeline_config import PipelineConfig
from runners.ltx23.sampling import LTX23SamplingParams
from runners.stages import StagePlan


@dataclass(kw_only=True)
class Batch:
    """A request on its way; fields are filled in from top to bottom."""

    sampling: LTX23SamplingParams
    config: PipelineConfig
    device: torch.device
    clock: Clock
    do_classifier_free_guidance: bool
    extra: dict[str, Any]  # the request's `build_request_extra`
    stage: int = 0  # under way, of those of the request

    # text encoding: hidden states of every Gemma layer, stacked
    prompt_embeds: Tensor | list[Tensor] | None = None  # (B, S, D, L)
    prompt_attention_mask: Tensor | list[Tensor] | None = None  # int64 (B, S)
    negative_prompt_embeds: Tensor | list[Tensor] | None = None
    negative_attention_mask: Tensor | list[Tensor] | None = None

    # text connector: what the transformer attends to
    video_context: Tensor | None = None  # (B, S, D of video)
    audio_context: Tensor | None = None  # (B, S, D of audio)
    negative_video_context: Tensor | None = None
    negative_audio_context: Tensor | None = None

    image_latents: list[Tensor] = field(default_factory=list)  # each (B, C, 1, H, W)
    generator: torch.Generator | None = None  # the run's only source of noise
    sigmas: Tensor | None = None  # fp32 (steps + 1,) on the CPU
    schedules: list[Tensor] = field(default_factory=list)  # the sigmas of every stage so far
    initial_video: Tensor | None = None  # (B, C, F, H, W), what the stage begins with before its noise; None: nothing
    initial_audio: Tensor | None = None  # (B, C, T, M)
    video_state: LatentState | None = None
    audio_state: LatentState | None = None
    step_graphs: str = ""  # how many steps were replayed as CUDA graphs, or why none
    kernels: str = ""  # how the fast tier's operations were made
    video_latent: Tensor | None = None  # (B, C, F, H, W), denoised
    audio_latent: Tensor | None = None  # (B, C, T, M), denoised
    video_frames: Tensor | None = None  # uint8 (F, H, W, 3)
    audio_waveform: Tensor | None = None  # fp32 (C, N)
    sample_rate_hz: int | None = None

    @property
    def plan(self) -> StagePlan:
        """The plan of the stage under way."""
        return self.sampling.plans[self.stage]


def needed(value: Tensor | list[Tensor] | None, stage: str, name: str) -> Tensor:
    """A field that a stage cannot do without; of a list its first element.

    Raises: StageInputError (a ValueError) naming stage and field if it is missing or an empty list.
    """
    if isinstance(value, list):
        value = value[0] if value else None
    if value is None:
        raise StageInputError(f"{stage} needs {name}, which is missing; run the stage that sets it first.")
    return value
