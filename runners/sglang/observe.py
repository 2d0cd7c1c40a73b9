"""Taps and times of SGLang's pipeline, from outside: hooks and wrappers around its methods, no edit of its code.

Tensors are handed on in the official layouts: tokens (B, T, C), one guidance pass at a time. At quality `exact` each
pass is a call of its own; above it all passes of a step share one batch, and what that leaves is split. SGLang runs the
negative pass whatever its weight, and both streams in steps that one of them skips: what the case has no tap for is not
handed on.

Axes: B sample, T token, C channel, S prompt token, N of these without padding, D width, L Gemma layer, F frame,
H height, W width, M mel bin.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor, nn

from runners.case import Case
from runners.clock import Clock
from runners.ltx23.branches import TAPS
from runners.real_tokens import real_tokens
from runners.releases import reference_of
from runners.tap import tap, tapping

STAGES: Final = {
    "TextEncodingStage": "text_encoding",
    "LTX2TextConnectorStage": "text_connector",
    "LTX2AVLatentPreparationStage": "latent_preparation",
    "LTX2ImageEncodingStage": "image_conditioning",
    "LTX2AVDenoisingStage": "denoising",
}  # the decoding stage is two of ours
STREAMS: Final = ("video", "audio")


class SGLangObserver:
    """Listens to one request, times its stages and keeps the final latents."""

    def __init__(self, pipeline: Any, clock: Clock, case: Case) -> None:
        """Prepare for the request of a case."""
        self.pipeline = pipeline
        self.video_latent: Tensor | None = None  # (1, C, F, H, W), as the decoder gets it but for its statistics
        self.audio_latent: Tensor | None = None  # (1, C, T, M)
        self.sigmas: Tensor | None = None  # (steps + 1,)
        self.calls_a_step: list[int] = []
        self._clock = clock
        self._guiders = {"video": case.guidance.video, "audio": case.guidance.audio}
        self._steps = case.request.num_inference_steps
        self._negative_leaves_out = reference_of(case.reference).negative_disables_skipped_modality
        guiders = self._guiders.values()
        # As SGLang decides it; in its order.
        self._passes = ["cond", "uncond"]
        if any(guider.stg_scale != 0.0 for guider in guiders):
            self._passes.append("perturbed")
        if any(guider.modality_scale != 1.0 for guider in guiders):
            self._passes.append("isolated")
        self._unused = set() if any(guider.needs_uncond for guider in guiders) else {"uncond"}
        self._encoded = self._connected = 0
        self._images = 0
        self._step = self._calls = self._converted = 0
        self._running: list[str] = []  # passes of the call under way, in the order of its batch

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Listen while inside."""
        stages = {type(stage).__name__: stage for stage in self.pipeline.stages}
        denoising, images = stages["LTX2AVDenoisingStage"], stages["LTX2ImageEncodingStage"]
        with ExitStack() as stack:
            for name, stage in STAGES.items():
                stack.enter_context(patch.object(stages[name], "forward", self._beginning(stages[name].forward, stage)))
            for owner, name, wrapper in (
                (images, "_condition_encode", self._image_encoded),
                (denoising, "_prepare_denoising_loop", self._prepared),
                (denoising, "_run_denoising_step", self._stepped),
                (denoising, "_ltx2_velocity_to_x0", self._x0),
                (denoising, "_post_denoising_loop", self._ended),
            ):
                stack.enter_context(patch.object(owner, name, _around(getattr(owner, name), wrapper)))
            for handle in self._hooks():
                stack.callback(handle.remove)
            yield

    def _hooks(self) -> Iterator[Any]:
        modules = self.pipeline.modules
        yield modules["text_encoder"].register_forward_hook(self._text_encoded, with_kwargs=True)
        yield modules["connectors"].register_forward_hook(self._text_connected)
        yield modules["transformer"].register_forward_pre_hook(self._called, with_kwargs=True)
        yield modules["vae"].decoder.register_forward_pre_hook(lambda *_: self._clock.begin("video_decoding"))
        yield modules["audio_vae"].decoder.register_forward_pre_hook(lambda *_: self._clock.begin("audio_decoding"))
        yield modules["audio_vae"].decoder.register_forward_hook(lambda _m, _i, mel: tap("decode/mel", mel))
        if tapping():
            for index, block in enumerate(modules["transformer"].transformer_blocks):
                for attribute, name in TAPS.items():
                    yield getattr(block, attribute).register_forward_hook(self._branch(index, name))
                yield block.register_forward_hook(self._block_ended(index))

    def _beginning(self, forward: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def begun(*arguments: Any, **options: Any) -> Any:
            self._clock.begin(stage)
            return forward(*arguments, **options)

        return begun

    def _text_encoded(self, _module: nn.Module, _inputs: Any, arguments: dict[str, Any], output: Any) -> None:
        sign = ("pos", "neg")[self._encoded]
        self._encoded += 1
        if tapping() and not (sign == "neg" and self._unused):
            hidden = torch.stack(tuple(output.hidden_states), dim=-1)  # (1, S, D, L)
            tap(f"text/{sign}/hidden", real_tokens(hidden, arguments["attention_mask"]))  # (1, N, D, L)

    def _text_connected(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        sign = ("pos", "neg")[self._connected]
        self._connected += 1
        if not (sign == "neg" and self._unused):
            for stream, context in zip(STREAMS, output, strict=False):  # a mask comes third
                tap(f"connector/{sign}/{stream}", context)

    def _image_encoded(self, original: Callable[..., Tensor], *arguments: Any, **options: Any) -> Tensor:
        latent = original(*arguments, **options)
        tap(f"image/{self._images}/latent", latent)
        self._images += 1
        return latent

    def _prepared(self, original: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        context = original(*arguments, **options)
        self.sigmas = context.sigmas_host.clone()
        tap("init/video", context.latents)
        tap("init/audio", context.audio_latents)
        self._clock.mark_step(0, self._steps)
        return context

    def _stepped(self, original: Callable[..., Any], context: Any, step: Any, *arguments: Any, **options: Any) -> None:
        self._step, self._calls, self._converted = step.step_index, 0, 0
        original(context, step, *arguments, **options)
        # What the step went on with, also where it is that of an earlier step.
        tap(f"denoise/{self._step:03d}/guided/video", context.last_denoised_video)
        tap(f"denoise/{self._step:03d}/guided/audio", context.last_denoised_audio)
        tap(f"denoise/{self._step:03d}/latent/video", context.latents)
        tap(f"denoise/{self._step:03d}/latent/audio", context.audio_latents)
        self.calls_a_step.append(self._calls)
        self._clock.mark_step(self._step + 1, self._steps)

    def _called(self, _module: nn.Module, _inputs: Any, arguments: dict[str, Any]) -> None:
        self._calls += 1
        together = arguments["hidden_states"].shape[0] == len(self._passes)
        self._running = self._passes if together else [self._passes[self._calls - 1]]

    def _part(self, index: int, name: str, wanted: Callable[[str], bool]) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            for guidance_pass, part in zip(self._running, output.chunk(len(self._running)), strict=True):
                if wanted(guidance_pass):
                    tap(f"denoise/{self._step:03d}/{guidance_pass}/block/{index:02d}/{name}", part)

        return hook

    def _branch(self, index: int, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        stream, _, branch = name.partition("/")

        def wanted(guidance_pass: str) -> bool:
            # In a shared batch the isolated pass computes cross-modal attention and multiplies it by zero.
            masked = guidance_pass == "isolated" and branch == "av_attn"
            kept = guidance_pass == "uncond" and not self._negative_leaves_out
            skipped = self._guiders[stream].skips(self._step) and not kept
            return self._wanted(guidance_pass) and not masked and not skipped

        return self._part(index, name, wanted)

    def _block_ended(self, index: int) -> Callable[[nn.Module, Any, tuple[Tensor, Tensor]], None]:
        video, audio = (self._part(index, f"{stream}/out", self._wanted) for stream in STREAMS)

        def hook(module: nn.Module, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
            video(module, inputs, output[0])
            audio(module, inputs, output[1])

        return hook

    def _x0(self, original: Callable[..., Tensor], *arguments: Any, **options: Any) -> Tensor:
        value = original(*arguments, **options)
        guidance_pass, stream = self._passes[self._converted // 2], STREAMS[self._converted % 2]
        self._converted += 1
        if self._wanted(guidance_pass):
            tap(f"denoise/{self._step:03d}/{guidance_pass}/x0/{stream}", value)
        return value

    def _wanted(self, guidance_pass: str) -> bool:
        """True if the case has a pass at this step: it has weight, and one of the streams is evaluated."""
        skipped = all(guider.skips(self._step) for guider in self._guiders.values())
        return guidance_pass not in self._unused and not skipped

    def _ended(self, original: Callable[..., Any], batch: Any, *arguments: Any, **options: Any) -> Any:
        result = original(batch, *arguments, **options)
        self.video_latent, self.audio_latent = batch.latents.clone(), batch.audio_latents.clone()
        return result


def _around(original: Callable[..., Any], wrapper: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments, **options: wrapper(original, *arguments, **options)
