"""The native pipelines: text and image to video with sound, in one stage or in two.

Components are built on the meta device, checked against the checkpoint as a whole, then loaded one after another and
freed when their stage is done, so that text encoder, transformer and decoders never stand in memory together.

Order of stages and of random numbers: ltx_pipelines.{ti2vid_one_stage,distilled,ti2vid_two_stages,
keyframe_interpolation} 1.0.0.
"""

import gc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from runners.clock import UPSAMPLING, Clock
from runners.errors import CheckpointError, ConfigError
from runners.laid_out import laid_out
from runners.ltx23.audio_decoder import AudioDecoder
from runners.ltx23.bandwidth_extension import ExtendedVocoder
from runners.ltx23.connectors import TextConnectors
from runners.ltx23.fast.fp8_choice import choice_of_tier
from runners.ltx23.fp8_cast import CastWeights, UpcastLinear, is_cast, put_in_place
from runners.ltx23.fp8_scaled_mm import ScaledLinear, ScaledWeights, scaled_layers
from runners.ltx23.gemma import gemma_text_config, load_gemma
from runners.ltx23.image import read_picture, require_affordable
from runners.ltx23.loading import expected_shapes, load, verify
from runners.ltx23.lora import FusedWeights
from runners.ltx23.parts import model_parts
from runners.ltx23.pipeline_config import PipelineConfig
from runners.ltx23.sampling import LTX23SamplingParams
from runners.ltx23.stages.audio_decoding import AudioDecodingStage
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.denoising import DenoisingStage
from runners.ltx23.stages.fast_denoising import FastDenoisingStage
from runners.ltx23.stages.image_conditioning import ImageConditioningStage
from runners.ltx23.stages.latent_preparation import LatentPreparationStage
from runners.ltx23.stages.split_denoising import SplitDenoisingStage
from runners.ltx23.stages.text_connector import LTX2TextConnectorStage
from runners.ltx23.stages.text_encoding import TextEncodingStage
from runners.ltx23.stages.upsampling import UpsamplingStage
from runners.ltx23.stages.video_decoding import VideoDecodingStage
from runners.ltx23.transformer import Transformer
from runners.ltx23.upsampler import Upsampler
from runners.ltx23.upsampler_config import UpsamplerConfig
from runners.ltx23.video_decoder import VideoDecoder
from runners.ltx23.video_encoder import VideoEncoder
from runners.ltx23.video_vae_config import VideoVaeConfig
from runners.ltx23.video_vae_statistics import PerChannelStatistics
from runners.ltx23.vocoder import Vocoder
from runners.model_files import LoraSource, ModelFiles, TensorSource
from runners.tap import scope

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class ModelComponents:
    """Builds the model's parts from one set of files, each afresh whenever it is asked for."""

    def __init__(
        self, files: ModelFiles, config: PipelineConfig, device: torch.device, loras: Sequence[LoraSource] = ()
    ) -> None:
        """Prepare; nothing is built yet.

        Args:
            files: of the model.
            config: how it computes.
            device: where its parts are built.
            loras: fused into the transformer, in this order.
        Raises: ConfigError for a configuration that is not LTX-2.3's; CheckpointError for a LoRA of another model.
        """
        self.files = files
        self.device = device
        self.reference = config.reference
        self.dtype = config.dtype
        gemma = gemma_text_config(files.gemma_config)
        self._parts = model_parts(
            files.config,
            hidden_width=gemma.hidden_size,
            num_hidden_states=gemma.num_hidden_layers + 1,
            reference=config.reference,
        )
        if files.upsampler is not None:
            self._parts["upsampler"] = partial(Upsampler, UpsamplerConfig.from_dict(files.upsampler.config))
        self._skeletons: dict[str, Any] = {}
        self._loras, self._quantization = loras, config.quantization
        self._parts["transformer"] = partial(self._quantized, self._parts["transformer"])
        self._transformer_source(loras)  # LoRAs of another model are refused before anything is loaded

    def verify(self) -> None:
        """Check that configuration and tensors belong together. Raises: ConfigError, CheckpointError."""
        with laid_out():
            self._skeletons = {name: make() for name, make in self._parts.items()}
        expected: dict[str, tuple[int, ...]] = {}
        for name, module in self._skeletons.items():
            shapes = expected_shapes(module, module.CHECKPOINT_PREFIXES)
            if name == "upsampler":
                verify(shapes, self._upsampler_tensors(), "the spatial upsampler")
            else:
                expected |= shapes
        verify(expected, self.files.model, "the checkpoint")

    def build(
        self,
        name: str,
        kind: type[ModuleT],
        loras: Sequence[LoraSource] | None = None,
        device: torch.device | None = None,
    ) -> ModuleT:
        """A loaded component, ready for inference.

        Args:
            name: of the part.
            kind: its class.
            loras: fused into the transformer in place of those of the whole run; None takes these.
            device: where it goes; None is the run's.
        """
        module = self._skeleton(name)
        prefixes: dict[str, str] = module.CHECKPOINT_PREFIXES
        if not isinstance(module, kind):
            raise TypeError(f"{name} is a {type(module).__name__}, not a {kind.__name__}")
        source = self.files.model
        if name == "transformer":
            source = self._transformer_source(self._loras if loras is None else loras)
        return load(module, prefixes, source, device or self.device, self.dtype)

    def _transformer_source(self, loras: Sequence[LoraSource]) -> TensorSource:
        source = self._kept(self.files.model)
        accumulated = self.reference.lora_accumulated
        return FusedWeights(source, loras, self.dtype, accumulated=accumulated) if loras else source

    def _kept(self, source: TensorSource) -> TensorSource:
        if self._quantization == "fp8_cast":
            return CastWeights(source)
        return source if self._quantization is None else ScaledWeights(source)

    def _quantized(self, make: Callable[[], nn.Module]) -> nn.Module:
        transformer = make()
        if self._quantization == "fp8_cast":
            put_in_place(transformer, UpcastLinear, is_cast)
        elif self._quantization == "fp8_scaled_mm":
            put_in_place(transformer, ScaledLinear, scaled_layers(self.files.model.shapes).__contains__)
        return transformer

    def text_encoder(self) -> TextEncodingStage:
        """The text encoding stage with Gemma loaded."""
        files = self.files
        return TextEncodingStage(
            load_gemma(files.gemma_config, files.gemma_folder, files.gemma, self.device, self.dtype)
        )

    def upsampler(self) -> Upsampler:
        """The loaded spatial upsampler. Raises: CheckpointError if these weights have none."""
        source = self._upsampler_tensors()
        module: Upsampler = self._skeleton("upsampler")
        return load(module, module.CHECKPOINT_PREFIXES, source, self.device, self.dtype)

    def statistics(self) -> PerChannelStatistics:
        """The loaded statistics of the video VAE."""
        with laid_out():
            module = PerChannelStatistics(VideoVaeConfig.from_checkpoint(self.files.config).latent_channels)
        prefixes = {"": VideoEncoder.CHECKPOINT_PREFIXES["per_channel_statistics."]}
        return load(module, prefixes, self.files.model, self.device, self.dtype)

    def _upsampler_tensors(self) -> TensorSource:
        if self.files.upsampler is None:
            raise CheckpointError(
                "A pipeline of two stages needs a spatial upsampler, and these weights are those of one stage; take "
                "them with `of_pipeline`."
            )
        return self.files.upsampler.tensors

    def vocoder(self) -> Vocoder | ExtendedVocoder:
        """The loaded vocoder, with or without bandwidth extension."""
        module: Vocoder | ExtendedVocoder = self._skeleton("vocoder")
        return load(module, module.CHECKPOINT_PREFIXES, self.files.model, self.device, self.dtype)

    def _skeleton(self, name: str) -> Any:
        skeleton = self._skeletons.pop(name, None)  # the one that was checked; whoever asks again gets another
        if skeleton is not None:
            return skeleton
        with laid_out():
            return self._parts[name]()


