"""Reference and candidate in lockstep: while the official pipeline runs, every stage of ours is fed that stage's own
inputs, on one copy of the weights, and what it adds is measured on the spot.

Axes: B sample, S token of the padded prompt, N of these without padding, D width, L Gemma layer, C channel, F frame,
H height, W width.
"""

from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor, nn

from parity.isolate.choice import Choice
from parity.isolate.denoising import DenoisingLockstep, MeasureBlock
from parity.isolate.error import ErrorSink
from parity.isolate.wiring import unheard
from parity.runs.environment import fingerprint
from runners.case import Case
from runners.clock import UPSAMPLING, Clock, Progress, Quiet
from runners.closed_input import closed_input
from runners.ltx23.audio_decoder import AudioDecoder
from runners.ltx23.connectors import TextConnectors
from runners.ltx23.gemma import load_gemma
from runners.ltx23.latents import LatentState, audio_grid
from runners.ltx23.pipeline import ModelComponents
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.image_conditioning import ImageConditioningStage
from runners.ltx23.stages.latent_preparation import LatentPreparationStage
from runners.ltx23.stages.upsampling import UpsamplingStage
from runners.ltx23.transformer import Transformer
from runners.ltx23.video_decoder import VideoDecoder
from runners.ltx23.video_encoder import VideoEncoder
from runners.ltx23.video_tiling import decode_frames
from runners.ltx23.video_vae_statistics import PerChannelStatistics
from runners.model_files import ModelFiles
from runners.native.request import sampling_params
from runners.native.runner import NativeRunner
from runners.official.lockstep import Key, SharedTensors, WatchedEnoughError
from runners.official.runner import OfficialRunner
from runners.protocol import RunOptions
from runners.real_tokens import real_tokens
from runners.repeatable import repeatable_kernels
from runners.tap import Listener, listening
from runners.weights import Weights

DECODING: Final = frozenset({"video_decoding", "audio_decoding"})
STAGE_OF_PART: Final = {
    "text_encoder": "text_encoding",
    "gemma_embeddings_processor": "text_connector",
    "video_encoder": "image_conditioning",
    "spatial_upsampler": UPSAMPLING,
    "transformer": "denoising",
    "video_decoder": "video_decoding",
    "audio_decoder": "audio_decoding",
    "vocoder": "audio_decoding",
}


def run_official(
    weights: Weights,
    case: Case,
    options: RunOptions,
    lockstep: "Lockstep",
    progress: Progress | None,
    also: Listener | None = None,
) -> dict[str, Any]:
    """Run the official pipeline with a lockstep beside it, until that has seen enough. Returns: where it ran.

    Args:
        weights: the model's files.
        case: the request.
        options: of the official run.
        lockstep: that watches it.
        progress: told what the official run is doing.
        also: told every tap before the lockstep is.
    Raises: as the official runner does.
    """

    def hear(name: str, tensor: Tensor) -> None:
        if also is not None:
            also(name, tensor)
        lockstep.hear(name, tensor)

    official = OfficialRunner(weights, options, watcher=lockstep)
    repeatable = repeatable_kernels(options.device, case.reference, options.behaviours)
    with closed_input(), repeatable, official, listening(hear):
        with suppress(WatchedEnoughError):
            official.run(case, progress or Quiet())
        return fingerprint(options.device)


