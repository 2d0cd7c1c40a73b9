"""The native model stage by stage, at any setting of the switches, each stage computed once for each setting it reads.

Where the run under test kept whole tensors, they stand in for ours at the entrance of the next stage: then a stage is
judged by what it does with the run's own inputs, however far these have drifted. Latents that are decoded always do.
"""

import gc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar, cast

import torch
from torch import Tensor

from parity.defects.batched import ALL_PASSES, PROMPT_PASSES, BatchedConnectorStage, BatchedDenoisingStage, each_pass
from parity.identify.behaviours import (
    ALL_PASSES_BATCHED,
    CONNECTORS_BATCHED,
    CONNECTORS_SHARE_MASK,
    OF_RELEASES,
    PROMPT_PASSES_BATCHED,
    Setting,
    first_skipping_step,
    reference_at,
)
from parity.identify.replay_denoising import denoise
from parity.identify.replay_second import second_stage
from parity.identify.run_tensors import AUDIO_LATENT, VIDEO_LATENT, FedVocoder, RunTensors, fed, fed_text
from parity.identify.stage_switches import (
    CONNECTOR,
    DENOISING,
    FRAMES,
    IMAGE,
    INIT,
    MEL,
    SECOND,
    SOUND,
    TEXT,
    TRANSFORMER,
    stage_defects,
)
from parity.taps.name import place_of
from parity.trace.sketch import TapSketch, sketch
from runners.case import Case
from runners.clock import Clock
from runners.errors import OutOfMemoryError
from runners.loras import stage_loras
from runners.ltx23.audio_decoder import AudioDecoder
from runners.ltx23.bandwidth_extension import ExtendedVocoder
from runners.ltx23.connectors import TextConnectors
from runners.ltx23.latents import audio_grid, video_grid, video_shape
from runners.ltx23.pipeline import ModelComponents
from runners.ltx23.pipeline_config import PipelineConfig
from runners.ltx23.stages.audio_decoding import AudioDecodingStage
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.denoising import DenoisingStage
from runners.ltx23.stages.image_conditioning import ImageConditioningStage
from runners.ltx23.stages.latent_preparation import LatentPreparationStage
from runners.ltx23.stages.text_connector import LTX2TextConnectorStage
from runners.ltx23.stages.video_decoding import VideoDecodingStage
from runners.ltx23.transformer import Transformer
from runners.ltx23.video_decoder import VideoDecoder
from runners.ltx23.video_encoder import VideoEncoder
from runners.native.request import sampling_params
from runners.protocol import RunOptions
from runners.tap import listening
from runners.weights import Weights

Taps = dict[str, TapSketch]
Made = TypeVar("Made")

_FIRST_STEP: Final = "first_step"  # of denoising, whole
KEPT_BYTES: Final = 1 << 30  # of weights of transformers, beside the one in use


class _EnoughError(Exception):
    """Every tap that was asked for has been heard."""


