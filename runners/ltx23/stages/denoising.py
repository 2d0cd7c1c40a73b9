"""Denoising: up to four passes a step, guidance, the Euler step or those of `res_2s`.

The passes, which `runners.ltx23.passes` lists, run one after another; batching them changes the numbers.
Source: ltx_pipelines.utils.{helpers.multi_modal_guider_denoising_func,samplers.euler_denoising_loop} 1.0.0.

Axes: B sample, T token, C channel.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from runners.errors import StageInputError
from runners.ltx23.euler import euler_step, pull_to_clean
from runners.ltx23.guidance import combine
from runners.ltx23.latents import LatentState, audio_grid, video_grid, video_shape
from runners.ltx23.passes import PASSES, GuidancePass, passes_of_step
from runners.ltx23.res_2s import Pair as Pair  # others take it from here
from runners.ltx23.res_2s import res_2s
from runners.ltx23.shared_blocks import SharedBlocks, departure
from runners.ltx23.shared_branches import SharedBranches
from runners.ltx23.stages.batch import Batch, needed
from runners.ltx23.step_graph import StepGraphs
from runners.ltx23.transformer import ModalityInput, Modulation, RotaryTables, Transformer
from runners.tap import scope, tap


@dataclass(frozen=True, kw_only=True)
class Step:
    """The passes of one step, and what all of them share."""

    passes: tuple[GuidancePass, ...]
    video: LatentState
    audio: LatentState
    sigma: Tensor  # fp32 scalar on the run's device
    rotary: RotaryTables
    modulation: Modulation


class DenoisingStage:
    """Fills in `video_latent` and `audio_latent`."""

    def __init__(self, transformer: Transformer) -> None:
        self.transformer = transformer

    def forward(self, batch: Batch) -> Batch:
        """Run the whole schedule. Raises: StageInputError if a stage before was left out."""
        if batch.video_state is None or batch.audio_state is None:
            raise StageInputError(f"{type(self).__name__} needs video_state and audio_state; prepare latents first.")
        loop = self._loop if batch.plan.sampler == "euler" else self.by_res_2s
        with batch.config.autocast(batch.device):
            video, audio = loop(batch, batch.video_state, batch.audio_state)
        shape = video_shape(batch.sampling.num_frames, batch.plan.height, batch.plan.width)
        # Keyframe tokens stand at the end and are dropped.
        batch.video_latent = video_grid(video.latent[:, : shape.tokens], shape)
        batch.audio_latent = audio_grid(audio.latent)
        return batch

    def _loop(self, batch: Batch, video: LatentState, audio: LatentState) -> tuple[LatentState, LatentState]:
        schedule = needed(batch.sigmas, type(self).__name__, "sigmas")
        sigmas: list[float] = schedule.tolist()
        changes: list[float] = schedule.diff().tolist()  # in fp32, like the schedule itself
        on_device = schedule.to(batch.device)
        rotary = self.transformer.rotary_tables(video.positions, audio.positions, batch.config.dtype)
        guided: Pair | None = None
        graphs = self.graphs(batch)
        batch.clock.mark_step(0, len(changes))
        for index, change in enumerate(changes):
            with scope(f"denoise/{index:03d}"):
                # Of what a step reads, the latents, the noise level and the last prediction change, nothing else.
                compute = partial(self._guided, index, batch, video, audio, rotary)
                passes = self.passes_at(index, batch)
                form = (passes, guided is None) if passes else None
                inputs = video.latent, audio.latent, on_device[index], *(guided or ())
                of_video, of_audio = graphs.run(form, compute, inputs)
                guided = of_video, of_audio
                tap("guided/video", guided[0])
                tap("guided/audio", guided[1])
                video = advance(video, guided[0], sigmas[index], change)
                audio = advance(audio, guided[1], sigmas[index], change)
                tap("latent/video", video.latent)
                tap("latent/audio", audio.latent)
            batch.clock.mark_step(index + 1, len(changes))
        batch.step_graphs = graphs.note
        return video, audio

    def graphs(self, batch: Batch) -> StepGraphs:
        """The graphs of a request's steps."""
        return StepGraphs(batch.device)

    def by_res_2s(self, batch: Batch, video: LatentState, audio: LatentState) -> tuple[LatentState, LatentState]:
        """The states after the whole schedule of the sampler `res_2s`, in the autocast of the caller."""
        schedule = needed(batch.sigmas, type(self).__name__, "sigmas")
        rotary = self.transformer.rotary_tables(video.positions, audio.positions, batch.config.dtype)
        last: Pair | None = None
        count, index = batch.plan.evaluations, 0
        batch.clock.mark_step(0, count)

        def predict(video: LatentState, audio: LatentState, sigma: Tensor) -> Pair:
            nonlocal last, index
            if index:
                _tap_latents(index - 1, video, audio)
                batch.clock.mark_step(index, count)
            with scope(f"denoise/{index:03d}"):
                step = self.step_at(batch.plan.guidance_step(index), batch, video, audio, sigma, rotary)
                last = self.evaluate_stage1_guided_x0(batch, step, last)
                tap("guided/video", last[0])
                tap("guided/audio", last[1])
            index += 1
            return last

        states = res_2s(schedule.to(batch.device), video, audio, predict, batch.config.dtype)
        _tap_latents(count - 1, *states)
        batch.clock.mark_step(count, count)
        return states

    def _guided(
        self,
        index: int,
        batch: Batch,
        video: LatentState,
        audio: LatentState,
        rotary: RotaryTables,
        video_latent: Tensor,
        audio_latent: Tensor,
        sigma: Tensor,
        *last: Tensor,
    ) -> Pair:
        video, audio = replace(video, latent=video_latent), replace(audio, latent=audio_latent)
        step = self.step_at(index, batch, video, audio, sigma, rotary)
        return self.evaluate_stage1_guided_x0(batch, step, (last[0], last[1]) if last else None)

    def evaluate_stage1_guided_x0(self, batch: Batch, step: Step, last: Pair | None) -> Pair:
        """The guided x0 of both modalities, from the passes of a step; one that skips this step keeps its last."""
        if not step.passes:
            assert last is not None  # every request evaluates both in its first step
            return last
        disable_v2a: bool = batch.extra.get("ltx2_skip_v2a_cross_attn_for_video_gt", False)
        x0 = self.predict(batch, step, disable_v2a_cross_attn=disable_v2a)
        if not batch.plan.guided:
            return x0["cond"]  # as it is: combining it with nothing would make 0 of -0
        cond = step.passes[0]
        modalities = ((batch.plan.video, cond.video_enabled), (batch.plan.audio, cond.audio_enabled))
        guided = []
        for modality, (guider, evaluated) in enumerate(modalities):
            if not evaluated and last is not None:
                guided.append(last[modality])
                continue
            u, p, m = (x0[name][modality] if name in x0 else None for name in PASSES[1:])
            in_fp32 = batch.config.reference.guidance_fp32
            guided.append(combine(guider, x0["cond"][modality], u, p, m, in_fp32=in_fp32))
        return guided[0], guided[1]

    def predict(self, batch: Batch, step: Step, *, disable_v2a_cross_attn: bool) -> dict[str, Pair]:
        """x0 of both modalities by the name of the pass, one pass after the other."""
        x0_of = self.pass_by_pass(batch, step, disable_v2a_cross_attn=disable_v2a_cross_attn)
        return {one.name: x0_of(one) for one in step.passes}

    def pass_by_pass(self, batch: Batch, step: Step, *, disable_v2a_cross_attn: bool) -> Callable[[GuidancePass], Pair]:
        """Computes x0 of both modalities for one pass of a step; what passes have in common, once."""
        blocks = len(self.transformer.transformer_blocks)
        # Passes that differ from the first in what they skip alone; of the others no block is the same.
        alike = [one for one in step.passes if not differs_beyond_skips(one, step.passes[0])]
        branches = SharedBranches(self.context(batch, negative=one.negative_prompt) for one in step.passes)
        shared = SharedBlocks((departure(one.skips, alike[0].skips, blocks) for one in alike[1:]), blocks, branches)

        return lambda one: self._pass(one, batch, step, shared, disable_v2a_cross_attn=disable_v2a_cross_attn)

    def _pass(
        self, one: GuidancePass, batch: Batch, step: Step, shared: SharedBlocks, *, disable_v2a_cross_attn: bool
    ) -> Pair:
        context = self.context(batch, negative=one.negative_prompt)
        with scope(one.name):
            x0: Pair = self.transformer(
                modality_at(step.video, step.sigma, context[0], one.video_enabled),
                modality_at(step.audio, step.sigma, context[1], one.audio_enabled),
                step.rotary,
                one.skips,
                step.modulation,
                disable_v2a_cross_attn=disable_v2a_cross_attn,
                shared=shared,
            )
            tap("x0/video", x0[0])
            tap("x0/audio", x0[1])
        return x0

    def step_at(
        self, index: int, batch: Batch, video: LatentState, audio: LatentState, sigma: Tensor, rotary: RotaryTables
    ) -> Step:
        """The passes of a step and what they share, at the noise level `sigma`."""
        guided, reference = batch.plan.guided, batch.config.reference
        if guided and reference.guided_passes_repeated:
            video, audio = (replace(state, latent=state.latent.contiguous()) for state in (video, audio))
        per_sample = reference.guided_passes_repeated if guided else reference.unguided_level_per_sample
        if per_sample and sigma.dtype == torch.float64:
            # One a sample decides the dtype of tokens' levels, a single number does not.
            sigma = sigma.expand(video.latent.shape[0])
        context = self.context(batch, negative=False)  # modulation does not look at the text, so any serves
        if batch.plan.guided:  # officially in a batch of all passes, which is laid out anew
            video = replace(video, latent=video.latent.contiguous())
        return Step(
            passes=self.passes_at(index, batch),
            modulation=self.transformer.modulation(
                modality_at(video, sigma, context[0], True), modality_at(audio, sigma, context[1], True)
            ),
            video=video,
            audio=audio,
            sigma=sigma,
            rotary=rotary,
        )

    def passes_at(self, index: int, batch: Batch) -> tuple[GuidancePass, ...]:
        """The passes of a step of a request."""
        negative_disables = batch.config.reference.negative_disables_skipped_modality
        return passes_of_step(index, *batch.plan.guiders, negative_disables_skipped_modality=negative_disables)

    def context(self, batch: Batch, *, negative: bool) -> Pair:
        """The text that video and audio attend to. Raises: StageInputError if it is missing."""
        stage = type(self).__name__
        if negative:
            return (
                needed(batch.negative_video_context, stage, "negative_video_context"),
                needed(batch.negative_audio_context, stage, "negative_audio_context"),
            )
        return needed(batch.video_context, stage, "video_context"), needed(batch.audio_context, stage, "audio_context")


def _tap_latents(index: int, video: LatentState, audio: LatentState) -> None:
    tap(f"denoise/{index:03d}/latent/video", video.latent)
    tap(f"denoise/{index:03d}/latent/audio", audio.latent)


def modality_at(state: LatentState, sigma: Tensor, context: Tensor, enabled: bool) -> ModalityInput:
    """One modality's part of a forward pass at the noise level `sigma`."""
    return ModalityInput(
        latent=state.latent,
        sigma=sigma,
        timesteps=state.denoise_mask * sigma,  # (B, T, 1): a given token is at no noise
        context=context,
        enabled=enabled,
    )


def differs_beyond_skips(one: GuidancePass, other: GuidancePass) -> bool:
    """True unless what two passes leave out of the blocks is all that they differ in."""
    mine, its = ((each.negative_prompt, each.video_enabled, each.audio_enabled) for each in (one, other))
    return mine != its


def advance(state: LatentState, x0: Tensor, sigma: float, change: float) -> LatentState:
    """One Euler step of one modality from the noise level `sigma`, to its guided x0 (B, T, C); given tokens stay."""
    pulled = pull_to_clean(x0, state.denoise_mask, state.clean)
    return replace(state, latent=euler_step(state.latent, pulled, sigma, change))
