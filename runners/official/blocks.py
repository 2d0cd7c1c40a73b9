"""The official pipelines since 1.1, made of blocks that build a model, use it and free it: watched from outside.

A block keeps a builder of its model. `ObservedBuilder` takes the builder's place, so that loading is timed and the
built model can be hooked before the block uses it. Everything else is the official code.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from runners.clock import Clock
from runners.official.compat import made_weights_loader, without_cpu_autocast_to_fp32
from runners.official.observe import (
    LoopObserver,
    Observe,
    Perturb,
    PictureObserver,
    TextObserver,
    as_it_is,
    observe_audio_decoder,
    tapped_upsampling,
)
from runners.official.pipelines import CLASSES, EULER, official_module, with_dtype
from runners.official.request import LATE, OfficialOutput, OfficialRequest, lora_path

BLOCKS = "ltx_pipelines.utils.blocks"


class ObservedBuilder:
    """An official model builder: times what it builds and shows it to `observe`."""

    def __init__(self, builder: Any, stage: str, clock: Clock, observe: Observe, dtype: torch.dtype | None) -> None:
        """`dtype` is that of the built model; None leaves it to the block."""
        self._builder = builder
        self._stage = stage
        self._clock = clock
        self._observe = observe
        self._dtype = dtype

    def build(self, **kwargs: Any) -> Any:
        """The model that the builder builds."""
        self._clock.begin(self._stage, told=self._stage != LATE)
        with self._clock.loading():
            model = self._builder.build(**(kwargs if self._dtype is None else {**kwargs, "dtype": self._dtype}))
            if self._dtype is not None:
                model = model.to(self._dtype)  # with LoRAs, 1.1.2 leaves what none is fused into in the file's dtype
        self._observe(model)
        return model

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._builder, name)
        if not name.startswith("with_"):
            return value

        def changed(*args: Any) -> "ObservedBuilder":
            return ObservedBuilder(value(*args), self._stage, self._clock, self._observe, self._dtype)

        return changed


class ObservedPipeline:
    """Keeps what an official pipeline does not give back: its schedules, and the latents that it decodes."""

    def __init__(self, pipeline: Any, stages: tuple[str, ...]) -> None:
        """Put observers in the place of the pipeline's stages and decoders."""
        self._schedules: list[Tensor] = []
        self._latents: dict[str, Tensor] = {}
        for name in stages:
            setattr(pipeline, name, _Observed(getattr(pipeline, name), self._denoising))
        for stream in ("video", "audio"):
            decoder = getattr(pipeline, f"{stream}_decoder")
            setattr(pipeline, f"{stream}_decoder", _Observed(decoder, partial(self._decoding, stream)))

    def output(self, frames: Tensor, audio: Any) -> OfficialOutput:
        """The outputs of the run: uint8 frames, and sound as the pipeline gives it."""
        return OfficialOutput(
            frames=frames,
            waveform=audio.waveform,
            sample_rate_hz=audio.sampling_rate,
            video_latent=self._latents["video"],
            audio_latent=self._latents["audio"],
            sigmas=torch.cat(self._schedules),
        )

    def _denoising(self, *_: Any, **kwargs: Any) -> None:
        self._schedules.append(kwargs["sigmas"])

    def _decoding(self, stream: str, latent: Tensor, *_: Any, **__: Any) -> None:
        self._latents[stream] = latent


class _Observed:
    """A block whose calls are heard."""

    def __init__(self, block: Any, hear: Callable[..., None]) -> None:
        self._block, self._hear = block, hear

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._hear(*args, **kwargs)
        return self._block(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)