class Replay:
    """Computes what the native model taps at a site and a setting."""

    def __init__(self, weights: Weights, case: Case, options: RunOptions, own: RunTensors, buckets: int) -> None:
        """Prepare; `buckets` is the number that the run's own sketches have."""
        self.case, self.own, self.buckets = case, own, buckets
        self._weights, self._options = weights.of_pipeline(case.pipeline), options
        self._skipping_step = first_skipping_step(case)
        if self._skipping_step is not None and case.plans[0].sampler == "res_2s":
            self._skipping_step *= 2  # taps count a step's start and its middle
        self._of_latents = "second" if len(case.plans) > 1 else "denoising"  # the site at which the final ones are
        self._made: dict[tuple[str, Setting], Any] = {}
        self._latents: dict[Setting, tuple[Tensor, Tensor]] = {}  # ours at the first stage's end, by what it reads
        self._decoded: dict[Setting, tuple[Tensor, Tensor]] = {}  # ours of two stages, by what the second reads
        self._transformers: dict[Setting, Transformer] = {}
        self.computed = 0  # stages, or parts of denoising, that were run

    def taps(self, site: str, setting: Setting) -> Taps:
        """The taps of a site of `parity.identify.behaviours.SITES`.

        Raises: OutOfMemoryError, CheckpointError, ConfigError, MediaError.
        """
        try:
            with torch.inference_mode():
                return self._taps(site, setting)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(f"{self._device} ran out of memory ({error}); free it, or take another.") from error

    def _taps(self, site: str, setting: Setting) -> Taps:
        alone = {"text": self._encoded, "connector": self._connected, "image": self._pictured, "init": self._prepared}
        if site in alone:
            return alone[site](setting)[1]
        if site == "frames":
            return self._frames(setting)
        if site == "sound":
            return self._sound(setting)
        if site == "second":
            return self._second(setting)
        return self._denoised(site, setting)

    def at(self, site: str, tap: str) -> bool:
        """True if a tap belongs to a site."""
        if tap in (VIDEO_LATENT, AUDIO_LATENT):
            return site == self._of_latents
        place = place_of(tap)
        if place.scope or place.part == "upsample":
            return site == "second"
        if site == "second":
            return False
        if place.step is None:
            of_part = {
                "hidden": "text",
                "connector": "connector",
                "image": "image",
                "init": "init",
                "frames": "frames",
                "mel": "sound",
                "waveform": "sound",
            }
            return of_part[place.part] == site
        if site == "first_block":
            return (place.step, place.guidance_pass, place.block) == (0, "cond", 0)
        if site in ("passes", "skipping"):
            return place.step == (0 if site == "passes" else self._skipping_step) and place.guidance_pass is not None
        return site == "denoising" or (site == "guided" and (place.step, place.part) == (0, "guided"))

    def _encoded(self, setting: Setting) -> tuple[Batch, Taps]:
        def make(read: Setting) -> tuple[Batch, Taps]:
            batch = self._batch(read)
            with stage_defects("text", read):
                taps = self._heard(lambda: self._components(read).text_encoder().forward(batch))
            gc.collect()  # transformers' modules refer to each other in cycles
            batch.prompt_embeds = self._fed_text("pos", batch.prompt_embeds, batch.prompt_attention_mask)
            if batch.negative_prompt_embeds is not None:
                batch.negative_prompt_embeds = self._fed_text(
                    "neg", batch.negative_prompt_embeds, batch.negative_attention_mask
                )
            return batch, taps

        return self._once("text", setting & TEXT, make)

    def _connected(self, setting: Setting) -> tuple[Batch, Taps]:
        def make(read: Setting) -> tuple[Batch, Taps]:
            batch = replace(self._encoded(read)[0])
            with stage_defects("connector", read):
                connectors = self._components(read).build("connectors", TextConnectors)
                stage: LTX2TextConnectorStage | BatchedConnectorStage = LTX2TextConnectorStage(connectors)
                if read & {CONNECTORS_BATCHED, CONNECTORS_SHARE_MASK} and batch.do_classifier_free_guidance:
                    stage = BatchedConnectorStage(connectors, one_mask=CONNECTORS_SHARE_MASK in read)
                taps = self._heard(lambda: stage.forward(batch))
            for stream in ("video", "audio"):
                for sign, name in (("pos", f"{stream}_context"), ("neg", f"negative_{stream}_context")):
                    ours = getattr(batch, name)
                    if ours is not None:
                        setattr(batch, name, self._fed(f"connector/{sign}/{stream}", ours))
            return batch, taps

        return self._once("connector", setting & CONNECTOR, make)

    def _pictured(self, setting: Setting) -> tuple[list[Tensor], Taps]:
        def make(read: Setting) -> tuple[list[Tensor], Taps]:
            batch = self._batch(read)
            if not batch.sampling.images:
                return [], {}
            with stage_defects("image", read):
                stage = ImageConditioningStage(self._components(read).build("video_encoder", VideoEncoder))
                taps = self._heard(lambda: stage.forward(batch))
            latents = [self._fed(f"image/{i}/latent", ours) for i, ours in enumerate(batch.image_latents)]
            return latents, taps

        return self._once("image", setting & IMAGE, make)

    def _prepared(self, setting: Setting) -> tuple[Batch, Taps]:
        def make(read: Setting) -> tuple[Batch, Taps]:
            batch = replace(self._batch(read), image_latents=list(self._pictured(read)[0]))
            with stage_defects("init", read):
                taps = self._heard(lambda: LatentPreparationStage().forward(batch))
            video, audio = batch.video_state, batch.audio_state
            assert video is not None and audio is not None
            batch.video_state = replace(video, latent=self._fed("init/video", video.latent))
            batch.audio_state = replace(audio, latent=self._fed("init/audio", audio.latent))
            return batch, taps

        return self._once("init", setting & INIT, make)

    def _denoised(self, site: str, setting: Setting) -> Taps:
        """The taps of a site of denoising, from a longer run at the same setting where there is one."""
        read = setting & DENOISING
        parts = self._parts_with(site, read)
        part = next((one for one in parts if (one, read) in self._made), parts[0])
        taps = self._once(part, read, partial(self._denoise, part))
        if part == site:
            return taps
        cut = (f"{part}/{site}", read)
        if cut not in self._made:
            self._made[cut] = {name: sketched for name, sketched in taps.items() if self.at(site, name)}
        found: Taps = self._made[cut]
        return found

    def _parts_with(self, site: str, read: Setting) -> tuple[str, ...]:
        """The parts of denoising that hold the taps of a site, first the one that is run where none of them was."""
        steps = self.case.plans[0].steps
        step = ("denoising",) if steps == 1 else (_FIRST_STEP, "denoising")
        if site == "first_block":  # of a batch of passes, only what is heard before another pass is
            return (site,) if read & {ALL_PASSES_BATCHED, PROMPT_PASSES_BATCHED} else (site, *step)
        if site == "skipping":
            return ("denoising",) if self._skipping_step == steps - 1 else (site, "denoising")
        return ("denoising",) if site == "denoising" else step

    def _denoise(self, part: str, read: Setting) -> Taps:
        text, start = self._connected(read)[0], self._prepared(read)[0]
        batch = replace(
            self._batch(read),
            video_context=text.video_context,
            audio_context=text.audio_context,
            negative_video_context=text.negative_video_context,
            negative_audio_context=text.negative_audio_context,
            sigmas=start.sigmas,
            video_state=start.video_state,
            audio_state=start.audio_state,
        )
        with stage_defects("denoising", read):
            stage = DenoisingStage(self._loaded_transformer(read))
        if read & {ALL_PASSES_BATCHED, PROMPT_PASSES_BATCHED}:
            together = ALL_PASSES if ALL_PASSES_BATCHED in read else PROMPT_PASSES
            stage = BatchedDenoisingStage(stage.transformer, together)
        every = self.case.plans[0].steps
        steps = {"denoising": every, "skipping": (self._skipping_step or 0) + 1}.get(part, 1)
        latents: Taps = {}

        def forward() -> None:
            video, audio = denoise(stage, batch, steps, self.own.taps)
            if part != "denoising":
                return
            plan = self.case.plans[0]
            shape = video_shape(self.case.request.num_frames, plan.height, plan.width)
            grid = video_grid(video.latent[:, : shape.tokens], shape)
            latents[VIDEO_LATENT] = self._sketch(grid)
            latents[AUDIO_LATENT] = self._sketch(audio_grid(audio.latent))
            self._latents[read] = grid, audio_grid(audio.latent)

        wanted = None if part == _FIRST_STEP else partial(self.at, part)
        with stage_defects("denoising", read):
            taps = self._heard(forward, wanted)
        return taps | latents if self._of_latents == part else taps

    def _second(self, setting: Setting) -> Taps:
        if len(self.case.plans) == 1:
            return {}

        def make(read: Setting) -> Taps:
            text, start = self._connected(read)[0], self._prepared(read)[0]
            video, audio = self._final_of_first(read)
            assert start.generator is not None
            batch = replace(
                self._batch(read),
                video_context=text.video_context,
                audio_context=text.audio_context,
                generator=torch.Generator(start.device).set_state(start.generator.get_state()),
                video_latent=video,
                audio_latent=audio,
            )
            components, loras = self._components(read), stage_loras(self.case, self._weights)
            latents: Taps = {}

            def forward() -> None:
                made = second_stage(batch, components, lambda: components.build("transformer", Transformer, loras[-1]))
                latents[VIDEO_LATENT], latents[AUDIO_LATENT] = map(self._sketch, made)
                self._decoded[read] = made

            with stage_defects("image", read), stage_defects("init", read), stage_defects("denoising", read):
                return self._heard(forward) | latents

        return self._once("second", setting & SECOND, make)

    def _frames(self, setting: Setting) -> Taps:
        def make(read: Setting) -> Taps:
            batch = self._batch(read)
            latent = self.own.video_latent
            latent = self._final(read)[0] if latent is None else latent
            batch.video_latent = latent.to(batch.device, batch.config.dtype)
            drawn = self._prepared(read)[0].generator  # a decoder that draws noise goes on where the latents ended
            assert drawn is not None
            batch.generator = torch.Generator(batch.device).set_state(drawn.get_state())
            with stage_defects("frames", read):
                stage = VideoDecodingStage(self._components(read).build("video_decoder", VideoDecoder))
                return self._heard(lambda: stage.forward(batch))

        return self._once("frames", setting & (FRAMES | self._before_decoding), make)

    def _sound(self, setting: Setting) -> Taps:
        def make(read: Setting) -> Taps:
            batch = self._batch(read)
            batch.audio_latent, mel = self._spectrogram(read)
            with stage_defects("sound", read):
                fed_vocoder = FedVocoder(self._components(read).vocoder(), lambda ours: self._fed("decode/mel", ours))
                stage = AudioDecodingStage(cast(AudioDecoder, lambda _latent: mel), cast(ExtendedVocoder, fed_vocoder))
                return self._heard(lambda: stage.forward(batch))

        return self._once("sound", setting & (SOUND | self._before_decoding), make)

    def _spectrogram(self, setting: Setting) -> tuple[Tensor, Tensor]:
        """The latent that sound is decoded from, and the spectrogram, which few switches of sound change."""

        def make(read: Setting) -> tuple[Tensor, Tensor]:
            batch = self._batch(read)
            latent = self.own.audio_latent
            latent = (self._final(read)[1] if latent is None else latent).to(batch.device, batch.config.dtype)
            with stage_defects("sound", read), batch.config.autocast(batch.device):
                return latent, self._components(read).build("audio_decoder", AudioDecoder)(latent)

        return self._once("mel", setting & (MEL | self._before_decoding), make)

    @property
    def _before_decoding(self) -> Setting:
        """The switches that decoding reads besides its own: none, if it starts from the run's own latents."""
        return SECOND if self.own.video_latent is None else frozenset()

    def _final(self, setting: Setting) -> tuple[Tensor, Tensor]:
        if len(self.case.plans) == 1:
            return self._final_of_first(setting)
        self._second(setting)
        return self._decoded[setting & SECOND]

    def _final_of_first(self, setting: Setting) -> tuple[Tensor, Tensor]:
        self._denoised("denoising", setting)
        return self._latents[setting & DENOISING]

    def _once(self, stage: str, read: Setting, make: Callable[[Setting], Made]) -> Made:
        key = (stage, read)
        if key not in self._made:
            self._made[key] = make(read)
            self.computed += 1
        made: Made = self._made[key]
        return made

    def _loaded_transformer(self, setting: Setting) -> Transformer:
        """Small ones are kept, since a search goes to and fro between them; of large ones one at a time."""
        read = setting & TRANSFORMER
        if read not in self._transformers:
            if sum(map(_weights_bytes, self._transformers.values())) > KEPT_BYTES:
                self._transformers.clear()
            self._transformers[read] = self._components(read).build("transformer", Transformer)
        return self._transformers[read]

    def _components(self, setting: Setting) -> ModelComponents:
        return self._once(
            "components",
            setting & OF_RELEASES,
            lambda read: ModelComponents(
                self._weights, self._config(read), self._device, stage_loras(self.case, self._weights)[0]
            ),
        )

    def _batch(self, setting: Setting) -> Batch:
        config = self._config(setting)
        sampling = sampling_params(self.case, config.reference)
        return Batch(
            sampling=sampling,
            config=config,
            device=self._device,
            clock=Clock(self._device),
            do_classifier_free_guidance=sampling.do_classifier_free_guidance,
            extra=sampling.build_request_extra(),
        )

    def _config(self, setting: Setting) -> PipelineConfig:
        return PipelineConfig(
            dtype=self._options.dtype,
            disable_autocast=self.case.switches.disable_autocast,
            reference=reference_at(setting),
            quantization=self.case.quantization,
        )

    def _fed(self, name: str, ours: Tensor) -> Tensor:
        return fed(self.own.taps, name, ours, self._options.dtype)

    def _fed_text(self, sign: str, ours: object, mask: object) -> Tensor:
        return fed_text(self.own.taps, sign, ours, mask, self._options.dtype)

    @property
    def _device(self) -> torch.device:
        return self._options.device

    def _heard(self, forward: Callable[[], object], wanted: Callable[[str], bool] | None = None) -> Taps:
        """Sketches of the wanted taps; stops behind the last one where they stand together."""
        taps: Taps = {}

        def hear(name: str, tensor: Tensor) -> None:
            if wanted is None or wanted(name):
                taps[name] = self._sketch(tensor)
            elif taps:
                raise _EnoughError

        with listening(each_pass(hear)), suppress(_EnoughError):
            forward()
        return taps

    def _sketch(self, tensor: Tensor) -> TapSketch:
        return sketch(tensor, buckets=self.buckets)


def _weights_bytes(module: Transformer) -> int:
    return sum(weight.nbytes for weight in module.parameters())
