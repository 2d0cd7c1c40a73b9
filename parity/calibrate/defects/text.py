"""Defects of text encoding and of the connectors.

Axes: B prompt, S token, D channel of the language model, L hidden state, C channel of the context.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor

from parity.calibrate.defects.defect import BOTH, SUBTLE, Defect, edited, wrapped
from parity.calibrate.defects.variant import TEXT_ONLY
from parity.identify.batched import BatchedConnectorStage
from runners.ltx23 import connectors, text_features
from runners.ltx23.connectors import Connector, TextConnectors
from runners.ltx23.gemma import GemmaEncoder, PromptTokenizer
from runners.ltx23.rotary import SplitRotary
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.text_connector import LTX2TextConnectorStage
from runners.ltx23.stages.text_encoding import TextEncodingStage
from runners.ltx23.text_features import EPS, TextFeatures
from runners.real_tokens import PROMPT_TOKENS

Original = Callable[..., Any]


def _pad_on_the_right(original: Original, tokenizer: Any, prompt: str, device: torch.device) -> Any:
    tokenizer._tokenizer.padding_side = "right"
    return original(tokenizer, prompt, device)


def _without_first_token(original: Original, tokenizer: Any, prompt: str, device: torch.device) -> Any:
    ids, mask = original(tokenizer, prompt, device)
    first = int(mask[0].argmax())
    ids[0, first], mask[0, first] = ids[0, 0], 0
    return ids, mask


def _cut_at_its_beginning(original: Original, tokenizer: Any, prompt: str, device: torch.device) -> Any:
    with patch.object(tokenizer._tokenizer, "truncation_side", "left"):
        return original(tokenizer, prompt, device)


def _is_beyond_window(tokenizer: Any, prompt: str, device: torch.device) -> bool:
    return len(tokenizer._tokenizer(prompt.strip(), verbose=False).input_ids) > PROMPT_TOKENS


def _padding_seen(original: Original, encoder: GemmaEncoder, prompts: list[str]) -> Any:
    model = encoder.language_model
    forward = model.forward

    def unmasked(*, attention_mask: Tensor, **options: Any) -> Any:
        return forward(attention_mask=torch.ones_like(attention_mask), **options)

    with patch.object(model, "forward", unmasked):
        return original(encoder, prompts)


def _negative_prompt_empty(original: Original, stage: TextEncodingStage, batch: Batch) -> Batch:
    batch.sampling = replace(batch.sampling, negative_prompt="")
    encoded: Batch = original(stage, batch)
    return encoded


def _one_layer_late(original: Original, encoder: GemmaEncoder, prompts: list[str]) -> Any:
    return [((*states[1:], states[-1]), mask) for states, mask in original(encoder, prompts)]


def _norm_over_all_layers(_: Original, features: TextFeatures, hidden_states: tuple[Tensor, ...], mask: Tensor) -> Any:
    stacked = torch.stack(hidden_states, dim=-1)  # (B, S, D, L)
    normed = stacked * torch.rsqrt(torch.mean(stacked**2, dim=(2, 3), keepdim=True) + EPS)
    normed = normed.flatten(2) * mask[..., None]
    return (
        features.project(normed, features.video_aggregate_embed),
        features.project(normed, features.audio_aggregate_embed),
    )


def _mask_not_turned(_: Original, connector: Connector, features: Tensor, is_real: Tensor) -> Tensor:
    tokens = features.shape[1]
    tiled = connector.learnable_registers.tile(tokens // connector.learnable_registers.shape[0], 1)
    real = features[:, is_real]
    moved = torch.nn.functional.pad(real, (0, 0, 0, tokens - real.shape[1]))
    keep = is_real.int()[None, :, None]  # the real tokens have moved away from here
    return keep * moved + (1 - keep) * tiled


def _both_prompts_at_once(_: Original, stage: LTX2TextConnectorStage, batch: Batch) -> Batch:
    # As ports do that pad a batch to one length: the positive prompt's mask serves both.
    return BatchedConnectorStage(stage.connectors, one_mask=True).forward(batch)


def _exchange_contexts(original: Original, *args: Any) -> tuple[Tensor, Tensor]:
    video, audio = original(*args)
    wide = audio.repeat(1, 1, -(-video.shape[-1] // audio.shape[-1]))
    return wide[..., : video.shape[-1]], video[..., : audio.shape[-1]]


def _turn_registers(module: TextConnectors) -> None:
    for connector in (module.video_connector, module.audio_connector):
        connector.learnable_registers.data = connector.learnable_registers.flip(0)


def _no_rotation(original: Original, *args: Any, **options: Any) -> Any:
    table: SplitRotary = original(*args, **options)
    return replace(
        table,
        cos=torch.ones_like(table.cos),
        sin=torch.zeros_like(table.sin),
        negative_sin=torch.zeros_like(table.sin),
    )


TEXT_DEFECTS: Final = (
    Defect(
        id="text_padded_on_the_right",
        component="gemma",
        description="prompts are padded behind their tokens instead of before them",
        first_taps=("connector/pos/*",),  # Gemma's positions are relative: the tokens themselves are moved by rounding
        isolated_at=("text/pos/mask",),
        apply=wrapped(PromptTokenizer, "__call__", _pad_on_the_right),
        shows_in=BOTH,
    ),
    Defect(
        id="text_without_first_token",
        component="gemma",
        description="the tokenizer adds no <bos>",
        first_taps=("text/pos/hidden",),
        isolated_at=("text/pos/*",),
        apply=wrapped(PromptTokenizer, "__call__", _without_first_token),
        shows_in=BOTH,
    ),
    Defect(
        id="text_layers_off_by_one",
        component="gemma",
        description="the embedding is left out of the hidden states and the last layer given twice",
        first_taps=("text/pos/hidden",),
        apply=wrapped(GemmaEncoder, "together", _one_layer_late),
        shows_in=BOTH,
    ),
    Defect(
        id="negative_prompt_empty",
        component="stages.text_encoding",
        description="the negative prompt is not the request's but empty",
        first_taps=("text/neg/hidden",),
        apply=wrapped(TextEncodingStage, "forward", _negative_prompt_empty),
        shows_in=BOTH,
    ),
    Defect(
        id="features_normed_over_all_layers",
        component="text_features",
        description="one RMS norm over all hidden states of a token instead of one for each",
        first_taps=("connector/pos/*",),
        apply=wrapped(TextFeatures, "forward", _norm_over_all_layers),
        shows_in=BOTH,
    ),
    Defect(
        id="features_layer_major",
        component="text_features",
        description="hidden states are laid side by side layer by layer instead of channel by channel",
        first_taps=("connector/pos/*",),
        apply=wrapped(text_features, "rearrange", lambda original, x, pattern: original(x, "b s d l -> b s (l d)")),
        shows_in=BOTH,
    ),
    Defect(
        id="features_scale_dropped",
        component="text_features",
        description="the features are not scaled by the root of the ratio of widths",
        first_taps=("connector/pos/*",),
        apply=wrapped(TextFeatures, "project", lambda original, features, normed, projection: projection(normed)),
        shows_in=BOTH,
    ),
    Defect(
        id="connector_mask_wrong_side",
        component="connectors",
        description="registers replace the places where padding was, not where it is after real tokens have moved",
        first_taps=("connector/pos/*",),
        apply=wrapped(Connector, "replace_padding", _mask_not_turned),
        shows_in=BOTH,
    ),
    Defect(
        id="connector_registers_reversed",
        component="connectors",
        description="the learned registers stand in reverse order",
        first_taps=("connector/pos/*",),
        apply=edited(TextConnectors, _turn_registers),
        shows_in=BOTH,
    ),
    Defect(
        id="connector_batched",
        component="stages.text_connector",
        description="both prompts go through the connectors in one batch, with one mask",
        first_taps=("connector/pos/*", "connector/neg/*"),
        apply=wrapped(LTX2TextConnectorStage, "forward", _both_prompts_at_once),
        shows_in=BOTH,
    ),
    Defect(
        id="connector_contexts_exchanged",
        component="connectors",
        description="video gets the audio context and audio the video context",
        first_taps=("connector/pos/*",),
        apply=wrapped(TextConnectors, "forward", _exchange_contexts),
        shows_in=BOTH,
    ),
    Defect(
        id="connector_rotary_dropped",
        component="connectors",
        description="queries and keys of the connectors are not rotated",
        first_taps=("connector/pos/*",),
        apply=wrapped(connectors, "rotary_table", _no_rotation),
        shows_in=SUBTLE,
    ),
    Defect(
        id="prompt_truncated_from_left",
        component="gemma",
        description="a prompt beyond the window loses its beginning instead of its end",
        first_taps=("text/pos/hidden",),
        isolated_at=("text/pos/*",),
        apply=wrapped(PromptTokenizer, "__call__", _cut_at_its_beginning, when=_is_beyond_window),
        shows_in=BOTH,
        variant=TEXT_ONLY,
    ),
    Defect(
        id="attends_padded_text",
        component="gemma",
        description="the language model's tokens attend to the padding before them",
        first_taps=("text/pos/hidden",),
        isolated_at=("text/pos/*",),
        apply=wrapped(GemmaEncoder, "together", _padding_seen),
        shows_in=BOTH,
    ),
)
