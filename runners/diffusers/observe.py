"""Taps and times of a diffusers pipeline, from outside: hooks and wrappers around its own methods, no edit of its code.

Tensors are handed on in the official layouts: tokens (B, T, C), one guidance pass at a time. diffusers runs the
negative and the positive prompt as one batch of two, so what that batch leaves is split, negative first. Values and
dtypes stay diffusers' own: its latents and x0 are fp32.

Axes: B sample, T token, C channel, S prompt token, N of these without padding, D width, L Gemma layer, F frame,
H height, W width, M mel bin.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from einops import rearrange
from torch import Tensor, nn

from runners.clock import Clock
from runners.ltx23.branches import BRANCHES
from runners.real_tokens import real_tokens
from runners.tap import tap, tapping


class DiffusersObserver:
    """Listens to one call of a pipeline, times its stages and keeps the final latents."""

    def __init__(self, pipeline: Any, clock: Clock, steps: int, guided: bool, stage: str = "") -> None:
        """Prepare for a call.

        Args:
            pipeline: which is called.
            clock: told of every stage.
            steps: of this call.
            guided: whether it runs the negative prompt too.
            stage: what the names of its taps begin with; a second stage has text and picture from the first one.
        """
        self.pipeline = pipeline
        self.video_latent: Tensor | None = None  # (1, C, F, H, W), as the decoder gets it but for its statistics
        self.audio_latent: Tensor | None = None  # (1, C, T, M)
        self._clock = clock
        self._steps = steps
        self._stage = stage
        self._begun = False  # denoising
        self._prompts = ("neg", "pos") if guided else ("pos",)  # in the order of the batch
        self._encoded = 0
        self._step = 0
        self._passes: tuple[str, ...] = ()  # of the transformer call under way, in the order of its batch
        self._converted = {"video": 0, "audio": 0}  # x0 predictions made since that call

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Listen while inside."""
        pipeline = self.pipeline
        with ExitStack() as stack:
            for name, wrapper in (
                ("prepare_latents", self._prepare_latents),
                ("prepare_audio_latents", self._prepare_audio_latents),
                ("_normalize_latents", self._normalize_latents),
                ("convert_velocity_to_x0", self._convert_velocity_to_x0),
                ("convert_x0_to_velocity", self._convert_x0_to_velocity),
                ("_denormalize_latents", self._denormalize_latents),
                ("_denormalize_audio_latents", self._denormalize_audio_latents),
            ):
                if hasattr(pipeline, name):  # the text-to-video pipeline encodes no picture
                    stack.enter_context(patch.object(pipeline, name, _around(getattr(pipeline, name), wrapper)))
            scheduler_class: Any = type(pipeline.scheduler)
            stack.enter_context(patch.object(scheduler_class, "step", self._stepping(scheduler_class.step)))
            for handle in self._hooks():
                stack.callback(handle.remove)
            yield

    def step_ended(self, _pipeline: Any, index: int, _timestep: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The pipeline's own callback at the end of a step."""
        tap(f"{self._stage}denoise/{index:03d}/latent/video", values["latents"])
        self._clock.mark_step(index + 1, self._steps)
        self._step = index + 1
        return values

    def _hooks(self) -> Iterator[Any]:
        pipeline = self.pipeline
        yield pipeline.text_encoder.register_forward_pre_hook(lambda *_: self._begin_once("text_encoding"))
        yield pipeline.text_encoder.register_forward_hook(self._text_encoded, with_kwargs=True)
        if not self._stage:
            yield pipeline.connectors.register_forward_pre_hook(lambda *_: self._clock.begin("text_connector"))
            yield pipeline.connectors.register_forward_hook(self._connected)
        yield pipeline.transformer.register_forward_pre_hook(self._transformer_called, with_kwargs=True)
        # An inner module, for the transformer itself may still have to be loaded when it is called.
        yield pipeline.transformer.proj_in.register_forward_pre_hook(lambda *_: self._denoising_begins())
        encoder = pipeline.vae.encoder
        yield encoder.register_forward_pre_hook(lambda *_: self._clock.begin("image_conditioning"))
        yield encoder.register_forward_hook(lambda *_: self._clock.begin("latent_preparation"))
        if tapping():
            for index, block in enumerate(pipeline.transformer.transformer_blocks):
                for (stream, part), attribute in BRANCHES.items():
                    yield getattr(block, attribute).register_forward_hook(self._branch(index, f"{stream}/{part}"))
                yield block.register_forward_hook(self._block_ended(index))
        yield pipeline.vae.decoder.register_forward_pre_hook(lambda *_: self._clock.begin("video_decoding"))
        yield pipeline.audio_vae.decoder.register_forward_pre_hook(lambda *_: self._clock.begin("audio_decoding"))
        yield pipeline.audio_vae.decoder.register_forward_hook(lambda _m, _i, mel: tap("decode/mel", mel))

    def _begin_once(self, stage: str) -> None:
        if not self._encoded:
            self._clock.begin(stage)

    def _denoising_begins(self) -> None:
        if not self._begun and self._passes in (("cond",), ("uncond", "cond")):
            self._begun = True
            self._clock.begin("denoising")
            self._clock.mark_step(0, self._steps)

    def _text_encoded(self, _module: nn.Module, _inputs: Any, arguments: dict[str, Any], output: Any) -> None:
        sign = self._prompts[::-1][self._encoded]  # one prompt at a time, the positive one first
        self._encoded += 1
        if tapping():
            hidden = torch.stack(output.hidden_states, dim=-1)  # (1, S, D, L)
            tap(f"text/{sign}/hidden", real_tokens(hidden, arguments["attention_mask"]))  # (1, N, D, L)

    def _connected(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        for stream, context in zip(("video", "audio"), output, strict=False):  # a mask comes third
            for sign, part in zip(self._prompts, context.chunk(len(self._prompts)), strict=True):
                tap(f"connector/{sign}/{stream}", part)

    def _prepare_latents(self, original: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        self._clock.begin("latent_preparation")
        prepared = original(*arguments, **options)
        # The image pipeline also gives the mask of what is to be kept.
        tap(f"{self._stage}init/video", prepared[0] if isinstance(prepared, tuple) else prepared)
        return prepared

    def _prepare_audio_latents(self, original: Callable[..., Tensor], *arguments: Any, **options: Any) -> Tensor:
        latents = original(*arguments, **options)
        tap(f"{self._stage}init/audio", latents)
        return latents

    def _normalize_latents(self, original: Callable[..., Tensor], *arguments: Any) -> Tensor:
        latent = original(*arguments)
        if not self._stage:  # what a second stage normalizes is the enlarged latent
            tap("image/0/latent", latent)
        return latent

    def _transformer_called(self, _module: nn.Module, _inputs: Any, arguments: dict[str, Any]) -> None:
        if arguments["isolate_modalities"]:
            self._passes = ("isolated",)
        elif arguments["spatio_temporal_guidance_blocks"]:
            self._passes = ("perturbed",)
        else:
            self._passes = ("uncond", "cond") if len(self._prompts) == 2 else ("cond",)
        self._converted = {"video": 0, "audio": 0}

    def _branch(self, index: int, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            for guidance_pass, part in zip(self._passes, output.chunk(len(self._passes)), strict=True):
                tap(f"{self._stage}denoise/{self._step:03d}/{guidance_pass}/block/{index:02d}/{name}", part)

        return hook

    def _block_ended(self, index: int) -> Callable[[nn.Module, Any, tuple[Tensor, Tensor]], None]:
        video, audio = self._branch(index, "video/out"), self._branch(index, "audio/out")

        def hook(module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
            video(module, inputs, output[0])
            audio(module, inputs, output[1])

        return hook

    def _convert_velocity_to_x0(
        self, original: Callable[..., Tensor], sample: Tensor, velocity: Tensor, index: int, scheduler: Any
    ) -> Tensor:
        x0 = original(sample, velocity, index, scheduler)
        stream = self._stream(scheduler)
        # The pipeline converts the conditional prediction first, though it stands last in the batch.
        guidance_pass = self._passes[::-1][self._converted[stream]]
        self._converted[stream] += 1
        tap(f"{self._stage}denoise/{index:03d}/{guidance_pass}/x0/{stream}", x0)
        return x0

    def _convert_x0_to_velocity(
        self, original: Callable[..., Tensor], sample: Tensor, x0: Tensor, index: int, scheduler: Any
    ) -> Tensor:
        # The image pipeline has unpacked video to (B, C, F, H, W) by now.
        tap(
            f"{self._stage}denoise/{index:03d}/guided/{self._stream(scheduler)}",
            self._packed(x0) if x0.ndim == 5 else x0,
        )
        return original(sample, x0, index, scheduler)

    def _stepping(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def step(scheduler: Any, *arguments: Any, **options: Any) -> Any:
            stepped = original(scheduler, *arguments, **options)
            if self._stream(scheduler) == "audio":  # the video latent is whole only after the step
                tap(f"{self._stage}denoise/{self._step:03d}/latent/audio", stepped[0])
            return stepped

        return step

    def _denormalize_latents(self, original: Callable[..., Tensor], latents: Tensor, *statistics: Any) -> Tensor:
        self.video_latent = latents
        return original(latents, *statistics)

    def _denormalize_audio_latents(self, original: Callable[..., Tensor], latents: Tensor, *statistics: Any) -> Tensor:
        channels: int = self.pipeline.audio_vae.config.latent_channels
        self.audio_latent = rearrange(latents, "b t (c m) -> b c t m", c=channels)
        return original(latents, *statistics)

    def _packed(self, latents: Tensor) -> Tensor:
        packed: Tensor = self.pipeline._pack_latents(
            latents, self.pipeline.transformer_spatial_patch_size, self.pipeline.transformer_temporal_patch_size
        )
        return packed

    def _stream(self, scheduler: Any) -> str:
        return "video" if scheduler is self.pipeline.scheduler else "audio"  # audio steps with a copy of it


def _around(original: Callable[..., Any], wrapper: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments, **options: wrapper(original, *arguments, **options)
