"""Taps, switches and times of the official pipeline, from outside: wrappers and hooks, no edit of its files.

Shared by all releases; what differs from release to release is handed in by their adapters.

Axes: B sample, T token, C channel, S prompt token, N of these without padding, D width, L Gemma layer.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from runners.case import Guidance
from runners.clock import Clock
from runners.errors import RunnerError
from runners.real_tokens import real_tokens
from runners.tap import scope, tap, tapping

STREAM_BRANCHES = {
    "attn1": "video/self_attn",
    "attn2": "video/text_attn",
    "audio_to_video_attn": "video/av_attn",
    "ff": "video/ff",
    "audio_attn1": "audio/self_attn",
    "audio_attn2": "audio/text_attn",
    "video_to_audio_attn": "audio/av_attn",
    "audio_ff": "audio/ff",
}  # module of a block to tap below block/{b:02d}/

Perturb = Callable[[Any], Any]  # the perturbations of one pass, with V2A skipped as well


def pass_names(guidance: Guidance) -> list[str]:
    """The passes of one step in the order in which every release runs them."""
    modalities = (guidance.video, guidance.audio)
    names = ["cond"]
    if any(not math.isclose(guider.cfg_scale, 1.0) for guider in modalities):
        names.append("uncond")
    if any(not math.isclose(guider.stg_scale, 0.0) for guider in modalities):
        names.append("perturbed")
    if any(not math.isclose(guider.modality_scale, 1.0) for guider in modalities):
        names.append("isolated")
    return names


class ObservedTransformer:
    """The official x0 model: names the pass of each call, taps it, and turns V2A off in all of them when asked."""

    def __init__(self, x0_model: Any, passes: Sequence[str], skip_v2a: Perturb | None) -> None:
        """Observe a model.

        Args:
            x0_model: the official model that predicts x0 of both modalities.
            passes: names of a step's passes in the order of the calls.
            skip_v2a: adds "no V2A in any block" to a call's perturbations; None leaves V2A on.
        """
        self._model = x0_model
        self._passes = passes
        self._skip_v2a = skip_v2a
        self._calls = 0
        if tapping():
            for index, block in enumerate(x0_model.velocity_model.transformer_blocks):
                _hook_block(index, block)

    def begin_step(self) -> None:
        """The next call is the first pass of a new step."""
        self._calls = 0

    def __call__(self, video: Any, audio: Any, perturbations: Any) -> tuple[Tensor, Tensor]:
        """One pass: (B, T, C) x0 of both modalities. Raises: RunnerError for a pass that the guidance does not want."""
        if self._calls == len(self._passes):
            raise RunnerError(
                f"The official code ran more passes in a step than {', '.join(self._passes)}; "
                "this is a release that the official runner does not know."
            )
        name = self._passes[self._calls]
        self._calls += 1
        if self._skip_v2a is not None:
            perturbations = self._skip_v2a(perturbations)
        with scope(name):
            x0: tuple[Tensor, Tensor] = self._model(video=video, audio=audio, perturbations=perturbations)
            tap("x0/video", x0[0])
            tap("x0/audio", x0[1])
        return x0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def listed_without_v2a(perturbations: Any) -> Any:
    """Perturbations with V2A skipped everywhere, where a batch of them is a list a sample (1.0.0, 1.1.2)."""
    from ltx_core.guidance import perturbations as official

    skip = official.Perturbation(type=official.PerturbationType.SKIP_V2A_CROSS_ATTN, blocks=None)
    samples = [[]] if perturbations is None else [list(sample.perturbations) for sample in perturbations.perturbations]
    return official.BatchedPerturbationConfig([official.PerturbationConfig([*sample, skip]) for sample in samples])


def _hook_block(index: int, block: nn.Module) -> None:
    def branch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: tap(f"block/{index:02d}/{name}", output)

    for attribute, name in STREAM_BRANCHES.items():
        getattr(block, attribute).register_forward_hook(branch(name))

    def out(_module: nn.Module, _inputs: Any, output: Any) -> None:
        tap(f"block/{index:02d}/video/out", output[0].x)
        tap(f"block/{index:02d}/audio/out", output[1].x)

    block.register_forward_hook(out)


class TextObserver:
    """Taps what the text encoder and the connectors put out, prompt by prompt."""

    def __init__(self, guidance: Guidance) -> None:
        """An unused negative prompt is encoded all the same, but not tapped."""
        signs = ["pos", "neg"] if "uncond" in pass_names(guidance) else ["pos", None]
        self._hidden, self._connected = iter(signs), iter(signs)

    def hidden(self, hidden_states: Sequence[Tensor], mask: Tensor) -> None:
        """A prompt went through Gemma: L tensors (1, S, D), and the mask (1, S) of its padding."""
        sign = next(self._hidden)
        if tapping() and sign:
            tap(f"text/{sign}/hidden", real_tokens(torch.stack(tuple(hidden_states), dim=-1), mask))  # (1, N, D, L)

    def observe_connectors(self, processor: Any) -> None:
        """Tap the outputs of both connectors of an official embeddings processor."""
        official: Callable[..., Any] = processor.process_hidden_states

        def process(hidden_states: Any, mask: Tensor) -> Any:
            output = official(hidden_states, mask)
            sign = next(self._connected)
            if sign:
                tap(f"connector/{sign}/video", output.video_encoding)
                tap(f"connector/{sign}/audio", output.audio_encoding)
            return output

        processor.process_hidden_states = process


def observe_one_by_one(encoder: Any, text: TextObserver) -> None:
    """Tap an official text encoder that takes one prompt a call (1.0.0, 1.1.2)."""
    official: Callable[..., Any] = encoder.encode

    def encode(prompt: str) -> Any:
        hidden_states, mask = official(prompt)
        text.hidden(hidden_states, mask)
        return hidden_states, mask

    encoder.encode = encode


def observe_image_encoder(encoder: nn.Module) -> None:
    """Tap the latent of each picture."""
    count = 0

    def encoded(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal count
        tap(f"image/{count}/latent", output)
        count += 1

    encoder.register_forward_hook(encoded)


def observe_audio_decoder(decoder: nn.Module) -> None:
    """Tap the mel spectrogram."""
    decoder.register_forward_hook(lambda _module, _inputs, output: tap("decode/mel", output))


class LoopObserver:
    """Taps initial, guided and stepped latents of the official Euler loop, and marks its steps."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._count = 0

    def begin(self, sigmas: Tensor, video: Any, audio: Any) -> None:
        """The loop begins with these states."""
        self._clock.begin("denoising")
        self._count = len(sigmas) - 1
        tap("init/video", video.latent)
        tap("init/audio", audio.latent)

    def step(self, index: int, video: Any, audio: Any, denoise: Callable[[], Any]) -> Any:
        """Step `index` begins with these states; `denoise` makes its guided x0 and is given back."""
        self._clock.mark_step(index, self._count)
        if index:
            _tap_latents(index - 1, video, audio)
        with scope(f"denoise/{index:03d}"):
            guided = denoise()
            for modality, x0 in zip(("video", "audio"), guided, strict=True):
                tap(f"guided/{modality}", getattr(x0, "denoised", x0))  # since 1.2.0 x0 comes with what it is made of
        return guided

    def end(self, video: Any, audio: Any) -> None:
        """The loop ended with these states."""
        self._clock.mark_step(self._count, self._count)
        _tap_latents(self._count - 1, video, audio)


def _tap_latents(index: int, video: Any, audio: Any) -> None:
    tap(f"denoise/{index:03d}/latent/video", video.latent)
    tap(f"denoise/{index:03d}/latent/audio", audio.latent)
