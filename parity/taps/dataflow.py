"""The order in which numbers flow through a run: which taps a case must leave, and which taps each of them is made of.

Both follow from the case alone (steps, guidance, pictures, switches) and the model's number of blocks, not from what a
trace happens to hold, so a tap that is missing on both sides is missing still.

The sampler `res_2s` asks the model at a step's start and at its middle: each counts as a step here, and so does the one
evaluation after the last. The latent after a start is the middle's, and a whole step begins at its own start.

A block reads each stream once and adds its branches in turn:

    stream in -> self_attn -> text_attn -> av_attn -> ff -> out      text_attn also reads the text context,
                                                                     av_attn the other stream as it is before av_attn

Both cross-modal branches read the streams as they are before either is added, so neither depends on the other. A branch
is tapped only where it ran; a stream that is switched off for a step has only `out`, equal to what came in.

Source: runners.ltx23.block and runners.ltx23.stages, which follow ltx_core and ltx_pipelines 1.0.0.
"""

import math
from dataclasses import replace
from functools import partial
from typing import Final

from parity.taps.name import BLOCK_PARTS, STREAMS, Place, place_of
from runners.case import Case
from runners.errors import ConfigError, RunError
from runners.ltx23.passes import GuidancePass, passes_of_step
from runners.ltx23.transformer import NO_SKIPS
from runners.releases import reference_of
from runners.stages import PIPELINES, StagePlan

OTHER: Final = {"video": "audio", "audio": "video"}
_BEFORE: Final = {part: BLOCK_PARTS[:index] for index, part in enumerate(BLOCK_PARTS)}
_BEFORE_CROSS: Final = _BEFORE["av_attn"]


