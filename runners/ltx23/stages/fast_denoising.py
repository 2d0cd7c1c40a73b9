"""Denoising in the fast tier: the passes of a step together (`runners.ltx23.fast`); guidance and Euler step as ever."""

from itertools import groupby

from torch import Tensor

from runners.ltx23.block import StreamModulation
from runners.ltx23.fast.fp8_choice import NOTHING_IN_FP8, Fp8Choice
from runners.ltx23.fast.fused import triton_kernels
from runners.ltx23.fast.levels import TokenLevels
from runners.ltx23.fast.transformer import FastTransformer, StreamInput
from runners.ltx23.latents import LatentState
from runners.ltx23.passes import GuidancePass
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.denoising import DenoisingStage, Pair, Step, modality_at
from runners.ltx23.transformer import RotaryTables, Transformer
from runners.tap import scope, tap


class FastDenoisingStage(DenoisingStage):
    """Fills in `video_latent` and `audio_latent`."""

    def __init__(self, transformer: Transformer, choice: Fp8Choice = NOTHING_IN_FP8, *, keep: bool = False) -> None:
        """Take over a loaded transformer; see `FastTransformer`."""
        super().__init__(transformer)
        self.fast = FastTransformer(transformer, choice, keep=keep)
        self._levels: tuple[Tensor, Tensor, TokenLevels, TokenLevels] | None = None

    def forward(self, batch: Batch) -> Batch:
        """Run the whole schedule. Raises: StageInputError if a stage before was left out."""
        kernels = triton_kernels() if batch.device.type == "cuda" else None
        if kernels is None:
            batch.kernels = "plain torch operations"
            return super().forward(batch)
        with kernels.Compilations() as compilations:
            super().forward(batch)
        batch.kernels = compilations.note
        return batch

    def step_at(
        self, index: int, batch: Batch, video: LatentState, audio: LatentState, sigma: Tensor, rotary: RotaryTables
    ) -> Step:
        """The passes of a step; its modulation is of the distinct noise levels, not of every token."""
        context = self.context(batch, negative=False)  # modulation does not look at the text, so any serves
        levels = self._levels_of(video, audio)
        of_video, of_audio = (
            one.of_modality(modality_at(state, sigma, text, True), sigma)
            for one, state, text in zip(levels, (video, audio), context, strict=True)
        )
        return Step(
            passes=self.passes_at(index, batch),
            modulation=self.transformer.modulation(of_video, of_audio),
            video=video,
            audio=audio,
            sigma=sigma,
            rotary=rotary,
        )

    def predict(self, batch: Batch, step: Step, *, disable_v2a_cross_attn: bool) -> dict[str, Pair]:
        """x0 of both modalities by the name of the pass, from passes that enable the same modalities together."""
        negative = any(one.negative_prompt for one in step.passes)
        texts = [self.context(batch, negative=False), *([self.context(batch, negative=True)] if negative else [])]
        levels = self._levels_of(step.video, step.audio)
        modulations = step.modulation.video, step.modulation.audio
        video, audio = (
            _input(state, step.sigma, one, modulation, prompts)
            for state, one, modulation, prompts in zip(
                (step.video, step.audio), levels, modulations, zip(*texts, strict=True), strict=True
            )
        )
        x0: dict[str, Pair] = {}
        for _, together in groupby(sorted(step.passes, key=_enabled), key=_enabled):
            x0 |= self.fast.predict(
                tuple(together), video, audio, step.rotary, disable_v2a_cross_attn=disable_v2a_cross_attn
            )
        for one in step.passes:
            with scope(one.name):
                tap("x0/video", x0[one.name][0])
                tap("x0/audio", x0[one.name][1])
        return x0

    def _levels_of(self, video: LatentState, audio: LatentState) -> tuple[TokenLevels, TokenLevels]:
        """Read once for a request, whose masks stay the same: reading waits for the device."""
        masks = video.denoise_mask, audio.denoise_mask
        if self._levels is None or self._levels[0] is not masks[0] or self._levels[1] is not masks[1]:
            self._levels = *masks, TokenLevels.of(masks[0]), TokenLevels.of(masks[1])
        return self._levels[2:]


def _input(
    state: LatentState, sigma: Tensor, levels: TokenLevels, modulation: StreamModulation, prompts: tuple[Tensor, ...]
) -> StreamInput:
    return StreamInput(
        latent=state.latent,
        timesteps=state.denoise_mask * sigma,
        levels=levels,
        modulation=modulation,
        prompts=prompts,
    )


def _enabled(one: GuidancePass) -> tuple[bool, bool]:
    return one.video_enabled, one.audio_enabled
