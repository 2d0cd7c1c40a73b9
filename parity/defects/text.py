"""Defects of text encoding and of the connectors.

Axes: B prompt, S token, D channel of the language model, L hidden state, C channel of the context.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from parity.defects.batched import BatchedConnectorStage
from parity.defects.defect import BOTH, edits, replaces
from parity.defects.variant import TEXT_ONLY
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


def _is_beyond_window(tokenizer: Any, prompt: str, device: torch.device) -> bool:
    return len(tokenizer._tokenizer(prompt.strip(), verbose=False).input_ids) > PROMPT_TOKENS


# Gemma's positions are relative: the tokens themselves are moved by rounding.
@replaces(PromptTokenizer, "__call__", "connector/pos/*", isolated_at=("text/pos/mask",), shows_in=BOTH)
def text_padded_on_the_right(original: Original, tokenizer: Any, prompt: str, device: torch.device) -> Any:
    """Prompts are padded behind their tokens instead of before them."""
    tokenizer._tokenizer.padding_side = "right"
    return original(tokenizer, prompt, device)


@replaces(PromptTokenizer, "__call__", "text/pos/hidden", isolated_at=("text/pos/*",), shows_in=BOTH)
def text_without_first_token(original: Original, tokenizer: Any, prompt: str, device: torch.device) -> Any:
    """The tokenizer adds no <bos>."""
    ids, mask = original(tokenizer, prompt, device)
    first = int(mask[0].argmax())
    ids[0, first], mask[0, first] = ids[0, 0], 0
    return ids, mask


@replaces(GemmaEncoder, "together", "text/pos/hidden", shows_in=BOTH)
def text_layers_off_by_one(original: Original, encoder: GemmaEncoder, prompts: list[str]) -> Any:
    """The embedding is left out of the hidden states and the last layer given twice."""
    return [((*states[1:], states[-1]), mask) for states, mask in original(encoder, prompts)]


@replaces(TextEncodingStage, "forward", "text/neg/hidden", shows_in=BOTH)
def negative_prompt_empty(original: Original, stage: TextEncodingStage, batch: Batch) -> Batch:
    """The negative prompt is not the request's but empty."""
    batch.sampling = replace(batch.sampling, negative_prompt="")
    encoded: Batch = original(stage, batch)
    return encoded


@replaces(TextFeatures, "forward", "connector/pos/*", shows_in=BOTH)
def features_normed_over_all_layers(
    _: Original, features: TextFeatures, hidden_states: tuple[Tensor, ...], mask: Tensor
) -> Any:
    """One RMS norm over all hidden states of a token instead of one for each."""
    stacked = torch.stack(hidden_states, dim=-1)  # (B, S, D, L)
    normed = stacked * torch.rsqrt(torch.mean(stacked**2, dim=(2, 3), keepdim=True) + EPS)
    normed = normed.flatten(2) * mask[..., None]
    return (
        features.project(normed, features.video_aggregate_embed),
        features.project(normed, features.audio_aggregate_embed),
    )


@replaces(text_features, "rearrange", "connector/pos/*", component="text_features", shows_in=BOTH)
def features_layer_major(original: Original, x: Any, pattern: Any) -> Any:
    """Hidden states are laid side by side layer by layer instead of channel by channel."""
    return original(x, "b s d l -> b s (l d)")


@replaces(TextFeatures, "project", "connector/pos/*", shows_in=BOTH)
def features_scale_dropped(original: Original, features: Any, normed: Any, projection: Any) -> Any:
    """The features are not scaled by the root of the ratio of widths."""
    return projection(normed)


@replaces(Connector, "replace_padding", "connector/pos/*", shows_in=BOTH)
def connector_mask_wrong_side(_: Original, connector: Connector, features: Tensor, is_real: Tensor) -> Tensor:
    """Registers replace the places where padding was, not where it is after real tokens have moved."""
    tokens = features.shape[1]
    tiled = connector.learnable_registers.tile(tokens // connector.learnable_registers.shape[0], 1)
    real = features[:, is_real]
    moved = torch.nn.functional.pad(real, (0, 0, 0, tokens - real.shape[1]))
    keep = is_real.int()[None, :, None]  # the real tokens have moved away from here
    return keep * moved + (1 - keep) * tiled


@edits(TextConnectors, "connector/pos/*", shows_in=BOTH)
def connector_registers_reversed(module: TextConnectors) -> None:
    """The learned registers stand in reverse order."""
    for connector in (module.video_connector, module.audio_connector):
        connector.learnable_registers.data = connector.learnable_registers.flip(0)


@replaces(LTX2TextConnectorStage, "forward", "connector/pos/*", "connector/neg/*", shows_in=BOTH)
def connector_batched(_: Original, stage: LTX2TextConnectorStage, batch: Batch) -> Batch:
    """Both prompts go through the connectors in one batch, with one mask."""
    # As ports do that pad a batch to one length: the positive prompt's mask serves both.
    return BatchedConnectorStage(stage.connectors, one_mask=True).forward(batch)


@replaces(TextConnectors, "forward", "connector/pos/*", shows_in=BOTH)
def connector_contexts_exchanged(original: Original, *args: Any) -> tuple[Tensor, Tensor]:
    """Video gets the audio context and audio the video context."""
    video, audio = original(*args)
    wide = audio.repeat(1, 1, -(-video.shape[-1] // audio.shape[-1]))
    return wide[..., : video.shape[-1]], video[..., : audio.shape[-1]]


@replaces(connectors, "rotary_table", "connector/pos/*", component="connectors")
def connector_rotary_dropped(original: Original, *args: Any, **options: Any) -> Any:
    """Queries and keys of the connectors are not rotated."""
    table: SplitRotary = original(*args, **options)
    return replace(
        table,
        cos=torch.ones_like(table.cos),
        sin=torch.zeros_like(table.sin),
        negative_sin=torch.zeros_like(table.sin),
    )


@replaces(
    PromptTokenizer,
    "__call__",
    "text/pos/hidden",
    isolated_at=("text/pos/*",),
    shows_in=BOTH,
    variant=TEXT_ONLY,
    when=_is_beyond_window,
)
def prompt_truncated_from_left(original: Original, tokenizer: Any, prompt: str, device: torch.device) -> Any:
    """A prompt beyond the window loses its beginning instead of its end."""
    with patch.object(tokenizer._tokenizer, "truncation_side", "left"):
        return original(tokenizer, prompt, device)


@replaces(GemmaEncoder, "together", "text/pos/hidden", isolated_at=("text/pos/*",), shows_in=BOTH)
def attends_padded_text(original: Original, encoder: GemmaEncoder, prompts: list[str]) -> Any:
    """The language model's tokens attend to the padding before them."""
    model = encoder.language_model
    forward = model.forward

    def unmasked(*, attention_mask: Tensor, **options: Any) -> Any:
        return forward(attention_mask=torch.ones_like(attention_mask), **options)

    with patch.object(model, "forward", unmasked):
        return original(encoder, prompts)