class Dataflow:
    """The taps of one case, in data-flow order, and what each depends on.

    `taps` is a topological order. Within a step it goes block by block, in each block pass by pass: taps of equal depth
    stand together, so the first divergent tap in this order is also the shallowest.
    """

    def __init__(self, case: Case, num_blocks: int) -> None:
        """Lay out a case. Raises: ConfigError for a model without blocks, or an unknown reference release."""
        if num_blocks < 1:
            raise ConfigError(f"A model has at least one block; got {num_blocks}.")
        self.num_blocks = num_blocks
        self.plans = {plan.scope: plan for plan in case.plans}  # of one stage or two, by what their taps begin with
        self.steps = case.plans[0].evaluations  # of the first stage
        self.images = len(case.request.images)
        self._skip_v2a = case.switches.skip_v2a_cross_attn_for_video_gt
        reference = reference_of(case.reference, {})
        negative_disables = reference.negative_disables_skipped_modality
        passes_of = partial(passes_of_step, negative_disables_skipped_modality=negative_disables)
        self._passes = {
            scope: [
                {one.name: one for one in passes_of(plan.guidance_step(step), *plan.guiders)}
                for step in range(plan.evaluations)
            ]
            for scope, plan in self.plans.items()
        }
        first_sound = reference.sound_of_first_stage and PIPELINES[case.pipeline].sound_moved
        self._decoded = {"video": case.plans[-1], "audio": case.plans[0] if first_sound else case.plans[-1]}
        self.passes = self.passes_of(0)
        self.signs = ("pos", "neg") if "uncond" in self.passes else ("pos",)
        skips = self._passes[""][0]["perturbed"].skips if "perturbed" in self.passes else NO_SKIPS
        self.perturbed_blocks = {"video": skips.video_self_attention, "audio": skips.audio_self_attention}
        self.text_taps = tuple(f"text/{sign}/hidden" for sign in self.signs)
        self.taps = self._taps()
        self._rank = {tap: rank for rank, tap in enumerate(self.taps)}

    def __contains__(self, tap: object) -> bool:
        return tap in self._rank

    def rank(self, tap: str) -> int:
        """A tap's place in data-flow order. Raises: RunError if the case does not leave this tap."""
        try:
            return self._rank[tap]
        except KeyError:
            raise RunError(f"The case leaves no tap {tap[:200]!r}; compare it with `taps` of its dataflow.") from None

    def passes_of(self, step: int, scope: str = "") -> tuple[str, ...]:
        """The guidance passes of a step of a stage: none where both streams skip it."""
        return tuple(self._passes[scope][step])

    @property
    def final_latents(self) -> dict[str, str]:
        """The taps of the latents that are decoded, by stream."""
        return {
            stream: f"{plan.prefix}denoise/{plan.evaluations - 1:03d}/latent/{stream}"
            for stream, plan in self._decoded.items()
        }

    @property
    def step_heads(self) -> tuple[str, ...]:
        """The beginnings of the names of a step's taps, of every step of every stage."""
        return tuple(
            f"{plan.prefix}denoise/{step:03d}" for plan in self.plans.values() for step in range(plan.evaluations)
        )

    def guidance_gain(self, stream: str, scope: str = "") -> float:
        """By how much guidance amplifies independent errors of the passes: root of the sum of their squared weights."""
        one = {"video": self.plans[scope].video, "audio": self.plans[scope].audio}[stream]
        negative, perturbed, isolated = one.cfg_scale - 1, one.stg_scale, one.modality_scale - 1
        return math.hypot(1 + negative + perturbed + isolated, negative, perturbed, isolated)

    def inputs_of(self, tap: str) -> tuple[str, ...]:
        """The taps that a tap is computed from, those before it in the same block included.

        Raises: RunError if the case does not leave this tap.
        """
        self.rank(tap)
        place = place_of(tap)
        return tuple(name for name in self._inputs(place) if name in self._rank)

    def _taps(self) -> tuple[str, ...]:
        taps = list(self.text_taps)
        taps += [f"connector/{sign}/{stream}" for sign in self.signs for stream in STREAMS]
        for scope, plan in self.plans.items():
            if scope:
                taps.append("upsample/latent")
            taps += self._stage_taps(scope, plan)
        return (*taps, "decode/frames", "decode/mel", "decode/waveform")

    def _stage_taps(self, scope: str, plan: StagePlan) -> list[str]:
        taps = [f"{plan.prefix}image/{index}/latent" for index in range(self.images)]
        taps += [f"{plan.prefix}init/{stream}" for stream in STREAMS]
        for step in range(plan.evaluations):
            passes, head = self._passes[scope][step], f"{plan.prefix}denoise/{step:03d}"
            for block in range(self.num_blocks):
                for one in passes.values():
                    taps += self._block_taps(head, one, block)
            taps += [f"{head}/{name}/x0/{stream}" for name in passes for stream in STREAMS]
            taps += [f"{head}/{part}/{stream}" for part in ("guided", "latent") for stream in STREAMS]
        return taps

    def _block_taps(self, step_head: str, one: GuidancePass, block: int) -> list[str]:
        parts = {
            "video": set(BLOCK_PARTS) if one.video_enabled else {"out"},
            "audio": set(BLOCK_PARTS) if one.audio_enabled else {"out"},
        }
        if one.skips.a2v:
            parts["video"].discard("av_attn")
        if one.skips.v2a or self._skip_v2a:
            parts["audio"].discard("av_attn")
        head = f"{step_head}/{one.name}/block/{block:02d}"
        return [f"{head}/{stream}/{part}" for part in BLOCK_PARTS for stream in STREAMS if part in parts[stream]]

    def _inputs(self, at: Place) -> tuple[str, ...]:
        if at.block is not None:
            return self._block_inputs(at)
        stream, step = at.stream, at.step
        prefix = self.plans[at.scope].prefix
        images = tuple(f"{prefix}image/{index}/latent" for index in range(self.images)) if stream == "video" else ()
        if at.part == "connector":
            return (f"text/{at.item}/hidden",)
        if at.part == "init":
            begun = ("upsample/latent" if stream == "video" else self._last_latent("", "audio"),) if at.scope else ()
            return (*begun, *images)
        if at.part == "upsample":
            return (self._last_latent("", "video"),)
        if at.part in ("frames", "mel"):
            return (self.final_latents[stream or ""],)
        if at.part == "waveform":
            return ("decode/mel",)
        if step is None:
            return ()
        assert stream is not None
        head = f"{prefix}denoise/{step:03d}"
        if at.part == "x0":
            out = f"{head}/{at.guidance_pass}/block/{self.num_blocks - 1:02d}/{stream}/out"
            return (self._latent_before(at, stream), out)
        if at.part == "guided":
            plan = self.plans[at.scope]
            if {"video": plan.video, "audio": plan.audio}[stream].skips(plan.guidance_step(step)):
                return (f"{prefix}denoise/{step - 1:03d}/guided/{stream}",)
            return tuple(f"{head}/{name}/x0/{stream}" for name in self.passes_of(step, at.scope))
        if self.plans[at.scope].sampler == "res_2s" and step % 2:  # a whole step, from before its middle
            start = replace(at, step=step - 1)
            before = f"{prefix}denoise/{step - 1:03d}/guided/{stream}"
            return (self._latent_before(start, stream), *images, before, f"{head}/guided/{stream}")
        return (self._latent_before(at, stream), *images, f"{head}/guided/{stream}")

    def _block_inputs(self, at: Place) -> tuple[str, ...]:
        assert at.step is not None and at.block is not None and at.guidance_pass and at.stream
        head = f"{self.plans[at.scope].prefix}denoise/{at.step:03d}/{at.guidance_pass}/block/{at.block:02d}"
        inputs = [self._stream_before(at, at.stream)]
        inputs += [f"{head}/{at.stream}/{part}" for part in _BEFORE[at.part]]
        if at.part == "text_attn":
            negative = self._passes[at.scope][at.step][at.guidance_pass].negative_prompt
            inputs.append(f"connector/{'neg' if negative else 'pos'}/{at.stream}")
        if at.part == "av_attn":
            other = OTHER[at.stream]
            inputs.append(self._stream_before(at, other))
            inputs += [f"{head}/{other}/{part}" for part in _BEFORE_CROSS]
        return tuple(inputs)

    def _stream_before(self, at: Place, stream: str) -> str:
        assert at.step is not None and at.block is not None
        if at.block == 0:
            return self._latent_before(at, stream)
        prefix = self.plans[at.scope].prefix
        return f"{prefix}denoise/{at.step:03d}/{at.guidance_pass}/block/{at.block - 1:02d}/{stream}/out"

    def _latent_before(self, at: Place, stream: str) -> str:
        assert at.step is not None
        prefix = self.plans[at.scope].prefix
        return f"{prefix}denoise/{at.step - 1:03d}/latent/{stream}" if at.step else f"{prefix}init/{stream}"

    def _last_latent(self, scope: str, stream: str) -> str:
        plan = self.plans[scope]
        return f"{plan.prefix}denoise/{plan.evaluations - 1:03d}/latent/{stream}"
