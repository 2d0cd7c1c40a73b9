"""Taps, switches and times of the official pipeline, from outside: wrappers and hooks, no edit of its files.

Axes: B sample, T token, C channel, S prompt token, D width, L Gemma layer.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from runners.clock import Clock
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


class ObservedTransformer:
    """The official x0 model: names the pass of each call, taps it, and turns V2A off in all of them when asked."""

    def __init__(self, x0_model: Any, skip_v2a: bool) -> None:
        self._model = x0_model
        self._skip_v2a = skip_v2a
        self._unperturbed_calls = 0
        if tapping():
            for index, block in enumerate(x0_model.velocity_model.transformer_blocks):
                _hook_block(index, block)

    def begin_step(self) -> None:
        """The next unperturbed call is the conditional pass of a new step."""
        self._unperturbed_calls = 0

    def __call__(self, video: Any, audio: Any, perturbations: Any) -> tuple[Tensor, Tensor]:
        """One pass: (B, T, C) x0 of both modalities."""
        with scope(self._pass_name(perturbations)):
            if self._skip_v2a:
                perturbations = _with_v2a_skipped(perturbations)
            x0: tuple[Tensor, Tensor] = self._model(video=video, audio=audio, perturbations=perturbations)
            tap("x0/video", x0[0])
            tap("x0/audio", x0[1])
        return x0

    def _pass_name(self, perturbations: Any) -> str:
        if perturbations is None:
            self._unperturbed_calls += 1
            return "cond" if self._unperturbed_calls == 1 else "uncond"
        kinds = {item.type.name for sample in perturbations.perturbations for item in sample.perturbations}
        return "isolated" if "SKIP_A2V_CROSS_ATTN" in kinds else "perturbed"


def _with_v2a_skipped(perturbations: Any) -> Any:
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


class ObservedLedger:
    """The official model ledger: hands out the same models, with stages timed and inner results tapped."""

    def __init__(self, ledger: Any, clock: Clock, skip_v2a: bool, guided: bool) -> None:
        self._ledger = ledger
        self._clock = clock
        self._skip_v2a = skip_v2a
        self._signs = ["pos", "neg"] if guided else ["pos", None]  # an unused negative prompt is not tapped
        self.transformer_in_use: ObservedTransformer | None = None

    def _load(self, stage: str, name: str) -> Any:
        self._clock.begin(stage)
        with self._clock.loading():
            return getattr(self._ledger, name)()

    def text_encoder(self) -> Any:
        """Gemma, its stacked hidden states tapped: (B, S, D, L)."""
        encoder = self._load("text_encoding", "text_encoder")
        signs = iter(self._signs)
        official: Callable[..., Any] = encoder.encode

        def encode(text: str) -> Any:
            hidden_states, mask = official(text)
            sign = next(signs)
            if tapping() and sign:
                tap(f"text/{sign}/hidden", torch.stack(hidden_states, dim=-1))
            return hidden_states, mask

        encoder.encode = encode
        return encoder

    def gemma_embeddings_processor(self) -> Any:
        """Both connectors, their outputs tapped."""
        processor = self._load("text_connector", "gemma_embeddings_processor")
        signs = iter(self._signs)
        official: Callable[..., Any] = processor.process_hidden_states

        def process(hidden_states: Any, mask: Tensor) -> Any:
            output = official(hidden_states, mask)
            sign = next(signs)
            if sign:
                tap(f"connector/{sign}/video", output.video_encoding)
                tap(f"connector/{sign}/audio", output.audio_encoding)
            return output

        processor.process_hidden_states = process
        return processor

    def video_encoder(self) -> Any:
        """The video VAE's encoder, the latent of each picture tapped."""
        encoder = self._load("image_conditioning", "video_encoder")
        count = 0

        def encoded(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            nonlocal count
            tap(f"image/{count}/latent", output)
            count += 1

        encoder.register_forward_hook(encoded)
        return encoder

    def transformer(self) -> ObservedTransformer:
        """The transformer, observed."""
        self.transformer_in_use = ObservedTransformer(self._load("latent_preparation", "transformer"), self._skip_v2a)
        return self.transformer_in_use

    def video_decoder(self) -> Any:
        """The video VAE's decoder; what it decodes is tapped where its chunks are joined."""
        return self._load("video_decoding", "video_decoder")

    def audio_decoder(self) -> Any:
        """The audio VAE's decoder, its mel spectrogram tapped."""
        decoder = self._load("audio_decoding", "audio_decoder")
        decoder.register_forward_hook(lambda _module, _inputs, output: tap("decode/mel", output))
        return decoder

    def vocoder(self) -> Any:
        """The vocoder."""
        return self._load("audio_decoding", "vocoder")


def observed_loop(official_loop: Callable[..., Any], ledger: ObservedLedger, clock: Clock) -> Callable[..., Any]:
    """The official Euler loop with initial, guided and stepped latents tapped, and steps timed."""

    def loop(sigmas: Tensor, video_state: Any, audio_state: Any, stepper: Any, denoise_fn: Callable[..., Any]) -> Any:
        clock.begin("denoising")
        count = len(sigmas) - 1
        tap("init/video", video_state.latent)
        tap("init/audio", audio_state.latent)

        def denoise(video: Any, audio: Any, schedule: Tensor, index: int) -> Any:
            clock.mark_step(index, count)
            if index:
                _tap_latents(index - 1, video, audio)
            assert ledger.transformer_in_use is not None
            ledger.transformer_in_use.begin_step()
            with scope(f"denoise/{index:03d}"):
                guided = denoise_fn(video, audio, schedule, index)
                tap("guided/video", guided[0])
                tap("guided/audio", guided[1])
            return guided

        states = official_loop(
            sigmas=sigmas, video_state=video_state, audio_state=audio_state, stepper=stepper, denoise_fn=denoise
        )
        clock.mark_step(count, count)
        _tap_latents(count - 1, *states)
        return states

    return loop


def _tap_latents(index: int, video: Any, audio: Any) -> None:
    tap(f"denoise/{index:03d}/latent/video", video.latent)
    tap(f"denoise/{index:03d}/latent/audio", audio.latent)
