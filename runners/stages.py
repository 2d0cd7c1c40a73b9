"""The official pipelines that a case may name, and the stages that each is made of.

A pipeline of two stages denoises at half the height and width, enlarges the clean latent with the spatial upsampler,
adds noise again and denoises at full size, with the sound going on from the first stage's. What a case says about its
stages under `[stages]` replaces the official constants of its pipeline.

Source: ltx_pipelines.{distilled,ti2vid_two_stages,ti2vid_two_stages_hq,keyframe_interpolation} and
ltx_pipelines.utils.constants 1.0.0.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal

from runners.errors import CaseError
from runners.request import MAX_STEPS, NUMBER, SPATIAL_FACTOR, Guider, RequestBounds
from runners.strict import Strict

DISTILLED_SIGMAS: Final = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
REFINING_SIGMAS: Final = (0.909375, 0.725, 0.421875, 0.0)  # of the second stage
ENLARGEMENT: Final = 2  # of height and width by the spatial upsampler
SECOND: Final = "stage2"  # what the names of the second stage's taps begin with; those of the first are as ever


Sampler = Literal["euler", "res_2s"]


class Stage(Strict, frozen=True, kw_only=True):
    """The part of one stage that a case may say; None leaves it to the pipeline."""

    sigmas: tuple[float, ...] | None = None  # noise levels, the last one 0
    lora_strength: float | None = None  # of the distilled LoRA
    height: int | None = None  # pixels; official pipelines leave no choice, so that what is said here is checked alone
    width: int | None = None  # pixels; the same


class Stages(Strict, frozen=True, kw_only=True):
    """The parts of its stages that a case may say."""

    first: Stage = Stage()
    second: Stage = Stage()


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """An official pipeline."""

    two_stages: bool = True
    guided: bool = True  # in its first stage; a second has no guidance
    distilled: bool = False  # runs the distilled checkpoint
    sigmas: tuple[float, ...] | None = None  # of the first stage; None: of as many steps as the request says
    lora_strengths: tuple[float, float] | None = None  # of the distilled LoRA in either stage; None: it has none
    only_keyframes: bool = False  # a picture at frame 0, too, is appended instead of put in
    sound_moved: bool = False  # which stage's sound is decoded is another one in later releases
    sampler: Sampler = "euler"
    sigmas_by_size: bool = False  # those of the scheduler follow the latent's size; else they are one size's, always


PIPELINES: Final[Mapping[str, Pipeline]] = {
    "one_stage": Pipeline(two_stages=False),
    "distilled": Pipeline(guided=False, distilled=True, sigmas=DISTILLED_SIGMAS),
    "two_stage": Pipeline(lora_strengths=(0.0, 1.0), sound_moved=True),
    "two_stage_hq": Pipeline(lora_strengths=(0.25, 0.5), sound_moved=True, sampler="res_2s", sigmas_by_size=True),
    "keyframes": Pipeline(lora_strengths=(0.0, 1.0), only_keyframes=True),
}


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage of a request, all defaults filled in."""

    scope: str  # of its taps: "" or "stage2"
    height: int  # pixels
    width: int  # pixels
    steps: int
    sigmas: tuple[float, ...] | None  # steps + 1 noise levels; None: those of the scheduler
    video: Guider
    audio: Guider
    guided: bool  # False: the conditional pass alone, its prediction taken as it is
    lora_strength: float = field(default=0.0)  # of the distilled LoRA
    sampler: Sampler = "euler"

    @property
    def evaluations(self) -> int:
        """Number of predictions asked of the model: one a step, or at its start, its middle and after the last.

        Taps count these as steps.
        """
        return 2 * self.steps + 1 if self.sampler == "res_2s" else self.steps

    def guidance_step(self, evaluation: int) -> int:
        """The step that guidance takes an evaluation for; middles are all step 0 to it, so that none is ever skipped.

        Source: ltx_pipelines.utils.samplers.res2s_audio_video_denoising_loop 1.0.0.
        """
        if self.sampler == "euler":
            return evaluation
        return 0 if evaluation % 2 else evaluation // 2

    @property
    def prefix(self) -> str:
        """The beginning of the names of its taps."""
        return self.scope and f"{self.scope}/"

    @property
    def guiders(self) -> tuple[Guider, Guider]:
        """Guidance of video and audio."""
        return self.video, self.audio


def pipeline_named(name: str) -> Pipeline:
    """The pipeline of that name. Raises: CaseError for one that is not known."""
    if name not in PIPELINES:
        raise CaseError(f"There is no pipeline {name[:60]!r}; known are {', '.join(PIPELINES)}.")
    return PIPELINES[name]


