"""Adapter for the official release 1.0.0: a pipeline class over a model ledger.

In bf16 a case goes through `ltx_pipelines.ti2vid_one_stage.TI2VidOneStagePipeline` itself. That class fixes bf16, so
the fp32 oracle goes through the same official helpers with another dtype; a test shows that this path in bf16 equals
the class bit for bit.
"""

import contextlib
import importlib
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from runners.official.compat import gemma_constant
from runners.official.ledger import key_of, model_ledger
from runners.official.observe import (
    LoopObserver,
    Observe,
    TextObserver,
    as_it_is,
    listed_without_v2a,
    observe_audio_decoder,
    observe_image_encoder,
    observe_one_by_one,
)
from runners.official.request import LATE, PIPELINE, OfficialOutput, OfficialRequest, joined, pipeline_arguments


def execute(request: OfficialRequest) -> OfficialOutput:
    """Run a case."""
    case, options, clock = request.case, request.options, request.clock
    observer = LoopObserver(case, clock, listed_without_v2a, request.watcher)
    ledger = ObservedLedger(model_ledger(request), request, observer)
    arguments = pipeline_arguments(case, as_displayed=False)
    run = _through_helpers if request.through_helpers else _through_class
    with gemma_constant(request.weights.gemma_config), _captured(observer) as captured:
        chunks, audio = run(ledger, arguments, options.device, options.dtype)
        frames = joined(chunks, clock)
    return OfficialOutput(
        frames=frames,
        waveform=audio.waveform,
        sample_rate_hz=audio.sampling_rate,
        video_latent=captured["video"],
        audio_latent=captured["audio"],
        sigmas=captured["sigmas"],
    )


class ObservedLedger:
    """The official model ledger: hands out the same models, with stages timed and inner results tapped."""

    def __init__(self, ledger: Any, request: OfficialRequest, observer: LoopObserver) -> None:
        self._ledger = ledger
        self._clock = request.clock
        self._watcher = request.watcher
        self._observer = observer
        text = TextObserver(request.case.guidance)
        # The stage in which each model is loaded, and what hooks it; frames are tapped where their chunks are joined.
        self._parts: dict[str, tuple[str, Observe]] = {
            "text_encoder": ("text_encoding", lambda encoder: observe_one_by_one(encoder, text)),
            "gemma_embeddings_processor": ("text_connector", text.observe_connectors),
            "video_encoder": ("image_conditioning", observe_image_encoder),
            "transformer": ("latent_preparation", as_it_is),
            "video_decoder": ("video_decoding", as_it_is),
            "audio_decoder": ("audio_decoding", observe_audio_decoder),
            "vocoder": ("audio_decoding", as_it_is),
        }

    def __getattr__(self, name: str) -> Any:
        if name not in self._parts:
            raise AttributeError(name)
        return partial(self._load, name)

    def _load(self, name: str) -> Any:
        stage, observe = self._parts[name]
        self._clock.begin(stage, told=stage != LATE)
        with self._clock.loading():
            module = getattr(self._ledger, name)()
        if self._watcher is not None:
            self._watcher.loaded(name, module, key_of(self._ledger, name))
        observe(module)
        return self._observer.transformer(module) if name == "transformer" else module


def _through_class(ledger: ObservedLedger, arguments: dict[str, Any], device: torch.device, _: torch.dtype) -> Any:
    module = importlib.import_module(PIPELINE)
    with patch.object(module, "ModelLedger", lambda **_: ledger):
        pipeline = module.TI2VidOneStagePipeline(
            checkpoint_path="",  # the ledger in its place knows where the weights are
            gemma_root="",
            loras=[],  # as for these
            device=device,
        )
    return pipeline(**arguments)


def _through_helpers(
    ledger: ObservedLedger, arguments: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> Any:
    """The work of the class, spelled with the helpers it calls, so that the dtype can be chosen."""
    module = importlib.import_module(PIPELINE)
    height, width = arguments["height"], arguments["width"]
    generator = torch.Generator(device=device).manual_seed(arguments["seed"])
    positive, negative = module.encode_prompts([arguments["prompt"], arguments["negative_prompt"]], ledger)
    pictures = module.combined_image_conditionings(
        images=arguments["images"],
        height=height,
        width=width,
        video_encoder=ledger.video_encoder(),
        dtype=dtype,
        device=device,
    )
    guiders = module.create_multimodal_guider_factory
    denoise = module.multi_modal_guider_factory_denoising_func(
        video_guider_factory=guiders(arguments["video_guider_params"], negative.video_encoding),
        audio_guider_factory=guiders(arguments["audio_guider_params"], negative.audio_encoding),
        v_context=positive.video_encoding,
        a_context=positive.audio_encoding,
        transformer=ledger.transformer(),
    )
    sigmas = module.LTX2Scheduler().execute(steps=arguments["num_inference_steps"])
    video_state, audio_state = module.denoise_audio_video(
        output_shape=module.VideoPixelShape(1, arguments["num_frames"], height, width, arguments["frame_rate"]),
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
def _captured(observer: LoopObserver) -> Iterator[dict[str, Tensor]]:
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

    loop = observer.loop(module.euler_denoising_loop, "denoise_fn")
    with (
        patch.object(module, "euler_denoising_loop", loop),
        patch.object(module, "denoise_audio_video", denoise),
        patch.object(samplers, "tqdm", iter),  # its bar would write over ours
    ):
        yield captured
