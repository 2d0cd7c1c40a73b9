"""Adapter for the official release 1.0.0: a pipeline class over a model ledger.

In bf16 a case goes through its pipeline class itself. These classes fix bf16. The fp32 oracle of one stage goes through
the same official helpers with another dtype; a test shows that this path in bf16 equals the class bit for bit. Classes
of two stages are called themselves, and the helpers that they hand bf16 get the run's dtype instead.
"""

import contextlib
import importlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from runners.official.compat import gemma_constant
from runners.official.ledger import key_of, model_ledger, with_made_loaders
from runners.official.observe import (
    LoopObserver,
    Observe,
    PictureObserver,
    TextObserver,
    as_it_is,
    listed_without_v2a,
    observe_audio_decoder,
    observe_one_by_one,
    tapped_upsampling,
)
from runners.official.pipelines import (
    CLASSES,
    call_arguments,
    checkpoint_keyword,
    constants_asked,
    files_of,
    official_class,
    official_module,
    with_dtype,
)
from runners.official.request import LATE, OfficialOutput, OfficialRequest, joined
from runners.weights import WeightsFolder


def execute(request: OfficialRequest) -> OfficialOutput:
    """Run a case."""
    case, options, clock = request.case, request.options, request.clock
    observer = LoopObserver(case, clock, listed_without_v2a, request.watcher)
    ledger = ObservedLedger(model_ledger(request), request, observer, PictureObserver(case))
    arguments = call_arguments(case, as_displayed=False)
    with gemma_constant(request.weights.gemma_config), _captured(request, observer) as captured, constants_asked(case):
        if request.through_helpers and case.pipeline == "one_stage":
            chunks, audio = _through_helpers(ledger, arguments, options.device, options.dtype)
        else:
            chunks, audio = _through_class(ledger, arguments, request)
        frames = joined(chunks, clock)
    return OfficialOutput(
        frames=frames,
        waveform=audio.waveform,
        sample_rate_hz=audio.sampling_rate,
        video_latent=captured.video,
        audio_latent=captured.audio,
        sigmas=torch.cat(captured.schedules),
    )


class ObservedLedger:
    """The official model ledger: hands out the same models, with stages timed and inner results tapped."""

    def __init__(
        self, ledger: Any, request: OfficialRequest, observer: LoopObserver, pictures: PictureObserver
    ) -> None:
        self._ledger = ledger
        self._request = request
        self._pictures = pictures
        self._clock = request.clock
        self._dtype = request.options.dtype
        self._watcher = request.watcher
        self._observer = observer
        text = TextObserver(request.case.guidance)
        # The stage in which each model is loaded, and what hooks it; frames are tapped where their chunks are joined.
        self._parts: dict[str, tuple[str, Observe]] = {
            "text_encoder": ("text_encoding", lambda encoder: observe_one_by_one(encoder, text)),
            "gemma_embeddings_processor": ("text_connector", text.observe_connectors),
            "video_encoder": ("image_conditioning", pictures.observe),
            "spatial_upsampler": ("upsampling", as_it_is),
            "transformer": ("latent_preparation", as_it_is),
            "video_decoder": ("video_decoding", as_it_is),
            "audio_decoder": ("audio_decoding", observe_audio_decoder),
            "vocoder": ("audio_decoding", as_it_is),
        }

    def with_additional_loras(self, loras: Any) -> "ObservedLedger":
        """The ledger of a second stage, observed in the same way."""
        return self._second(self._ledger.with_additional_loras(loras))

    def with_loras(self, loras: Any) -> "ObservedLedger":
        """The same, of a second stage that has other LoRAs than the first."""
        return self._second(self._ledger.with_loras(loras))

    def _second(self, ledger: Any) -> "ObservedLedger":
        if not isinstance(self._request.weights, WeightsFolder):
            ledger = with_made_loaders(ledger, self._request)
        return ObservedLedger(ledger, self._request, self._observer, self._pictures)

    def __getattr__(self, name: str) -> Any:
        if name not in self._parts:
            raise AttributeError(name)
        return partial(self._load, name)

    def _load(self, name: str) -> Any:
        stage, observe = self._parts[name]
        self._clock.begin(stage, told=stage != LATE)
        with self._clock.loading():
            module = getattr(self._ledger, name)()
            if name == "transformer" and self._dtype != torch.bfloat16:
                module = module.to(self._dtype)  # its builder leaves what no LoRA is fused into in the file's dtype
        if self._watcher is not None:
            self._watcher.loaded(name, module, key_of(self._ledger, name))
        observe(module)
        return self._observer.transformer(module) if name == "transformer" else module


def _through_class(ledger: ObservedLedger, arguments: dict[str, Any], request: OfficialRequest) -> Any:
    module = official_module(request.case)
    # The ledger in its place knows where they are.
    files: dict[str, Any] = {"gemma_root": "", checkpoint_keyword(request.case): "", **files_of(request)}
    with patch.object(module, "ModelLedger", lambda **given: ledger.with_loras(tuple(given["loras"]))):
        pipeline = official_class(request.case)(**files)
    return pipeline(**arguments)


def _through_helpers(
    ledger: ObservedLedger, arguments: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> Any:
    """The work of the class, spelled with the helpers it calls, so that the dtype can be chosen."""
    module = importlib.import_module(CLASSES["one_stage"].module)
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


@dataclass(kw_only=True)
class Captured:
    """Values that the pipeline does not return: the noise levels of its stages, and the latents that it decodes."""

    schedules: list[Tensor] = field(default_factory=list)
    latents: tuple[Tensor, Tensor] | None = None

    @property
    def video(self) -> Tensor:
        """The denoised video."""
        assert self.latents is not None
        return self.latents[0]

    @property
    def audio(self) -> Tensor:
        """The denoised sound."""
        assert self.latents is not None
        return self.latents[1]


@contextlib.contextmanager
def _captured(request: OfficialRequest, observer: LoopObserver) -> Iterator[Captured]:
    """Observe the loops, give the pipeline's helpers the run's dtype, and keep what the pipeline does not return."""
    case, dtype = request.case, request.options.dtype
    module = official_module(case)
    captured = Captured()
    samplers = importlib.import_module("ltx_pipelines.utils.samplers")
    encode_pictures = CLASSES[case.pipeline].encode_pictures
    official_denoise, official_pictures = module.denoise_audio_video, getattr(module, encode_pictures)

    def denoise(**kwargs: Any) -> Any:
        captured.schedules.append(kwargs["sigmas"])
        request.clock.begin("latent_preparation")
        video, audio = official_denoise(**{**kwargs, "dtype": dtype})
        captured.latents = video.latent, audio.latent
        return video, audio

    def pictures(**kwargs: Any) -> Any:
        if case.request.images:
            request.clock.begin("image_conditioning")  # an encoder that serves both stages is loaded before the first
        return official_pictures(**{**kwargs, "dtype": dtype})

    with ExitStack() as stack:
        name = CLASSES[case.pipeline].loop
        loop = observer.loop(with_dtype(getattr(module, name), case, dtype), "denoise_fn")
        stack.enter_context(patch.object(module, name, loop))
        stack.enter_context(patch.object(module, "denoise_audio_video", denoise))
        stack.enter_context(patch.object(module, encode_pictures, pictures))
        if len(case.plans) > 1:
            upsample = tapped_upsampling(module.upsample_video, request.clock, request.watcher)
            stack.enter_context(patch.object(module, "upsample_video", upsample))
        stack.enter_context(patch.object(samplers, "tqdm", iter))  # its bar would write over ours
        yield captured