class LTX23Pipeline:
    """Runs requests through the stages."""

    def __init__(
        self,
        files: ModelFiles,
        config: PipelineConfig,
        device: torch.device,
        loras: Sequence[LoraSource] = (),
        second_loras: Sequence[LoraSource] | None = None,
        *,
        second_device: torch.device | None = None,
    ) -> None:
        """Check the model's files. Raises: ConfigError, CheckpointError.

        Args:
            files: the model's.
            config: fully resolved.
            device: of the run.
            loras: as `ModelComponents` has them.
            second_loras: those of a second stage, in place of `loras`; None runs it with the first one's transformer.
            second_device: computes some passes of each step beside it, in the exact tier.
        """
        if second_device is not None and (config.tier != "exact" or second_device.type != device.type):
            raise ConfigError(
                f"A second device takes passes of the exact tier, and is of the first one's kind; got tier "
                f"{config.tier!r} on {device} and {second_device}."
            )
        self.config = config
        self.device, self.second_device = device, second_device
        self._second_loras = second_loras
        self.components = ModelComponents(files, config, device, loras)
        self.components.verify()

    @torch.inference_mode()
    def __call__(self, sampling: LTX23SamplingParams, clock: Clock) -> Batch:
        """Run one request; the batch holds latents, frames and waveform. Raises: MediaError, ConfigError."""
        for image in sampling.images:
            # A file that is no picture is better refused now than after encoding the text.
            require_affordable(Path(image.path), sampling.height, sampling.width)
            read_picture(Path(image.path))
        components = self.components
        batch = Batch(
            sampling=sampling,
            config=self.config,
            device=self.device,
            clock=clock,
            do_classifier_free_guidance=sampling.do_classifier_free_guidance,
            extra=sampling.build_request_extra(),
        )
        self._stage(batch, "text_encoding", components.text_encoder)
        self._stage(
            batch,
            "text_connector",
            lambda: LTX2TextConnectorStage(components.build("connectors", TextConnectors)),
        )
        if not sampling.kind.two_stages:
            self._denoised(batch, self._denoising)
        elif self._second_loras is not None:
            self._in_two_stages(batch, self._denoising, partial(self._denoising, self._second_loras))
        else:
            with clock.loading():
                denoising = self._denoising()
            self._in_two_stages(batch, lambda: denoising, lambda: denoising)
            del denoising
        self._stage(
            batch, "video_decoding", lambda: VideoDecodingStage(components.build("video_decoder", VideoDecoder))
        )
        self._stage(
            batch,
            "audio_decoding",
            lambda: AudioDecodingStage(components.build("audio_decoder", AudioDecoder), components.vocoder()),
        )
        return batch

    def _in_two_stages(
        self, batch: Batch, first: Callable[[], DenoisingStage], second: Callable[[], DenoisingStage]
    ) -> None:
        """Both stages of the request, each denoised by what is made for it, and the upsampling between them."""
        self._denoised(batch, first)
        sound = batch.audio_latent
        components = self.components
        self._stage(batch, UPSAMPLING, lambda: UpsamplingStage(components.upsampler(), components.statistics()))
        batch.stage = 1
        with scope(batch.plan.scope):
            self._denoised(batch, second)
        if batch.sampling.kind.sound_moved and self.config.reference.sound_of_first_stage:
            batch.audio_latent = sound

    def _denoised(self, batch: Batch, make: Callable[[], DenoisingStage]) -> None:
        """One stage of the request, from its pictures to its clean latents."""
        if batch.sampling.images:
            encoder = partial(self.components.build, "video_encoder", VideoEncoder)
            self._stage(batch, "image_conditioning", lambda: ImageConditioningStage(encoder()))
        self._stage(batch, "latent_preparation", LatentPreparationStage)
        self._stage(batch, "denoising", make)

    def _denoising(self, loras: Sequence[LoraSource] | None = None) -> DenoisingStage:
        build = partial(self.components.build, "transformer", Transformer, loras)
        if self.second_device is not None:
            return SplitDenoisingStage(build(), build(device=self.second_device), self.second_device)
        if self.config.tier == "exact":
            return DenoisingStage(build())
        return FastDenoisingStage(build(), choice_of_tier(self.config.tier))

    def _stage(self, batch: Batch, name: str, make: Callable[[], Any]) -> None:
        batch.clock.begin(name)
        with batch.clock.loading():
            stage = make()
        stage.forward(batch)
        del stage
        if name == "text_encoding":
            gc.collect()  # transformers' modules refer to each other in cycles; ours do not, and this takes long
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        batch.clock.end()