class Lockstep:
    """Watches an official run (`runners.official.lockstep.PipelineWatcher`) and its taps; rows go to a table."""

    def __init__(
        self,
        weights: Weights,
        case: Case,
        options: RunOptions,
        choice: Choice,
        *,
        copies: bool,
        table: ErrorSink,
        measure_block: MeasureBlock,
        to_the_end: bool = False,
    ) -> None:
        """Prepare for one official run.

        Args:
            weights: the model's files, for shapes and configuration; tensors come out of the official modules.
            case: the request.
            options: device and dtype of the run.
            choice: what to measure.
            copies: give the candidate copies of the weights, for a candidate that changes them.
            table: where rows go.
            measure_block: told of every official block that is measured.
            to_the_end: let the official run go on where nothing is left to measure.
        """
        self._to_the_end, self._last_stage = to_the_end, len(case.plans) - 1
        self._table, self._measure_block = table, measure_block
        self._options, self._choice = options, choice
        weights = weights.of_pipeline(case.pipeline)
        self._shared = SharedTensors(weights.model, copies=copies)
        self._shared_gemma = SharedTensors(weights.gemma, copies=copies)
        self._shared_upsampler: SharedTensors | None = None
        if weights.upsampler is not None:
            self._shared_upsampler = SharedTensors(weights.upsampler.tensors, copies=copies)
        self._weights = weights
        config = NativeRunner(weights, options).pipeline_config(case)
        files = ModelFiles(
            config=weights.config,
            model=self._shared,
            gemma_config=weights.gemma_config,
            gemma=self._shared_gemma,
            gemma_folder=weights.gemma_folder,
            upsampler=None
            if weights.upsampler is None or self._shared_upsampler is None
            else replace(weights.upsampler, tensors=self._shared_upsampler),
        )
        self._components = ModelComponents(files, config, options.device)
        self._components.verify()
        sampling = sampling_params(case, config.reference)
        self._batch = Batch(
            sampling=sampling,
            config=config,
            device=options.device,
            clock=Clock(options.device),
            do_classifier_free_guidance=sampling.do_classifier_free_guidance,
            extra=sampling.build_request_extra(),
        )
        self._signs = ["pos", "neg"] if sampling.do_classifier_free_guidance else ["pos"]
        self._prompts = {"pos": sampling.prompt, "neg": sampling.negative_prompt}
        self._denoising: DenoisingLockstep | None = None
        self._frames: list[Tensor] = []
        self._upsampling: UpsamplingStage | None = None
        self._statistics: PerChannelStatistics | None = None
        self._pictures: dict[int, list[Tensor]] = {}  # of each stage, as ours would give them to its encoder
        self._sound: Tensor | None = None  # (B, T, C), the last that a step left

    def loaded(self, name: str, module: Any, key: Key) -> None:
        """An official part is ready: build ours on its tensors, and measure whenever it is called."""
        if name == "video_decoder":
            self._end_before_decoding()
        measured = STAGE_OF_PART[name] in self._choice.stages
        holders = {"text_encoder": self._shared_gemma, "spatial_upsampler": self._shared_upsampler}
        holder = holders.get(name, self._shared)
        assert holder is not None
        holder.hold(module, key)
        if name == "text_encoder" and measured:
            self._text_encoder(module)
        elif name == "gemma_embeddings_processor":
            self._connectors(module, measured)
        elif name == "video_encoder":
            self._video_encoder(module, measured)
        elif name == "spatial_upsampler" and measured:
            assert self._statistics is not None
            self._upsampling = UpsamplingStage(self._components.upsampler(), self._statistics)
        elif name == "transformer" and measured:
            self._transformer(module)
        elif name == "video_decoder":
            self._denoising = None
            if measured:
                self._video_decoder(module)
        elif name in ("audio_decoder", "vocoder") and measured:
            self._audio(name, module)
        holder.release()

    def upsampled(self, latent: Tensor, enlarged: Tensor) -> None:
        """The official upsampler ran: ours runs on the same latent; the second stage begins with what is official."""
        if self._upsampling is not None:
            sound = torch.empty(0)  # goes through untouched
            with self._choice.around(), unheard():
                ours = self._upsampling.forward(replace(self._batch, video_latent=latent, audio_latent=sound))
            assert ours.initial_video is not None
            self._table.compare("upsample/latent", enlarged, ours.initial_video)
            self._upsampling = None
        assert self._sound is not None
        self._batch.stage, self._batch.image_latents = 1, []
        self._batch.initial_video, self._batch.initial_audio = enlarged, audio_grid(self._sound)
        if self._denoising is not None:
            self._denoising.begin_stage()

    def step(self, index: int, sigmas: Tensor, sigma: Tensor, video: LatentState, audio: LatentState) -> None:
        """A denoising step of the official run begins."""
        if index == 0 and "latent_preparation" in self._choice.stages:
            self._latent_preparation(sigmas, video, audio)
        if not self._choice.from_step(index):
            self._end_before_decoding()
        if self._denoising is not None:
            self._denoising.begin_step(index, sigmas, sigma, video, audio)

    def hear(self, name: str, tensor: Tensor) -> None:
        """A tap of the official run."""
        if name.endswith("/latent/audio"):
            self._sound = tensor
        if self._denoising is not None:
            self._denoising.hear(name, tensor)
        if name == "decode/frames" and self._frames:
            self._table.compare(name, tensor, torch.cat(self._frames).to(tensor.device))
            self._frames.clear()

    def _end_before_decoding(self) -> None:
        """End the run if it is in its last stage and decoding, all that is left to measure, is not."""
        if self._batch.stage == self._last_stage and not (self._to_the_end or DECODING & self._choice.stages):
            raise WatchedEnoughError

    def _text_encoder(self, module: Any) -> None:
        weights, options = self._weights, self._options
        ours = load_gemma(weights.gemma_config, weights.gemma_folder, self._shared_gemma, options.device, options.dtype)
        official, signs = module.encode, iter(self._signs)

        def encode(text: str) -> Any:
            hidden_states, mask = official(text)
            sign = next(signs, None)
            if sign is not None:
                with self._choice.around():
                    found, found_mask = ours(self._prompts[sign])
                self._table.compare(f"text/{sign}/mask", mask, found_mask)
                both = ((hidden_states, mask), (found, found_mask))
                theirs, own = (real_tokens(torch.stack(states, dim=-1), kept) for states, kept in both)  # (1, N, D, L)
                self._table.compare(f"text/{sign}/hidden", theirs, own)
            return hidden_states, mask

        module.encode = encode

    def _connectors(self, module: Any, measured: bool) -> None:
        ours = self._components.build("connectors", TextConnectors) if measured else None
        official, signs = module.process_hidden_states, iter(self._signs)

        def process(hidden_states: Any, mask: Tensor) -> Any:
            output = official(hidden_states, mask)
            sign = next(signs, None)
            contexts = (output.video_encoding, output.audio_encoding)
            if sign == "pos":
                self._batch.video_context, self._batch.audio_context = contexts
            elif sign == "neg":
                self._batch.negative_video_context, self._batch.negative_audio_context = contexts
            if sign is not None and ours is not None:
                with self._choice.around():
                    own = ours(hidden_states, mask)
                for stream, reference, found in zip(("video", "audio"), contexts, own, strict=True):
                    self._table.compare(f"connector/{sign}/{stream}", reference, found)
            return output

        module.process_hidden_states = process

    def _video_encoder(self, module: Any, measured: bool) -> None:
        ours = self._components.build("video_encoder", VideoEncoder) if measured else None
        if self._shared_upsampler is not None:
            self._statistics = self._components.statistics()

        def encoded(_module: Any, inputs: tuple[Tensor, ...], latent: Tensor) -> None:
            number, prefix = len(self._batch.image_latents), self._batch.plan.prefix
            self._batch.image_latents.append(latent)
            if ours is not None:
                if self._batch.stage not in self._pictures:
                    self._pictures[self._batch.stage] = self._given_pictures(ours)
                picture = self._pictures[self._batch.stage][number]
                self._table.compare(f"{prefix}image/{number}/picture", inputs[0], picture)
                with self._choice.around():
                    own = ours(inputs[0])
                self._table.compare(f"{prefix}image/{number}/latent", latent, own)

        module.register_forward_hook(encoded)

    def _given_pictures(self, encoder: VideoEncoder) -> list[Tensor]:
        """The picture that our image conditioning would give its encoder."""
        given: list[Tensor] = []

        def keep(picture: Tensor) -> Tensor:
            given.append(picture)
            return picture

        with self._choice.around(), patch.object(encoder, "forward", keep), unheard():
            ImageConditioningStage(encoder).forward(replace(self._batch, image_latents=[]))
        return given

    def _latent_preparation(self, sigmas: Tensor, video: LatentState, audio: LatentState) -> None:
        prefix = self._batch.plan.prefix
        with self._choice.around(), unheard():
            ours = LatentPreparationStage().forward(replace(self._batch, schedules=[]))
        self._batch.generator = self._drawn_from(video, audio)
        assert ours.sigmas is not None and ours.video_state is not None and ours.audio_state is not None
        self._table.compare(f"{prefix}sigmas", sigmas.cpu(), ours.sigmas.cpu())
        for stream, reference, found in (("video", video, ours.video_state), ("audio", audio, ours.audio_state)):
            self._table.compare(f"{prefix}init/{stream}", reference.latent, found.latent)
            for name in ("clean", "denoise_mask", "positions"):
                self._table.compare(f"{prefix}init/{stream}/{name}", getattr(reference, name), getattr(found, name))

    def _drawn_from(self, video: LatentState, audio: LatentState) -> torch.Generator:
        """The run's generator as the official noise of this stage leaves it for the next one."""
        batch = self._batch
        generator = torch.Generator(device=batch.device).manual_seed(batch.sampling.seed)
        for state in (video, audio):
            latent = state.latent
            torch.randn(latent.shape, generator=generator, dtype=latent.dtype, device=latent.device)
        return generator

    def _transformer(self, module: Any) -> None:
        ours = self._components.build("transformer", Transformer)
        self._denoising = DenoisingLockstep(ours, self._batch, self._table, self._choice, self._measure_block)
        self._denoising.attach(module.velocity_model)

    def _video_decoder(self, module: Any) -> None:
        ours = self._components.build("video_decoder", VideoDecoder)

        def decode(_module: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
            generator = options.get("generator")
            if generator is not None:  # ours draws what the official decoder is about to, which still draws it itself
                generator = torch.Generator(generator.device).set_state(generator.get_state())
            with self._choice.around():
                self._frames = list(decode_frames(ours, inputs[0], None, generator))

        module.register_forward_pre_hook(decode, with_kwargs=True)

    def _audio(self, name: str, module: Any) -> None:
        ours: nn.Module
        if name == "vocoder":
            where, ours = "decode/waveform", self._components.vocoder()
        else:
            where, ours = "decode/mel", self._components.build("audio_decoder", AudioDecoder)

        def decoded(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            with self._choice.around():
                own = ours(inputs[0])
            self._table.compare(where, output, own)

        module.register_forward_hook(decoded)
