"""The native model with prompts batched, as ports like to run it: the same function, other shapes, so other rounding.

Axes: B prompt or pass, S token, C channel, D width of the language model, L hidden state.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor

from runners.ltx23.connectors import NORM_EPS, Connector, TextConnectors
from runners.ltx23.latents import LatentState
from runners.ltx23.passes import PASSES, GuidancePass
from runners.ltx23.rotary import rotary_table
from runners.ltx23.stages.batch import Batch, needed
from runners.ltx23.stages.denoising import DenoisingStage, Pair, Step
from runners.ltx23.timestep import rms_norm
from runners.ltx23.transformer import ModalityInput, Skips, Transformer
from runners.tap import Listener, scope, tap

PROMPT_PASSES: Final = ("uncond", "cond")  # as diffusers batches them
ALL_PASSES: Final = PASSES  # as release 1.2.0 does at max_batch_size=4


class BatchedConnectorStage:
    """The text connector stage with both prompts in one batch; needs guidance.

    Each prompt has its own mask or, as in ports that pad a batch to one length, both have the positive one's.
    """

    def __init__(self, connectors: TextConnectors, *, one_mask: bool) -> None:
        self.connectors = connectors
        self._one_mask = one_mask

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
        replaced = mask[:1].expand_as(mask) if self._one_mask else mask
        video = connect_batch(self.connectors.video_connector, features[0], replaced)
        audio = connect_batch(self.connectors.audio_connector, features[1], replaced)
        for index, sign in enumerate(("pos", "neg")):
            tap(f"connector/{sign}/video", video[index : index + 1])
            tap(f"connector/{sign}/audio", audio[index : index + 1])
        batch.video_context, batch.negative_video_context = video[:1], video[1:]
        batch.audio_context, batch.negative_audio_context = audio[:1], audio[1:]
        return batch


def connect_batch(connector: Connector, features: Tensor, mask: Tensor) -> Tensor:
    """(B, S, C) features of several prompts and their (B, S) masks to (B, S, C) context, in one batch."""
    config, tokens = connector.config, features.shape[1]
    x = torch.cat([connector.replace_padding(one[None], real.bool()) for one, real in zip(features, mask, strict=True)])
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
    """Denoising with several guidance passes in one batch.

    Passes that leave out different branches go together as release 1.2.0 lets them at a larger `max_batch_size`: every
    branch is computed for all, and a mask of 0 and 1 takes it out of some. Passes that do not enable the same
    modalities stay apart. The taps of a batch carry the names of its passes, joined by `+`; see `each_pass`.
    """

    def __init__(self, transformer: Transformer, together: tuple[str, ...]) -> None:
        """Prepare; `together` names the passes to batch, in the order of the batch."""
        super().__init__(transformer)
        self._together = together

    def predict(self, batch: Batch, step: Step, *, disable_v2a_cross_attn: bool) -> dict[str, Pair]:
        """x0 of both modalities by pass, from passes in one batch where the step allows it."""
        by_name = {one.name: one for one in step.passes}
        chosen = [by_name[name] for name in self._together if name in by_name]
        if len(chosen) < 2 or len({(one.video_enabled, one.audio_enabled) for one in chosen}) > 1:
            return super().predict(batch, step, disable_v2a_cross_attn=disable_v2a_cross_attn)
        rest = replace(step, passes=tuple(one for one in step.passes if one not in chosen))
        together = self._predict_together(chosen, batch, step, disable_v2a_cross_attn)
        return together | super().predict(batch, rest, disable_v2a_cross_attn=disable_v2a_cross_attn)

    def _predict_together(
        self, passes: Sequence[GuidancePass], batch: Batch, step: Step, disable_v2a_cross_attn: bool
    ) -> dict[str, Pair]:
        contexts = [self.context(batch, negative=one.negative_prompt) for one in passes]
        video, audio = (torch.cat(context) for context in zip(*contexts, strict=True))  # (B, S, C)
        count = len(passes)
        skips = [one.skips for one in passes]
        shared = Skips(
            video_self_attention=frozenset.intersection(*(one.video_self_attention for one in skips)),
            audio_self_attention=frozenset.intersection(*(one.audio_self_attention for one in skips)),
            a2v=all(one.a2v for one in skips),
            v2a=all(one.v2a for one in skips),
        )
        with scope("+".join(one.name for one in passes)), _taken_out_of_some(self.transformer, skips):
            x0: Pair = self.transformer(
                _repeated(step.video, step.sigma, video, passes[0].video_enabled, count),
                _repeated(step.audio, step.sigma, audio, passes[0].audio_enabled, count),
                step.rotary,
                shared,
                step.modulation,
                disable_v2a_cross_attn=disable_v2a_cross_attn,
            )
            tap("x0/video", x0[0])
            tap("x0/audio", x0[1])
        return {one.name: (x0[0][i : i + 1], x0[1][i : i + 1]) for i, one in enumerate(passes)}


def _repeated(state: LatentState, sigma: Tensor, context: Tensor, enabled: bool, count: int) -> ModalityInput:
    return ModalityInput(
        latent=state.latent.repeat(count, 1, 1),
        sigma=sigma.repeat(count),
        timesteps=(state.denoise_mask * sigma).repeat(count, 1, 1),
        context=context,
        enabled=enabled,
    )


@contextmanager
def _taken_out_of_some(transformer: Transformer, skips: Sequence[Skips]) -> Iterator[None]:
    """Take branches out of those samples of a batch that skip them."""
    with ExitStack() as stack:
        block: Any
        for index, block in enumerate(transformer.transformer_blocks):
            at = [one.at(index) for one in skips]
            for attention, out in (
                (block.attn1, [one.video_self_attention for one in at]),
                (block.audio_attn1, [one.audio_self_attention for one in at]),
            ):
                if any(out) and not all(out):
                    _values_of_some(stack, attention, out)
            for attention, out in (
                (block.audio_to_video_attn, [one.a2v for one in at]),
                (block.video_to_audio_attn, [one.v2a for one in at]),
            ):
                if any(out) and not all(out):
                    handle = attention.register_forward_hook(lambda _m, _i, y, out=out: y * _kept(out, y))
                    stack.callback(handle.remove)
        yield


def _values_of_some(stack: ExitStack, attention: Any, out: list[bool]) -> None:
    """Put the values in place of the attention's output, for some samples."""
    values: list[Tensor] = []
    handle = attention.to_v.register_forward_hook(lambda _m, _i, y: values.append(y))
    stack.callback(handle.remove)
    original = attention._project_out

    def project(x: Tensor, attended: Tensor) -> Tensor:
        kept = _kept(out, attended)
        projected: Tensor = original(x, attended * kept + values.pop() * (1 - kept))
        return projected

    stack.enter_context(patch.object(attention, "_project_out", project))


def _kept(out: list[bool], like: Tensor) -> Tensor:
    """(B, 1, 1) of 1 where a sample keeps a branch and 0 where it does not."""
    return torch.tensor([not one for one in out], dtype=like.dtype, device=like.device)[:, None, None]


def each_pass(listener: Listener) -> Listener:
    """A listener that hears a batch of passes as the single passes it is made of."""

    def hear(name: str, tensor: Tensor) -> None:
        parts = name.split("/")
        passes = parts[2].split("+") if len(parts) > 2 else []
        if len(passes) < 2:
            listener(name, tensor)
            return
        for one, part in zip(passes, tensor.chunk(len(passes)), strict=True):
            if not (one == "isolated" and parts[-1] == "av_attn"):  # computed, but no part of that pass
                listener("/".join((*parts[:2], one, *parts[3:])), part)

    return hear
