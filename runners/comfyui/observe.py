"""Taps and times of a request in ComfyUI, from outside: hooks on its modules, wrappers around a few functions.

Tensors are handed on in the official layouts: tokens (B, T, C), one guidance pass at a time, as Lightricks' guider runs
them. Pictures beyond the first frame are latent frames behind the clip's own, whose tokens stand at the end, as
officially. What the case has no tap for (the negative prompt of a case without guidance) is not handed on.

Axes: B sample, T token, C channel, S prompt token, D width, L Gemma layer, F frame, H height, W width, M mel bin.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor, nn

from runners.case import Case
from runners.clock import Clock
from runners.ltx23.branches import TAPS
from runners.ltx23.passes import pass_names
from runners.real_tokens import real_tokens
from runners.tap import tap, tapping

STREAMS: Final = ("video", "audio")
SIGNS: Final = ("pos", "neg")


class ComfyUIObserver:
    """Listens to one request and times its steps."""

    def __init__(self, clock: Clock, case: Case) -> None:
        """Prepare for the request of a case."""
        self._clock = clock
        self._steps = case.request.num_inference_steps
        self._passes = pass_names(case.guidance.video, case.guidance.audio)  # in the guider's order, too
        self._signs = SIGNS if "uncond" in self._passes else SIGNS[:1]
        self._connected = self._called = 0
        self._step = -1
        self._pass = ""
        self._shapes: Any = None  # of the streams in the packed latent
        self._utils = importlib.import_module("comfy.utils")

    @contextmanager
    def encoding(self, clip: Any, sign: str) -> Iterator[None]:
        """Listen to the encoding of one prompt while inside."""

        def encoded(_module: nn.Module, _inputs: Any, output: tuple[Tensor, Any, dict[str, Tensor]]) -> None:
            if tapping() and sign in self._signs:
                hidden = output[0].permute(0, 2, 3, 1)  # (B, L, S, D) -> (B, S, D, L)
                tap(f"text/{sign}/hidden", real_tokens(hidden, output[2]["attention_mask"]))

        handle = clip.cond_stage_model.gemma3_12b.register_forward_hook(encoded)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def denoising(self, guider: Any, transformer: Any) -> Iterator[None]:
        """Listen to connectors and steps while inside."""
        samplers = importlib.import_module("comfy.samplers")
        with ExitStack() as stack:
            for owner, name, wrapper in (
                (transformer, "preprocess_text_embeds", self._text_connected),
                (guider, "predict_noise", self._predicted),
                (samplers, "calc_cond_batch", self._evaluated),
            ):
                stack.enter_context(patch.object(owner, name, _around(getattr(owner, name), wrapper, owner)))
            if tapping():
                for index, block in enumerate(transformer.transformer_blocks):
                    for attribute, name in TAPS.items():
                        stack.callback(
                            getattr(block, attribute).register_forward_hook(self._branch(index, name)).remove
                        )
                    stack.callback(block.register_forward_hook(self._block_ended(index)).remove)
            yield

    def ended(self, streams: list[Tensor]) -> None:
        """Take the latents that the last step left: (B, C, F, H, W) and (B, C, T, M)."""
        self._clock.mark_step(self._steps, self._steps)
        self._tap_streams(f"denoise/{self._steps - 1:03d}/latent", streams)

    @contextmanager
    def decoding_audio(self, model: Any) -> Iterator[None]:
        """Listen to the vocoder's input while inside."""

        def vocoded(original: Callable[[Tensor], Tensor], _owner: Any, mel: Tensor) -> Tensor:
            tap("decode/mel", mel)
            return original(mel)

        with patch.object(model, "run_vocoder", _around(model.run_vocoder, vocoded, model)):
            yield

    def _text_connected(
        self, original: Callable[..., Tensor], transformer: Any, *arguments: Any, **options: Any
    ) -> Any:
        self._clock.begin("text_connector")
        context = original(*arguments, **options)
        sign = SIGNS[self._connected]
        self._connected += 1
        if sign in self._signs:
            widths = [transformer.cross_attention_dim, transformer.audio_cross_attention_dim]
            for stream, part in zip(STREAMS, torch.split(context, widths, dim=-1), strict=True):
                tap(f"connector/{sign}/{stream}", part)
        return context

    def _predicted(
        self, original: Callable[..., Tensor], guider: Any, packed: Tensor, *arguments: Any, **options: Any
    ) -> Tensor:
        """A step: the guider's prediction, from the latents that the step before left."""
        self._shapes = guider.conds["positive"][0]["model_conds"]["latent_shapes"].cond
        before = "init" if self._step < 0 else f"denoise/{self._step:03d}/latent"
        self._step, self._called = self._step + 1, 0
        if self._step == 0:
            self._clock.begin("denoising")
        self._clock.mark_step(self._step, self._steps)
        self._tap_packed(before, packed)
        guided = original(packed, *arguments, **options)
        self._tap_packed(f"denoise/{self._step:03d}/guided", guided)
        return guided

    def _evaluated(self, original: Callable[..., Any], _owner: Any, *arguments: Any, **options: Any) -> Any:
        """A guidance pass."""
        self._pass = self._passes[self._called]
        self._called += 1
        predictions = original(*arguments, **options)
        self._tap_packed(f"denoise/{self._step:03d}/{self._pass}/x0", predictions[0])
        return predictions

    def _branch(self, index: int, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _inputs, output: tap(self._place(index, name), output)

    def _block_ended(self, index: int) -> Callable[[nn.Module, Any, tuple[Tensor, Tensor]], None]:
        def hook(_module: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor]) -> None:
            for stream, tokens in zip(STREAMS, output, strict=True):
                tap(self._place(index, f"{stream}/out"), tokens)

        return hook

    def _place(self, index: int, name: str) -> str:
        return f"denoise/{self._step:03d}/{self._pass}/block/{index:02d}/{name}"

    def _tap_packed(self, name: str, packed: Tensor) -> None:
        if tapping():
            self._tap_streams(name, self._utils.unpack_latents(packed, self._shapes))

    def _tap_streams(self, name: str, streams: list[Tensor]) -> None:
        video, audio = streams
        tap(f"{name}/video", video.flatten(2).transpose(1, 2))  # (B, C, F, H, W) -> (B, T, C)
        tap(f"{name}/audio", audio.transpose(1, 2).flatten(2))  # (B, C, T, M) -> (B, T, C * M)


def _around(original: Callable[..., Any], wrapper: Callable[..., Any], owner: Any) -> Callable[..., Any]:
    return lambda *arguments, **options: wrapper(original, owner, *arguments, **options)
