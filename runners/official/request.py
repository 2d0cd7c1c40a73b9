"""The request to and the outputs of every adapter of the official code, and a case in official terms.

Axes: F frame, H height, W width, C channel, N sample.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from runners.case import Case
from runners.clock import Clock
from runners.ltx23.image import read_picture, require_affordable
from runners.model_files import LoraSource
from runners.official.lockstep import PipelineWatcher
from runners.protocol import RunOptions
from runners.request import Guider
from runners.weights import TensorFiles, Weights, WeightsFolder

MADE_PATH: Final = "made on the device"  # in place of a path, where a loader makes tensors
MADE_UPSAMPLER_PATH: Final = "upsampler made on the device"
LATE: Final = "video_decoding"  # its decoder is loaded before sound is decoded, and works once its chunks are wanted


@dataclass(frozen=True, kw_only=True)
class OfficialRequest:
    """One run of official code."""

    case: Case
    weights: Weights
    options: RunOptions
    loras: tuple[LoraSource, ...]  # those of the case, in order
    distilled_lora: tuple[LoraSource, ...]  # fused after these in a second stage
    clock: Clock
    through_helpers: bool  # 1.0.0: the path of the fp32 oracle, which its pipeline class cannot take
    watcher: PipelineWatcher | None  # told what the pipeline is doing; 1.0.0


@dataclass(frozen=True, kw_only=True)
class OfficialOutput:
    """The outputs of official code."""

    frames: Tensor  # uint8 (F, H, W, 3)
    waveform: Tensor  # fp32 (C, N)
    sample_rate_hz: int
    video_latent: Tensor
    audio_latent: Tensor
    sigmas: Tensor


class Adapter(Protocol):
    """One module a release generation: how its pipeline is called and watched."""

    def execute(self, request: OfficialRequest) -> OfficialOutput:
        """Run a case through the official pipeline, inside `torch.inference_mode`."""


def pipeline_arguments(case: Case, as_displayed: bool) -> dict[str, Any]:
    """Arguments of the guided pipelines' `__call__` that all releases have in common.

    Args:
        case: what to run.
        as_displayed: whether this release turns pictures as EXIF says and takes any colour mode (1.2.0).
    Raises: CaseError, MediaError for a picture; the official loader's errors name no file.
    """
    request = case.request
    return {
        "prompt": request.prompt,
        "negative_prompt": negative_prompt(case),
        "seed": request.seed,
        "height": request.height,
        "width": request.width,
        "num_frames": request.num_frames,
        "frame_rate": request.frame_rate,
        "num_inference_steps": request.num_inference_steps,
        "video_guider_params": guider_params(case.guidance.video),
        "audio_guider_params": guider_params(case.guidance.audio),
        "images": images(case, as_displayed),
    }


def guider_params(guider: Guider) -> Any:
    """Guidance of one modality in official terms."""
    params = importlib.import_module("ltx_core.components.guiders").MultiModalGuiderParams
    return params(
        cfg_scale=guider.cfg_scale,
        stg_scale=guider.stg_scale,
        stg_blocks=list(guider.stg_blocks),
        rescale_scale=guider.rescale_scale,
        modality_scale=guider.modality_scale,
        skip_step=guider.skip_step,
    )


def negative_prompt(case: Case) -> str:
    """The case's negative prompt, or the default of the official code at hand."""
    default: str = importlib.import_module("ltx_pipelines.utils.constants").DEFAULT_NEGATIVE_PROMPT
    return default if case.request.negative_prompt is None else case.request.negative_prompt


def named_loras(loras: Sequence[LoraSource]) -> list[Any]:
    """LoRAs in official terms: the path that each has, or stands for it where it is made on the spot."""
    loader = importlib.import_module("ltx_core.loader")
    return [
        loader.LoraPathStrengthAndSDOps(lora_path(lora), lora.strength, loader.LTXV_LORA_COMFY_RENAMING_MAP)
        for lora in loras
    ]


def lora_path(lora: LoraSource) -> str:
    """Path of a LoRA's file as official code wants it; of a made one its name."""
    return str(lora.source.paths[0]) if isinstance(lora.source, TensorFiles) else lora.name


def checkpoint_path(weights: Weights) -> str:
    """Path of the single file as official code wants it; for made weights a name that stands for it."""
    return str(weights.checkpoint_path) if isinstance(weights, WeightsFolder) else MADE_PATH


def upsampler_path(weights: Weights) -> str:
    """The same of the spatial upsampler's file, empty for weights without one."""
    if weights.upsampler is None:
        return ""
    return MADE_UPSAMPLER_PATH if weights.upsampler.path is None else str(weights.upsampler.path)


def images(case: Case, as_displayed: bool) -> list[Any]:
    """The case's pictures in official terms. Raises: CaseError, MediaError."""
    make = importlib.import_module("ltx_pipelines.utils.args").ImageConditioningInput
    made = []
    for image in case.request.images:
        path = case.image_path(image)
        require_affordable(path, case.request.height, case.request.width)
        read_picture(path, as_displayed)
        made.append(make(str(path), image.frame_idx, image.strength, image.crf))
    return made


def joined(chunks: Any, clock: Clock) -> Tensor:
    """All frames of a decode that yields them in chunks: (F, H, W, 3)."""
    clock.begin(LATE)
    return torch.cat(list(chunks))
