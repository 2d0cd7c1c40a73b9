"""The `official` runner: Lightricks' own LTX-2.3 code, release 1.0.0 from the package index, executed as it is.

In bf16 a case goes through `ltx_pipelines.ti2vid_one_stage.TI2VidOneStagePipeline` itself. That class fixes bf16, so
the fp32 oracle goes through the same official helpers with another dtype; a test shows that this path in bf16 equals
the class bit for bit.
"""

import contextlib
import importlib
import math
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor

from runners.case import Case, Guider
from runners.clock import Clock, Progress
from runners.errors import OutOfMemoryError
from runners.ltx23.image import read_picture
from runners.official_compat import gemma_constant, prepare_imports, without_cuda_calls
from runners.official_files import KNOWN_RELEASES, require_release
from runners.official_ledger import model_ledger
from runners.official_observe import ObservedLedger, observed_loop
from runners.protocol import Capabilities, Outcome, RunOptions, require_understood
from runners.tap import tap
from runners.weights import Weights

PIPELINE = "ltx_pipelines.ti2vid_one_stage"


class OfficialRunner:
    """Executes cases with the official packages."""

    name = "official"
    capabilities = Capabilities(
        switches=frozenset({"skip_v2a_cross_attn_for_video_gt"}),
        tiers=frozenset({"exact"}),
        dtypes=frozenset({torch.bfloat16, torch.float32}),
        releases=frozenset(KNOWN_RELEASES),
        behaviours=False,
        taps=("*",),
    )

    def __init__(self, weights: Weights, options: RunOptions, through_helpers: bool = False) -> None:
        """Prepare a runner; `through_helpers` takes the oracle's path also in bf16."""
        self.weights = weights
        self.options = options
        self.through_helpers = through_helpers or options.dtype != torch.bfloat16
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Import the official code. Raises: RunnerError if it is not installed, or not what was released."""
        require_release(KNOWN_RELEASES[0])
        prepare_imports()
        self._stack.enter_context(without_cuda_calls())
        self._stack.enter_context(gemma_constant(self.weights.gemma_config))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @torch.inference_mode()
    def run(self, case: Case, progress: Progress) -> Outcome:
        """Execute a case. Raises: RunnerError for a switch it does not understand."""
        require_understood(self.name, self.capabilities, case, self.options)
        device = self.options.device
        clock = Clock(device, progress)
        video_params, audio_params = _guider_params(case.guidance.video), _guider_params(case.guidance.audio)
        guided = any(not math.isclose(guider.cfg_scale, 1.0) for guider in (case.guidance.video, case.guidance.audio))
        official_ledger = model_ledger(self.weights, self.options.dtype, device)
        ledger = ObservedLedger(official_ledger, clock, case.switches.skip_v2a_cross_attn_for_video_gt, guided)
        with _captured(ledger, clock) as captured:
            try:
                execute = self._through_helpers if self.through_helpers else self._through_class
                chunks, audio = execute(case, ledger, video_params, audio_params)
                clock.begin("video_decoding")
                frames = torch.cat(list(chunks))
            except torch.OutOfMemoryError as error:
                raise OutOfMemoryError(f"{device} ran out of memory in the official run ({error}).") from error
        clock.end()
        tap("decode/frames", frames)
        tap("decode/waveform", audio.waveform)
        return Outcome(
            video_frames=frames,
            audio_waveform=audio.waveform,
            video_latent=captured["video"],
            audio_latent=captured["audio"],
            frame_rate=case.request.frame_rate,
            sample_rate_hz=audio.sampling_rate,
            sigmas=captured["sigmas"].cpu(),
            stage_s=clock.stage_s,
            step_s=clock.step_s(),
            peak_bytes=clock.peak_bytes(),
            details={"official_release": KNOWN_RELEASES[0], "through_helpers": self.through_helpers},
        )

    def _through_class(self, case: Case, ledger: ObservedLedger, video: Any, audio: Any) -> Any:
        module = importlib.import_module(PIPELINE)
        with patch.object(module, "ModelLedger", lambda **_: ledger):
            pipeline = module.TI2VidOneStagePipeline(
                checkpoint_path="",  # the ledger in its place knows where the weights are
                gemma_root="",
                loras=[],
                device=self.options.device,
            )
        request = case.request
        return pipeline(
            prompt=request.prompt,
            negative_prompt=_negative_prompt(case),
            seed=request.seed,
            height=request.height,
            width=request.width,
            num_frames=request.num_frames,
            frame_rate=request.frame_rate,
            num_inference_steps=request.num_inference_steps,
            video_guider_params=video,
            audio_guider_params=audio,
            images=_images(case),
        )

    def _through_helpers(self, case: Case, ledger: ObservedLedger, video: Any, audio: Any) -> Any:
        """What the class does, spelled with the helpers it calls, so that the dtype can be chosen."""
        module = importlib.import_module(PIPELINE)
        request, dtype, device = case.request, self.options.dtype, self.options.device
        generator = torch.Generator(device=device).manual_seed(request.seed)
        positive, negative = module.encode_prompts([request.prompt, _negative_prompt(case)], ledger)
        pictures = module.combined_image_conditionings(
            images=_images(case),
            height=request.height,
            width=request.width,
            video_encoder=ledger.video_encoder(),
            dtype=dtype,
            device=device,
        )
        denoise = module.multi_modal_guider_factory_denoising_func(
            video_guider_factory=module.create_multimodal_guider_factory(video, negative.video_encoding),
            audio_guider_factory=module.create_multimodal_guider_factory(audio, negative.audio_encoding),
            v_context=positive.video_encoding,
            a_context=positive.audio_encoding,
            transformer=ledger.transformer(),
        )
        sigmas = module.LTX2Scheduler().execute(steps=request.num_inference_steps)
        video_state, audio_state = module.denoise_audio_video(
            output_shape=module.VideoPixelShape(
                1, request.num_frames, request.height, request.width, request.frame_rate
            ),
            conditionings=pictures,
            noiser=module.GaussianNoiser(generator=generator),
            sigmas=sigmas.to(dtype=torch.float32, device=device),
            stepper=module.EulerDiffusionStep(),
            denoising_loop_fn=lambda schedule, video, audio, stepper: module.euler_denoising_loop(
                sigmas=schedule, video_state=video, audio_state=audio, stepper=stepper, denoise_fn=denoise
            ),
            components=module.PipelineComponents(dtype=dtype, device=device),
            dtype=dtype,
            device=device,
        )
        chunks = module.vae_decode_video(video_state.latent, ledger.video_decoder(), generator=generator)
        return chunks, module.vae_decode_audio(audio_state.latent, ledger.audio_decoder(), ledger.vocoder())


@contextlib.contextmanager
def _captured(ledger: ObservedLedger, clock: Clock) -> Iterator[dict[str, Tensor]]:
    """Observe the loop, and keep what the pipeline does not return: final latents and sigmas."""
    module = importlib.import_module(PIPELINE)
    captured: dict[str, Tensor] = {}
    samplers = importlib.import_module("ltx_pipelines.utils.samplers")
    official_denoise = module.denoise_audio_video

    def denoise(*args: Any, **kwargs: Any) -> Any:
        captured["sigmas"] = kwargs["sigmas"]
        video, audio = official_denoise(*args, **kwargs)
        captured["video"], captured["audio"] = video.latent, audio.latent
        return video, audio

    loop = observed_loop(module.euler_denoising_loop, ledger, clock)
    with (
        patch.object(module, "euler_denoising_loop", loop),
        patch.object(module, "denoise_audio_video", denoise),
        patch.object(samplers, "tqdm", iter),  # its bar would write over ours
    ):
        yield captured


def _guider_params(guider: Guider) -> Any:
    params = importlib.import_module("ltx_core.components.guiders").MultiModalGuiderParams
    return params(
        cfg_scale=guider.cfg_scale,
        stg_scale=guider.stg_scale,
        stg_blocks=list(guider.stg_blocks),
        rescale_scale=guider.rescale_scale,
        modality_scale=guider.modality_scale,
        skip_step=guider.skip_step,
    )


def _negative_prompt(case: Case) -> str:
    default: str = importlib.import_module("ltx_pipelines.utils.constants").DEFAULT_NEGATIVE_PROMPT
    return default if case.request.negative_prompt is None else case.request.negative_prompt


def _images(case: Case) -> list[Any]:
    """The case's pictures in official terms. Raises: CaseError, MediaError; the official loader's errors name no file."""
    make = importlib.import_module("ltx_pipelines.utils.args").ImageConditioningInput
    images = []
    for image in case.request.images:
        path = case.image_path(image)
        read_picture(path)
        images.append(make(str(path), image.frame_idx, image.strength, image.crf))
    return images