def observe_pipeline(
    pipeline: Any, request: OfficialRequest, observe_encoder: Callable[[Any, TextObserver], None]
) -> ObservedPipeline:
    """Put observers into a pipeline that has been made, and the run's dtype where it is not the class's bf16.

    Args:
        pipeline: of an official class.
        request: what will be run.
        observe_encoder: how this release's text encoder is tapped.
    Returns: what will hold latents and sigmas.
    """
    clock, options, case = request.clock, request.options, request.case
    text, pictures = TextObserver(case.guidance), PictureObserver(case)
    dtype = None if options.dtype == torch.bfloat16 else options.dtype
    # Autocast to fp32 casts each bf16 weight as it is used; a CPU has no such autocast, so the weights are cast here.
    vocoder_dtype = torch.float32 if options.device.type == "cpu" else dtype
    stages = CLASSES[case.pipeline].stages
    places: dict[tuple[str, str], tuple[str, Observe, torch.dtype | None]] = {
        ("prompt_encoder", "_text_encoder_builder"): ("text_encoding", lambda e: observe_encoder(e, text), dtype),
        ("prompt_encoder", "_embeddings_processor_builder"): ("text_connector", text.observe_connectors, dtype),
        ("image_conditioner", "_encoder_builder"): ("image_conditioning", pictures.observe, dtype),
        **{(stage, "_transformer_builder"): ("latent_preparation", as_it_is, dtype) for stage in stages},
        ("video_decoder", "_decoder_builder"): ("video_decoding", as_it_is, dtype),
        ("audio_decoder", "_decoder_builder"): ("audio_decoding", observe_audio_decoder, dtype),
        ("audio_decoder", "_vocoder_builder"): ("audio_decoding", as_it_is, vocoder_dtype),
    }
    if len(case.plans) > 1:
        places[("upsampler", "_encoder_builder")] = ("upsampling", as_it_is, dtype)
        places[("upsampler", "_upsampler_builder")] = ("upsampling", as_it_is, dtype)
    for (block, attribute), (stage, observe, built_dtype) in places.items():
        owner = getattr(pipeline, block)
        setattr(owner, attribute, ObservedBuilder(getattr(owner, attribute), stage, clock, observe, built_dtype))
        owner._dtype = options.dtype
    return ObservedPipeline(pipeline, stages)


@contextlib.contextmanager
def observed_blocks(request: OfficialRequest, skip_v2a: Perturb) -> Iterator[None]:
    """While inside, the blocks' loop and transformer are observed, and this generation's stand-ins are in place.

    Args:
        request: what is run inside.
        skip_v2a: how this release is told to leave V2A out of a pass.
    """
    options = request.options
    case = request.case
    blocks, pipeline = importlib.import_module(BLOCKS), official_module(case)
    samplers = importlib.import_module("ltx_pipelines.utils.samplers")
    official_split = blocks.BatchSplitAdapter
    encode_pictures = CLASSES[case.pipeline].encode_pictures
    official_pictures = getattr(pipeline, encode_pictures)
    observer = LoopObserver(request.case, request.clock, skip_v2a, request.watcher)
    name = CLASSES[case.pipeline].loop
    of_loop = blocks if name == EULER else pipeline  # the one that stages take unless a pipeline says so, or its own
    loop = observer.loop(with_dtype(getattr(of_loop, name), case, options.dtype), "denoiser")

    def split(model: Any, max_batch_size: int) -> Any:
        # Observed below the split, where every call is a single pass.
        return official_split(observer.transformer(model), max_batch_size=max_batch_size)

    def pictures(**kwargs: Any) -> Any:
        return official_pictures(**{**kwargs, "dtype": options.dtype})  # the class says bf16 whatever its blocks do

    with ExitStack() as stack:
        stack.enter_context(patch.object(blocks, "BatchSplitAdapter", split))
        stack.enter_context(patch.object(of_loop, name, loop))
        stack.enter_context(patch.object(pipeline, encode_pictures, pictures))
        if len(case.plans) > 1:
            upsample = tapped_upsampling(blocks.upsample_video, request.clock)
            stack.enter_context(patch.object(blocks, "upsample_video", upsample))
        stack.enter_context(patch.object(samplers, "tqdm", iter))  # its bar would write over ours
        stack.enter_context(without_cpu_autocast_to_fp32())
        loras = {lora_path(lora): lora.source for lora in (*request.loras, *request.distilled_lora)}
        stack.enter_context(made_weights_loader(request.weights, loras))
        yield
