"""The `diffusers` runner: a port of LTX-2.3 that nobody here wrote, diffusers 0.39, executed as its users execute it.

A case goes through `LTX2ImageToVideoPipeline`, or `LTX2Pipeline` where it has no picture, with the arguments that
diffusers' documentation gives for LTX-2.3, a case in two stages through it twice (`two_stages.py`). Nothing is
corrected: where diffusers computes something else than the reference, that is what the harness is to show
(docs/diffusers.md). Options of a case that the pipelines have no argument for are errors, with one exception: a
picture's `crf`, since handing the pipeline a picture is all that a user can do. The run's details say that it was not
applied.
"""

import gc
import importlib
import math
from types import TracebackType
from typing import Any, ClassVar, Final, Self

import torch
from torch import Tensor

from runners.case import Case
from runners.clock import Clock, Progress
from runners.diffusers.components import build_components
from runners.diffusers.lora import PEFT_VERSION, second_lora
from runners.diffusers.observe import DiffusersObserver
from runners.diffusers.two_stages import Made, in_two_stages, runs_both_prompts
from runners.errors import OutOfMemoryError, RunnerError
from runners.protocol import Capabilities, Outcome, RunOptions, require_understood
from runners.request import Guider
from runners.tap import tap
from runners.weights import Weights

VERSION: Final = "0.39.0"

# Tap patterns that a case leaves and this runner does not, each with the reason.
NOT_OFFERED: Final = {"stage2/image/*": "its second stage has no picture; it keeps the enlarged latent's first frame"}


