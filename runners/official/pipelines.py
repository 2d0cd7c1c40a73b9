"""The official pipeline classes: which one a case names, what it is made with, and what it is called with.

Shared by all releases. A constant of a pipeline, such as its noise levels, is replaced only where the case says so.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor

from runners.case import Case
from runners.official.quantization import official_policy
from runners.official.request import OfficialRequest, named_loras, pipeline_arguments, upsampler_path
from runners.stages import PIPELINES

EULER: Final = "euler_denoising_loop"


@dataclass(frozen=True, kw_only=True)
class OfficialPipeline:
    """An official pipeline class."""

    module: str
    name: str
    encode_pictures: str = "combined_image_conditionings"  # the helper that it encodes its pictures with
    loop: str = EULER  # of both stages
    stages: tuple[str, ...] = ("stage_1", "stage_2")  # attributes that denoise, since 1.1


CLASSES: Final = {
    "one_stage": OfficialPipeline(
        module="ltx_pipelines.ti2vid_one_stage", name="TI2VidOneStagePipeline", stages=("stage",)
    ),
    "distilled": OfficialPipeline(module="ltx_pipelines.distilled", name="DistilledPipeline", stages=("stage",)),
    "two_stage": OfficialPipeline(module="ltx_pipelines.ti2vid_two_stages", name="TI2VidTwoStagesPipeline"),
    "two_stage_hq": OfficialPipeline(
        module="ltx_pipelines.ti2vid_two_stages_hq",
        name="TI2VidTwoStagesHQPipeline",
        loop="res2s_audio_video_denoising_loop",
    ),
    "keyframes": OfficialPipeline(
        module="ltx_pipelines.keyframe_interpolation",
        name="KeyframeInterpolationPipeline",
        encode_pictures="image_conditionings_by_adding_guiding_latent",
    ),
}
_UNGUIDED: Final = ("negative_prompt", "num_inference_steps", "video_guider_params", "audio_guider_params")


def official_module(case: Case) -> Any:
    """The module that the case's pipeline class is in."""
    return importlib.import_module(CLASSES[case.pipeline].module)


def official_class(case: Case) -> Any:
    """The case's pipeline class."""
    return getattr(official_module(case), CLASSES[case.pipeline].name)


def files_of(request: OfficialRequest) -> dict[str, Any]:
    """Arguments that a pipeline class is made with, but for the paths of checkpoint and Gemma."""
    case = request.case
    made: dict[str, Any] = {
        "loras": named_loras(request.loras),
        "quantization": official_policy(request),
        "device": request.options.device,
    }
    if len(case.plans) > 1:
        made["spatial_upsampler_path"] = upsampler_path(request.weights)
    if case.plans[0].guided and len(case.plans) > 1:
        made["distilled_lora"] = named_loras(request.distilled_lora)
    if (PIPELINES[case.pipeline].lora_strengths or (0.0,))[0]:
        first, second = (plan.lora_strength for plan in case.plans)
        made |= {"distilled_lora_strength_stage_1": first, "distilled_lora_strength_stage_2": second}
    return made


def checkpoint_keyword(case: Case) -> str:
    """The argument that takes the checkpoint's path, before 1.2."""
    return "distilled_checkpoint_path" if PIPELINES[case.pipeline].distilled else "checkpoint_path"


def call_arguments(case: Case, as_displayed: bool) -> dict[str, Any]:
    """Arguments that the case's pipeline is called with. Raises: CaseError, MediaError for a picture."""
    arguments = pipeline_arguments(case, as_displayed)
    if not case.plans[0].guided:
        for name in _UNGUIDED:
            del arguments[name]
    return arguments


def with_dtype(official_loop: Callable[..., Any], case: Case, dtype: torch.dtype) -> Callable[..., Any]:
    """The official loop of a case, told the dtype of the run if it is told any."""
    return official_loop if CLASSES[case.pipeline].loop == EULER else partial(official_loop, model_dtype=dtype)


def sigmas_asked(case: Case) -> dict[str, Tensor]:
    """The noise levels that a case wants in place of its pipeline's, by the names of arguments since 1.1."""
    stages = {"stage_1_sigmas": case.stages.first.sigmas, "stage_2_sigmas": case.stages.second.sigmas}
    return {name: torch.tensor(sigmas) for name, sigmas in stages.items() if sigmas is not None}


@contextmanager
def constants_asked(case: Case) -> Iterator[None]:
    """While inside, the pipeline module of 1.0.0, whose noise levels are constants, has those of the case."""
    module, first, second = official_module(case), case.stages.first.sigmas, case.stages.second.sigmas
    with ExitStack() as stack:
        if second is not None:
            stack.enter_context(patch.object(module, "STAGE_2_DISTILLED_SIGMA_VALUES", list(second)))
        if first is not None and case.plans[0].guided:
            schedule = SimpleNamespace(execute=lambda steps, **_: torch.tensor(first))
            stack.enter_context(patch.object(module, "LTX2Scheduler", lambda: schedule))
        elif first is not None:
            stack.enter_context(patch.object(module, "DISTILLED_SIGMA_VALUES", list(first)))
        yield
