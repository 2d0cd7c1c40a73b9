"""Denoising: up to four passes a step, guidance, the Euler step.

Passes: cond (the prompt), uncond (the negative prompt), perturbed (self-attention of some blocks replaced by its
values), isolated (both cross-modal attentions off). They run one after another; batching them changes the numbers.
Source: ltx_pipelines.utils.{helpers.multi_modal_guider_denoising_func,samplers.euler_denoising_loop} 1.0.0.

Axes: B sample, T token, C channel.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from runners.errors import StageInputError
from runners.ltx23.euler import euler_step, pull_to_clean
from runners.ltx23.guidance import combine
from runners.ltx23.latents import LatentState, audio_grid, video_grid, video_shape
from runners.ltx23.stages.batch import Batch, needed
from runners.ltx23.transformer import NO_SKIPS, ModalityInput, Modulation, RotaryTables, Skips, Transformer
from runners.tap import scope, tap

Pair = tuple[Tensor, Tensor]  # video, audio


@dataclass(frozen=True, kw_only=True)
class Step:
    """What all passes of one step share."""

    video: LatentState
    audio: LatentState
    sigma: Tensor  # fp32 scalar on the run's device
    rotary: RotaryTables
    modulation: Modulation
    video_enabled: bool
    audio_enabled: bool


class DenoisingStage:
    """Fills in `video_latent` and `audio_latent`."""

    def __init__(self, transformer: Transformer) -> None:
        self.transformer = transformer

    def forward(self, batch: Batch) -> Batch:
        """Run the whole schedule. Raises: StageInputError if a stage before was left out."""
        if batch.video_state is None or batch.audio_state is None:
            raise StageInputError(f"{type(self).__name__} needs video_state and audio_state; prepare latents first.")
        with batch.config.autocast(batch.device):
            video, audio = self._loop(batch, batch.video_state, batch.audio_state)
        sampling = batch.sampling
        shape = video_shape(sampling.num_frames, sampling.height, sampling.width)
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
        last: Pair | None = None
        batch.clock.mark_step(0, len(changes))
        for index, change in enumerate(changes):
            with scope(f"denoise/{index:03d}"):
                step = self.step_at(index, batch, video, audio, on_device[index], rotary)
                last = self.evaluate_stage1_guided_x0(batch, step, last)
                tap("guided/video", last[0])
                tap("guided/audio", last[1])
                video = advance(video, last[0], sigmas[index], change)
                audio = advance(audio, last[1], sigmas[index], change)
                tap("latent/video", video.latent)
                tap("latent/audio", audio.latent)
            batch.clock.mark_step(index + 1, len(changes))
        return video, audio

    def step_at(
        self, index: int, batch: Batch, video: LatentState, audio: LatentState, sigma: Tensor, rotary: RotaryTables
    ) -> Step:
        """What all passes of a step share, at the noise level `sigma`."""
        return Step(
            modulation=self.modulation(video, audio, sigma, batch),
            video=video,
            audio=audio,
            sigma=sigma,
            rotary=rotary,
            video_enabled=not batch.sampling.video_guidance.skips(index),
            audio_enabled=not batch.sampling.audio_guidance.skips(index),
        )

    def modulation(self, video: LatentState, audio: LatentState, sigma: Tensor, batch: Batch) -> Modulation:
        """What the noise level does in every pass; it does not look at the text, so any context serves."""
        stage = type(self).__name__
        return self.transformer.modulation(
            _modality(video, sigma, needed(batch.video_context, stage, "video_context"), True),
            _modality(audio, sigma, needed(batch.audio_context, stage, "audio_context"), True),
        )

    def evaluate_stage1_guided_x0(self, batch: Batch, step: Step, last: Pair | None) -> Pair:
        """The passes of a step, and the guided x0 of both modalities; one that skips this step keeps its last."""
        stage = type(self).__name__
        video, audio = batch.sampling.video_guidance, batch.sampling.audio_guidance
        reference = batch.config.reference
        if last is not None and not step.video_enabled and not step.audio_enabled:
            return last
        positive = (
            needed(batch.video_context, stage, "video_context"),
            needed(batch.audio_context, stage, "audio_context"),
        )
        no_v2a: bool = batch.extra.get("ltx2_skip_v2a_cross_attn_for_video_gt", False)
        cond = self._pass("cond", step, positive, NO_SKIPS, disable_v2a_cross_attn=no_v2a)
        absent: tuple[None, None] = (None, None)
        uncond: Pair | tuple[None, None] = absent
        perturbed: Pair | tuple[None, None] = absent
        isolated: Pair | tuple[None, None] = absent
        if video.needs_uncond or audio.needs_uncond:
            negative = (
                needed(batch.negative_video_context, stage, "negative_video_context"),
                needed(batch.negative_audio_context, stage, "negative_audio_context"),
            )
            negative_step = step
            if not reference.negative_disables_skipped_modality:
                negative_step = replace(step, video_enabled=True, audio_enabled=True)
            uncond = self._pass("uncond", negative_step, negative, NO_SKIPS, disable_v2a_cross_attn=no_v2a)
        if video.needs_perturbed or audio.needs_perturbed:
            skips = Skips(
                video_self_attention=frozenset(video.stg_blocks if video.needs_perturbed else ()),
                audio_self_attention=frozenset(audio.stg_blocks if audio.needs_perturbed else ()),
            )
            perturbed = self._pass("perturbed", step, positive, skips, disable_v2a_cross_attn=no_v2a)
        if video.needs_isolated or audio.needs_isolated:
            skips = Skips(a2v=True, v2a=True)
            isolated = self._pass("isolated", step, positive, skips, disable_v2a_cross_attn=no_v2a)
        guided = []
        for modality, (guider, enabled) in enumerate(((video, step.video_enabled), (audio, step.audio_enabled))):
            if not enabled and last is not None:
                guided.append(last[modality])
                continue
            c, u, p, m = (x[modality] for x in (cond, uncond, perturbed, isolated))
            assert c is not None
            guided.append(combine(guider, c, u, p, m, in_fp32=reference.guidance_fp32))
        return guided[0], guided[1]

    def _pass(self, name: str, step: Step, context: Pair, skips: Skips, *, disable_v2a_cross_attn: bool) -> Pair:
        with scope(name):
            video = _modality(step.video, step.sigma, context[0], step.video_enabled)
            audio = _modality(step.audio, step.sigma, context[1], step.audio_enabled)
            x0: Pair = self.transformer(
                video, audio, step.rotary, skips, step.modulation, disable_v2a_cross_attn=disable_v2a_cross_attn
            )
            tap("x0/video", x0[0])
            tap("x0/audio", x0[1])
        return x0


def _modality(state: LatentState, sigma: Tensor, context: Tensor, enabled: bool) -> ModalityInput:
    return ModalityInput(
        latent=state.latent,
        sigma=sigma,
        timesteps=state.denoise_mask * sigma,  # (B, T, 1): a given token is at no noise
        context=context,
        enabled=enabled,
    )


def advance(state: LatentState, x0: Tensor, sigma: float, change: float) -> LatentState:
    """One Euler step of one modality from the noise level `sigma`, to its guided x0 (B, T, C); given tokens stay."""
    pulled = pull_to_clean(x0, state.denoise_mask, state.clean)
    return replace(state, latent=euler_step(state.latent, pulled, sigma, change))