def plan_stages(
    pipeline: str, stages: Stages, request: RequestBounds, video: Guider, audio: Guider
) -> tuple[StagePlan, ...]:
    """The stages of a request, one or two.

    Args:
        pipeline: its name.
        stages: what the case says about them.
        request: whose height and width are those of the result.
        video: guidance of the first stage.
        audio: the same.
    Raises: CaseError for a pipeline that is not known.
    """
    kind = pipeline_named(pipeline)
    strengths = kind.lora_strengths or (0.0, 0.0)
    asked = [one.lora_strength for one in (stages.first, stages.second)]
    first_strength, second_strength = (
        given if said is None else said for said, given in zip(asked, strengths, strict=True)
    )
    sigmas = stages.first.sigmas or kind.sigmas
    smaller = ENLARGEMENT if kind.two_stages else 1
    first = StagePlan(
        scope="",
        height=request.height // smaller,
        width=request.width // smaller,
        steps=request.num_inference_steps if sigmas is None else len(sigmas) - 1,
        sigmas=sigmas,
        video=video,
        audio=audio,
        guided=kind.guided,
        lora_strength=first_strength,
        sampler=kind.sampler,
    )
    if not kind.two_stages:
        return (first,)
    refining = stages.second.sigmas or REFINING_SIGMAS
    second = StagePlan(
        scope=SECOND,
        height=request.height,
        width=request.width,
        steps=len(refining) - 1,
        sigmas=refining,
        video=Guider(),
        audio=Guider(),
        guided=False,
        lora_strength=second_strength,
        sampler=kind.sampler,
    )
    return first, second


def steps_of_first(pipeline: str, stages: Stages) -> int | None:
    """Steps of the first stage where its noise levels are fixed; None where the request says how many there are."""
    sigmas = stages.first.sigmas or pipeline_named(pipeline).sigmas
    return None if sigmas is None else len(sigmas) - 1


def check_stages(whose: str, pipeline: str, stages: Stages, request: RequestBounds, *guiders: Guider) -> None:
    """Refuse stages that the pipeline does not have, and requests that it cannot run.

    Args:
        whose: the beginning of every sentence, such as "Case 'demo'".
        pipeline: its name.
        stages: what the case says about them.
        request: that passed `check_request`.
        guiders: guidance of video and audio.
    Raises: CaseError naming what is wrong.
    """
    kind = pipeline_named(pipeline)
    if not kind.two_stages and stages != Stages():
        raise CaseError(f"{whose}: pipeline {pipeline!r} has one stage, and no [stages]; remove them.")
    for name, stage in (("first", stages.first), ("second", stages.second)):
        _check_stage(f"{whose}: stages.{name}", pipeline, stage)
    if kind.two_stages:
        _check_sides(whose, pipeline, request)
        _check_size(f"{whose}: stages.first", pipeline, stages.first, request, ENLARGEMENT)
        _check_size(f"{whose}: stages.second", pipeline, stages.second, request, 1)
    fixed = steps_of_first(pipeline, stages)
    if fixed is not None and request.num_inference_steps != fixed:
        raise CaseError(
            f"{whose}: request.num_inference_steps is {request.num_inference_steps}; the first stage of {pipeline!r} "
            f"has {fixed} steps between fixed noise levels. Leave it out, or set stages.first.sigmas."
        )
    if not kind.guided and any(guider != Guider() for guider in guiders):
        raise CaseError(f"{whose}: pipeline {pipeline!r} has no guidance; remove [guidance].")


def _check_sides(whose: str, pipeline: str, request: RequestBounds) -> None:
    factor = SPATIAL_FACTOR * ENLARGEMENT
    for side in ("height", "width"):
        value: int = getattr(request, side)
        if value % factor:
            low = value // factor * factor
            choice = f"{low} or {low + factor}" if low else str(factor)
            raise CaseError(
                f"{whose}: request.{side} is {value}; {pipeline!r} begins at half of it, so that it must be a multiple "
                f"of {factor}. Take {choice}."
            )


def _check_size(where: str, pipeline: str, stage: Stage, request: RequestBounds, smaller: int) -> None:
    for side in ("height", "width"):
        said, made = getattr(stage, side), getattr(request, side) // smaller
        if said is not None and said != made:
            share = "half of request" if smaller == ENLARGEMENT else "request"
            raise CaseError(
                f"{where}.{side} is {said}; {pipeline!r} denoises this stage at {share}.{side}, which is {made}. "
                f"Change request.{side}, or leave {side} out of the stage."
            )


def _check_stage(where: str, pipeline: str, stage: Stage) -> None:
    if stage.lora_strength is not None:
        strengths = PIPELINES[pipeline].lora_strengths
        if strengths is None or (where.endswith("first") and not strengths[0]):
            there = (
                "has no distilled LoRA" if strengths is None else "fuses the distilled LoRA in its second stage alone"
            )
            raise CaseError(f"{where}.lora_strength: pipeline {pipeline!r} {there}; remove it.")
        if not abs(stage.lora_strength) <= sys.float_info.max:  # nor NaN
            raise CaseError(f"{where}.lora_strength is {stage.lora_strength}; wanted a finite number.")
    if stage.sigmas is None:
        return
    sigmas = stage.sigmas
    falling = all(type(one) in NUMBER and one > other for one, other in pairwise(sigmas))
    if not (2 <= len(sigmas) <= MAX_STEPS + 1 and falling and sigmas[0] <= 1 and sigmas[-1] == 0):
        shown = ", ".join(map(str, sigmas[:8]))
        raise CaseError(
            f"{where}.sigmas is [{shown}{', ...' if len(sigmas) > 8 else ''}]; wanted 2 to {MAX_STEPS + 1} falling "
            "noise levels from at most 1 to 0."
        )