class DiffusersRunner:
    """Executes cases with diffusers."""

    name: ClassVar[str] = "diffusers"
    capabilities: ClassVar[Capabilities] = Capabilities(
        switches=frozenset(),
        tiers=frozenset({"exact"}),  # the only way it runs
        dtypes=frozenset({torch.bfloat16, torch.float32}),
        releases=frozenset({"1.0.0"}),  # the one diffusers was ported from; it has no switches for later ones
        behaviours=False,
        taps=("*",),
        pipelines=frozenset({"one_stage", "distilled", "two_stage"}),  # it has neither res_2s nor appended keyframes
    )

    def __init__(self, weights: Weights, options: RunOptions) -> None:
        self.weights = weights
        self.options = options

    def __enter__(self) -> Self:
        """Import diffusers. Raises: RunnerError if it is not installed, or another version is."""
        try:
            version: str = importlib.import_module("diffusers").__version__
        except ImportError as error:
            raise RunnerError(
                f"diffusers cannot be imported ({error}); run `make setup`, or `pip install '.[diffusers]'`."
            ) from error
        if version != VERSION:
            raise RunnerError(f"diffusers {version} is installed; this runner knows {VERSION}. Install that one.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gc.collect()  # a pipeline holds its components in cycles
        if self.options.device.type == "cuda":
            torch.cuda.empty_cache()

    def run(self, case: Case, progress: Progress) -> Outcome:
        """Execute a case. Raises: RunnerError for an option that the pipelines cannot be given; as `second_lora`."""
        require_understood(self.name, self.capabilities, case, self.options)
        arguments = pipeline_arguments(case, self._num_blocks())
        device = self.options.device
        clock = Clock(device, progress)
        clock.begin("text_encoding")
        with clock.loading():
            weights = self.weights.of_pipeline(case.pipeline)
            lora = second_lora(case, weights)
            pipeline = self.open_pipeline(bool(case.request.images), clock, weights)
            if case.request.images:
                picture = case.image_path(case.request.images[0])
                arguments["image"] = importlib.import_module("diffusers.utils").load_image(str(picture))
        guided = runs_both_prompts(case.plans[0])
        arguments["generator"] = torch.Generator(device=device).manual_seed(case.request.seed)
        try:
            if len(case.plans) == 1:
                made = _in_one_stage(pipeline, DiffusersObserver(pipeline, clock, case.total_steps, guided), arguments)
            else:
                made = in_two_stages(pipeline, weights, lora, case.plans, arguments, clock)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(f"{device} ran out of memory in the diffusers run ({error}).") from error
        clock.end()
        # As diffusers' own `encode_video` makes bytes and sound of them.
        frames = torch.from_numpy((made.video[0] * 255).round().astype("uint8"))
        waveform: Tensor = made.audio[0].float().cpu()
        observer = made.observer
        tap("decode/frames", frames)
        tap("decode/waveform", waveform)
        assert observer.video_latent is not None and observer.audio_latent is not None
        return Outcome(
            video_frames=frames,
            audio_waveform=waveform,
            video_latent=observer.video_latent.to(self.options.dtype),
            audio_latent=observer.audio_latent.to(self.options.dtype),
            frame_rate=case.request.frame_rate,
            sample_rate_hz=pipeline.vocoder.config.output_sampling_rate,
            sigmas=made.sigmas,
            stage_s=clock.stage_s,
            step_s=clock.step_s(),
            peak_bytes=clock.peak_bytes(),
            details={
                "diffusers_version": VERSION,
                **({} if lora is None else {"peft_version": PEFT_VERSION}),
                "pipeline": type(pipeline).__name__,
                "batched_passes": ["uncond", "cond"] if guided else [],
                "crf_not_applied": [image.crf for image in case.request.images if image.crf],
                "taps_not_offered": NOT_OFFERED if len(case.plans) > 1 and case.request.images else {},
            },
        )

    def _num_blocks(self) -> int:
        blocks: int = self.weights.config["transformer"]["num_layers"]
        return blocks

    def open_pipeline(self, with_picture: bool, clock: Clock, weights: Weights | None = None) -> Any:
        """A pipeline on the device. Its language model makes room when the transformer is first called.

        Both together leave too little of an 80 GB card. diffusers' own answer, components that wait in host memory,
        wants 70 GiB of it and minutes of copying; the values computed are the same.
        """
        diffusers = importlib.import_module("diffusers")
        pipeline_class = diffusers.LTX2ImageToVideoPipeline if with_picture else diffusers.LTX2Pipeline
        components = build_components(weights or self.weights, self.options.device, self.options.dtype)
        pipeline = pipeline_class(**components.arguments)
        pipeline.set_progress_bar_config(disable=True)

        def make_room(*_: Any) -> None:
            handle.remove()
            with clock.loading():
                pipeline.text_encoder.to("meta")
                components.fill_transformer()

        handle = pipeline.transformer.register_forward_pre_hook(make_room)
        return pipeline


def _in_one_stage(pipeline: Any, observer: DiffusersObserver, arguments: dict[str, Any]) -> Made:
    with observer.attached():
        video, audio = pipeline(
            **arguments, callback_on_step_end=observer.step_ended, output_type="np", return_dict=False
        )
    return Made(video=video, audio=audio, observer=observer, sigmas=pipeline.scheduler.sigmas.cpu())


def pipeline_arguments(case: Case, num_blocks: int) -> dict[str, Any]:
    """A case as arguments of the pipelines' call, without its picture.

    Args:
        case: what to run.
        num_blocks: blocks of the transformer.
    Raises: RunnerError naming the option that has no counterpart there.
    """
    request = case.request
    if len(request.images) > 1:
        raise _refused("request.images", f"{len(request.images)} pictures", "one at most, at the first frame")
    for image in request.images:
        if image.frame_idx:
            raise _refused("request.images[0].frame_idx", str(image.frame_idx), "0")
        if image.strength != 1.0:
            raise _refused("request.images[0].strength", str(image.strength), "1.0")
    negative = request.negative_prompt
    if negative is None:
        negative = importlib.import_module("diffusers.pipelines.ltx2.utils").DEFAULT_NEGATIVE_PROMPT
    return {
        "prompt": request.prompt,
        "negative_prompt": negative,
        "height": request.height,
        "width": request.width,
        "num_frames": request.num_frames,
        "frame_rate": request.frame_rate,
        "num_inference_steps": request.num_inference_steps,
        **_guidance(case.guidance.video, case.guidance.audio, num_blocks),
        "use_cross_timestep": True,  # of LTX-2.3, says the documentation; the default is LTX-2.0's
    }


def _guidance(video: Guider, audio: Guider, num_blocks: int) -> dict[str, Any]:
    """Both guiders as arguments. One batch, one list of blocks and one set of passes serve both modalities there."""
    for stream, guider in (("video", video), ("audio", audio)):
        if guider.skip_step:
            raise _refused(f"guidance.{stream}.skip_step", str(guider.skip_step), "0: it evaluates every step")
        if guider.rescale_scale < 0:
            raise _refused(f"guidance.{stream}.rescale_scale", str(guider.rescale_scale), "0 or more")
    for option, neutral in (("cfg_scale", 1.0), ("stg_scale", 0.0), ("modality_scale", 1.0), ("rescale_scale", 0.0)):
        scales: tuple[float, float] = (getattr(video, option), getattr(audio, option))
        if scales[1] == 0.0 != scales[0]:
            raise _refused(f"guidance.audio.{option}", "0", f"what video has ({scales[0]}): it takes 0 for not given")
        if any(not math.isclose(scale, neutral) for scale in scales) and max(scales) <= neutral:
            raise _refused(
                f"guidance.*.{option}", f"{scales[0]} and {scales[1]}", f"one above {neutral}, or none at all"
            )
    arguments: dict[str, Any] = {
        "guidance_scale": video.cfg_scale,
        "stg_scale": video.stg_scale,
        "modality_scale": video.modality_scale,
        "guidance_rescale": video.rescale_scale,
        "audio_guidance_scale": audio.cfg_scale,
        "audio_stg_scale": audio.stg_scale,
        "audio_modality_scale": audio.modality_scale,
        "audio_guidance_rescale": audio.rescale_scale,
    }
    if video.stg_scale or audio.stg_scale:
        if not video.stg_scale:
            raise _refused("guidance.video.stg_scale", "0", "another value: it perturbs both modalities or none")
        if set(video.stg_blocks) != set(audio.stg_blocks):
            raise _refused(
                "guidance.audio.stg_blocks", str(list(audio.stg_blocks)), f"video's {list(video.stg_blocks)}"
            )
        if not video.stg_blocks or max(video.stg_blocks) >= num_blocks:
            raise _refused(
                "guidance.*.stg_blocks", str(list(video.stg_blocks)), f"some of blocks 0 to {num_blocks - 1}"
            )
        arguments["spatio_temporal_guidance_blocks"] = sorted(set(video.stg_blocks))
    return arguments


def _refused(option: str, value: str, wanted: str) -> RunnerError:
    return RunnerError(
        f"Runner 'diffusers' cannot be given {option} = {value}; its pipeline takes {wanted}. "
        "Run this case with official or native, or override the option."
    )
