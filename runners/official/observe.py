"""Taps, switches and times of the official pipeline, from outside: wrappers and hooks, no edit of its files.

Shared by all releases; what differs from release to release is handed in by their adapters.

Axes: B sample, T token, C channel, S prompt token, N of these without padding, D width, L Gemma layer.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final
from weakref import WeakSet

import torch
from torch import Tensor, nn

from runners.case import Case, Guidance
from runners.clock import UPSAMPLING, Clock
from runners.errors import RunnerError
from runners.ltx23.branches import BRANCHES
from runners.ltx23.passes import pass_names
from runners.official.lockstep import PipelineWatcher, state_of
from runners.real_tokens import real_tokens
from runners.tap import scope, tap, tapping

CALL: Final = ("video_state", "audio_state", "sigmas", "step_index")  # so a call of what denoises ends
Observe = Callable[[Any], None]  # hooks a model that has been built
# The perturbations of one pass with V2A skipped as well: of those it has (None: none), the x0 model, and its latent.
Perturb = Callable[[Any, Any, Tensor], Any]


class ObservedTransformer:
    """The official x0 model: names the pass of each call, taps it, and turns V2A off in all of them when asked."""

    def __init__(self, x0_model: Any, skip_v2a: Perturb | None, *, hook: bool = True) -> None:
        """Observe a model.

        Args:
            x0_model: the official model that predicts x0 of both modalities.
            skip_v2a: adds "no V2A in any block" to a call's perturbations; None leaves V2A on.
            hook: whether its blocks are to be hooked; not where they are those of a model that was observed before.
        """
        self._model = x0_model
        self._skip_v2a = skip_v2a
        self._passes: Sequence[str] = ()
        self._calls = 0
        if tapping() and hook:
            for index, block in enumerate(x0_model.velocity_model.transformer_blocks):
                _hook_block(index, block)

    def begin_step(self, passes: Sequence[str]) -> None:
        """The next call is the first pass of a new step, whose passes these are, in the order of the calls."""
        self._passes, self._calls = passes, 0

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
            perturbations = self._skip_v2a(perturbations, self._model, video.latent)
        with scope(name):
            x0: tuple[Tensor, Tensor] = self._model(video=video, audio=audio, perturbations=perturbations)
            tap("x0/video", x0[0])
            tap("x0/audio", x0[1])
        return x0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def listed_without_v2a(perturbations: Any, _model: Any, _latent: Tensor) -> Any:
    """Perturbations with V2A skipped everywhere, where a batch of them is a list a sample (1.0.0, 1.1.2)."""
    from ltx_core.guidance import perturbations as official

    skip = official.Perturbation(type=official.PerturbationType.SKIP_V2A_CROSS_ATTN, blocks=None)
    samples = [[]] if perturbations is None else [list(sample.perturbations) for sample in perturbations.perturbations]
    return official.BatchedPerturbationConfig([official.PerturbationConfig([*sample, skip]) for sample in samples])


def _hook_block(index: int, block: nn.Module) -> None:
    def branch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: tap(f"block/{index:02d}/{name}", output)

    for (stream, part), module in BRANCHES.items():
        getattr(block, module).register_forward_hook(branch(f"{stream}/{part}"))

    def out(_module: nn.Module, _inputs: Any, output: Any) -> None:
        tap(f"block/{index:02d}/video/out", output[0].x)
        tap(f"block/{index:02d}/audio/out", output[1].x)

    block.register_forward_hook(out)


class TextObserver:
    """Taps what the text encoder and the connectors put out, prompt by prompt."""

    def __init__(self, guidance: Guidance) -> None:
        """An unused negative prompt may be encoded all the same, but is not tapped."""
        signs = ["pos", "neg"] if "uncond" in pass_names(guidance.video, guidance.audio) else ["pos", None]
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


def as_it_is(_model: Any) -> None:
    """Nothing in this model is hooked where it is built."""


class PictureObserver:
    """Taps the latent of each picture, stage by stage, whether one encoder serves both stages or each has its own."""

    def __init__(self, case: Case) -> None:
        self._names = [
            f"{plan.prefix}image/{index}/latent" for plan in case.plans for index in range(len(case.request.images))
        ]
        self._count = 0
        self._observed: WeakSet[nn.Module] = WeakSet()

    def observe(self, encoder: nn.Module) -> None:
        """Tap what this encoder puts out; since 1.2.0 the same one may come again."""
        if encoder not in self._observed:
            self._observed.add(encoder)
            encoder.register_forward_hook(self._encoded)

    def _encoded(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if self._count == len(self._names):
            raise RunnerError("The official code encoded more pictures than the case has; it is another release.")
        tap(self._names[self._count], output)
        self._count += 1


def tapped_upsampling(
    official: Callable[..., Tensor], clock: Clock, watcher: PipelineWatcher | None = None
) -> Callable[..., Tensor]:
    """The official upsampling of a latent, timed, its result tapped and told to who watches."""

    def upsample(latent: Tensor, **modules: Any) -> Tensor:
        clock.begin(UPSAMPLING)
        enlarged = official(latent=latent, **modules)
        tap("upsample/latent", enlarged)
        if watcher is not None:
            watcher.upsampled(latent, enlarged)
        return enlarged

    return upsample


def observe_audio_decoder(decoder: nn.Module) -> None:
    """Tap the mel spectrogram."""
    decoder.register_forward_hook(lambda _module, _inputs, output: tap("decode/mel", output))


class LoopObserver:
    """Taps initial, guided and stepped latents of the official loops and the passes between, and marks steps.

    What is tapped of a step is complete before a watcher is told of the next one.
    """

    def __init__(self, case: Case, clock: Clock, skip_v2a: Perturb, watcher: PipelineWatcher | None) -> None:
        """Observe the loops of a run, one for each stage.

        Args:
            case: what is run.
            clock: told of every step.
            skip_v2a: adds "no V2A in any block" to the perturbations of a pass, where the case wants that.
            watcher: told of every step; None if nobody watches.
        """
        self._plans = iter(case.plans)
        self._passes: tuple[str, ...] = ()
        self._observed: WeakSet[Any] = WeakSet()
        self._clock = clock
        self._skip_v2a = skip_v2a if case.switches.skip_v2a_cross_attn_for_video_gt else None
        self._watcher = watcher
        self._transformer: ObservedTransformer | None = None

    def transformer(self, x0_model: Any) -> ObservedTransformer:
        """The model that the loop is about to call, observed."""
        # Since 1.2.0 the second stage may get the first one's model, in a shell of its own.
        known = x0_model.velocity_model in self._observed
        self._observed.add(x0_model.velocity_model)
        self._transformer = ObservedTransformer(x0_model, self._skip_v2a, hook=not known)
        return self._transformer

    def loop(self, official_loop: Callable[..., Any], denoiser: str) -> Callable[..., Any]:
        """The official loop, observed; `denoiser` is the keyword of what makes the guided x0 of a step for it."""

        def loop(*, sigmas: Tensor, video_state: Any, audio_state: Any, **others: Any) -> Any:
            official = others.pop(denoiser)
            plan = next(self._plans)
            count = plan.evaluations
            self._passes = pass_names(plan.video, plan.audio)
            self._clock.begin("denoising")
            with scope(plan.scope):
                return observed(official, count, sigmas, video_state, audio_state, others)

        def observed(
            official: Any, count: int, sigmas: Tensor, video_state: Any, audio_state: Any, others: dict[str, Any]
        ) -> Any:
            tap("init/video", video_state.latent)
            tap("init/audio", audio_state.latent)

            evaluations = iter(range(count))

            def denoise(*call: Any, **named: Any) -> Any:
                # So a call ends in every release; res_2s names what it hands over at middles.
                given = [named[key] for key in CALL] if named else call[-len(CALL) :]
                video, audio, levels, step = given
                index = next(evaluations)
                self._clock.mark_step(index, count)
                if index:
                    _tap_latents(index - 1, video, audio)
                if self._watcher is not None:
                    self._watcher.step(index, sigmas, levels[step], state_of(video), state_of(audio))
                return self._step(index, partial(official, *call, **named))

            states = official_loop(
                sigmas=sigmas, video_state=video_state, audio_state=audio_state, **others, **{denoiser: denoise}
            )
            self._clock.mark_step(count, count)
            _tap_latents(count - 1, *states)
            return states

        return loop

    def _step(self, index: int, denoise: Callable[[], Any]) -> Any:
        assert self._transformer is not None
        self._transformer.begin_step(self._passes)
        with scope(f"denoise/{index:03d}"):
            guided = denoise()
            for modality, x0 in zip(("video", "audio"), guided, strict=True):
                tap(f"guided/{modality}", getattr(x0, "denoised", x0))  # since 1.2.0 x0 comes with what it is made of
        return guided


def _tap_latents(index: int, video: Any, audio: Any) -> None:
    tap(f"denoise/{index:03d}/latent/video", video.latent)
    tap(f"denoise/{index:03d}/latent/audio", audio.latent)
