"""The native model with prompts batched, as ports like to run it: the same function, other shapes, so other rounding.

Axes: B prompt or pass, S token, C channel, D width of the language model, L hidden state.
"""

from typing import Final

import torch
from torch import Tensor

from runners.ltx23.connectors import NORM_EPS, Connector, TextConnectors
from runners.ltx23.latents import LatentState
from runners.ltx23.rotary import rotary_table
from runners.ltx23.stages.batch import Batch, needed
from runners.ltx23.stages.denoising import DenoisingStage, Pair, Step
from runners.ltx23.timestep import rms_norm
from runners.ltx23.transformer import ModalityInput, Skips
from runners.tap import Listener, scope, tap

BOTH: Final = "uncond+cond"  # in place of a pass in the names of a batch's taps


class BatchedConnectorStage:
    """The text connector stage with both prompts in one batch, each with its own mask; needs guidance."""

    def __init__(self, connectors: TextConnectors) -> None:
        self.connectors = connectors

    def forward(self, batch: Batch) -> Batch:
        """Connect both prompts. Raises: StageInputError if one is missing."""
        name = type(self).__name__
        embeds = torch.cat(
            [needed(batch.prompt_embeds, name, "positive"), needed(batch.negative_prompt_embeds, name, "negative")]
        )  # (B, S, D, L)
        mask = torch.cat(
            [
                needed(batch.prompt_attention_mask, name, "positive mask"),
                needed(batch.negative_attention_mask, name, "negative mask"),
            ]
        )  # (B, S)
        features = self.connectors.features(embeds.unbind(-1), mask)
        video = connect_batch(self.connectors.video_connector, features[0], mask)
        audio = connect_batch(self.connectors.audio_connector, features[1], mask)
        for index, sign in enumerate(("pos", "neg")):
            tap(f"connector/{sign}/video", video[index : index + 1])
            tap(f"connector/{sign}/audio", audio[index : index + 1])
        batch.video_context, batch.negative_video_context = video[:1], video[1:]
        batch.audio_context, batch.negative_audio_context = audio[:1], audio[1:]
        return batch


def connect_batch(connector: Connector, features: Tensor, mask: Tensor) -> Tensor:
    """(B, S, C) features of several prompts and their (B, S) masks to (B, S, C) context, in one batch."""
    config, tokens = connector.config, features.shape[1]
    x = torch.cat(
        [connector._replace_padding(one[None], real.bool()) for one, real in zip(features, mask, strict=True)]
    )
    rotary = rotary_table(
        torch.arange(tokens, dtype=torch.float32, device=x.device)[None, None],
        width=config.width,
        heads=config.heads,
        max_positions=(config.max_position,),
        config=config.rotary,
        dtype=x.dtype,
    )
    additive_mask = torch.zeros(1, 1, 1, tokens, dtype=x.dtype, device=x.device)
    for block in connector.transformer_1d_blocks:
        x = block(x, additive_mask, rotary)
    return rms_norm(x, NORM_EPS)


class BatchedDenoisingStage(DenoisingStage):
    """Denoising with the conditional and the negative-prompt pass in one batch, negative first.

    A step where the two do not enable the same modalities runs them apart. Inside the batch taps carry BOTH for a pass.
    """

    _negative: Pair | None = None  # context of the pass to batch with the conditional one of this step
    _uncond: Pair | None = None  # x0 of that pass, once it has run

    def _guided(self, batch: Batch, step: Step, last: Pair | None) -> Pair:
        video, audio = batch.sampling.video_guidance, batch.sampling.audio_guidance
        alike = batch.config.reference.negative_disables_skipped_modality or (step.video_enabled and step.audio_enabled)
        self._negative = self._uncond = None
        if alike and (video.needs_uncond or audio.needs_uncond):
            name = type(self).__name__
            self._negative = (
                needed(batch.negative_video_context, name, "negative_video_context"),
                needed(batch.negative_audio_context, name, "negative_audio_context"),
            )
        return super()._guided(batch, step, last)

    def _pass(self, name: str, step: Step, context: Pair, skips: Skips) -> Pair:
        if name == "uncond" and self._uncond is not None:
            return self._uncond
        if name != "cond" or self._negative is None:
            return super()._pass(name, step, context, skips)
        contexts = [torch.cat(pair) for pair in zip(self._negative, context, strict=True)]  # (2, S, C)
        with scope(BOTH):
            x0: Pair = self.transformer(
                _twice(step.video, step.sigma, contexts[0], step.video_enabled),
                _twice(step.audio, step.sigma, contexts[1], step.audio_enabled),
                step.rotary,
                skips,
                step.modulation,
            )
            tap("x0/video", x0[0])
            tap("x0/audio", x0[1])
        self._uncond = (x0[0][:1], x0[1][:1])
        return x0[0][1:], x0[1][1:]


def _twice(state: LatentState, sigma: Tensor, context: Tensor, enabled: bool) -> ModalityInput:
    return ModalityInput(
        latent=state.latent.repeat(2, 1, 1),
        sigma=sigma.repeat(2),
        timesteps=(state.denoise_mask * sigma).repeat(2, 1, 1),
        context=context,
        enabled=enabled,
    )


def each_pass(listener: Listener) -> Listener:
    """A listener that hears a batch of passes as the single passes it is made of."""

    def hear(name: str, tensor: Tensor) -> None:
        if BOTH not in name:
            listener(name, tensor)
            return
        for one, part in zip(BOTH.split("+"), tensor.chunk(2), strict=True):
            listener(name.replace(BOTH, one), part)

    return hear
