"""Gemma 3 as text encoder: a prompt to the hidden states of every layer, through Hugging Face transformers.

One prompt at a time, padded on the left to 1024 tokens. Only the language model is built: the vision tower of the Gemma
folder is for prompt enhancement, which the one-stage pipeline leaves off. Source:
ltx_core.text_encoders.gemma.{tokenizer,encoders.base_encoder,encoders.encoder_configurator} 1.0.0.

Axes: B sample, S token of the prompt, D width, L layer (embedding included).
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, Gemma3Config, Gemma3TextConfig, Gemma3TextModel
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding

from runners.errors import CheckpointError
from runners.laid_out import laid_out
from runners.ltx23.loading import expected_shapes, load, verify
from runners.model_files import TensorSource
from runners.real_tokens import PROMPT_TOKENS

OTHER_PREFIXES = ("vision_tower.", "multi_modal_projector.")  # parts of the folder that encoding does not read


class PromptTokenizer:
    """Text to token ids and mask, always PROMPT_TOKENS long."""

    def __init__(self, gemma_folder: Path) -> None:
        """Read the tokenizer's files. Raises: CheckpointError if they do not make a tokenizer."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                str(gemma_folder), local_files_only=True, trust_remote_code=False, model_max_length=PROMPT_TOKENS
            )
        except Exception as error:  # transformers raises whatever its parsers do
            raise CheckpointError(f"The tokenizer in {gemma_folder} cannot be read: {error}") from error
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._tokenizer = tokenizer

    def __call__(self, prompt: str, device: torch.device) -> tuple[Tensor, Tensor]:
        """Ids and mask, each int64 (1, PROMPT_TOKENS); a longer prompt is cut at its end."""
        encoded = self._tokenizer(
            prompt.strip(), padding="max_length", max_length=PROMPT_TOKENS, truncation=True, return_tensors="pt"
        )
        return encoded.input_ids.to(device), encoded.attention_mask.to(device)


class GemmaEncoder(nn.Module):
    """The language model of Gemma 3 with all its hidden states."""

    CHECKPOINT_PREFIXES: ClassVar[dict[str, str]] = {"": "language_model.model."}

    def __init__(self, language_model: nn.Module, tokenizer: PromptTokenizer) -> None:
        super().__init__()
        self.language_model = language_model
        self.tokenizer = tokenizer

    def forward(self, prompt: str) -> tuple[tuple[Tensor, ...], Tensor]:
        """Encode one prompt.

        Returns: L hidden states (1, S, D), the last one after the final norm, and the mask int64 (1, S).
        """
        (encoded,) = self.together([prompt])
        return encoded

    def together(self, prompts: list[str]) -> list[tuple[tuple[Tensor, ...], Tensor]]:
        """Encode prompts in one pass, whose matrix products are of another shape than those of one prompt.

        Returns: for each prompt what `forward` returns.
        """
        device = next(self.language_model.parameters()).device
        tokens = [self.tokenizer(prompt, device) for prompt in prompts]
        ids, mask = (torch.cat(parts) for parts in zip(*tokens, strict=True))  # each (prompts, S)
        output = self.language_model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        rows = [slice(index, index + 1) for index in range(len(prompts))]
        return [(tuple(hidden[row] for hidden in output.hidden_states), mask[row]) for row in rows]


def load_gemma(
    config: dict[str, Any], gemma_folder: Path, source: TensorSource, device: torch.device, dtype: torch.dtype
) -> GemmaEncoder:
    """Build the encoder from a Gemma folder's configuration and tensors.

    Raises: CheckpointError for a configuration that is not Gemma 3's, or tensors that do not fit it.
    """
    model = gemma_skeleton(config)
    prefixes = GemmaEncoder.CHECKPOINT_PREFIXES
    language = _Only(source, exclude=OTHER_PREFIXES)
    verify(expected_shapes(model, prefixes), language, "Gemma's language model")
    _restore_buffers(model)
    return GemmaEncoder(load(model, prefixes, source, device, dtype).to(device), PromptTokenizer(gemma_folder))


def gemma_text_config(config: dict[str, Any]) -> Gemma3TextConfig:
    """The sizes of the language model. Raises: CheckpointError."""
    with _described():
        return Gemma3Config.from_dict(config).text_config


def gemma_skeleton(config: dict[str, Any]) -> Gemma3TextModel:
    """The language model on the meta device. Raises: CheckpointError."""
    text_config = gemma_text_config(config)
    with _described(), laid_out():
        return Gemma3TextModel(text_config)


@contextmanager
def _described() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a stranger's config can fail anywhere inside transformers
        raise CheckpointError(f"The Gemma folder's config.json does not describe a Gemma 3: {error}") from error


def _restore_buffers(model: Gemma3TextModel) -> None:
    """Compute what a skeleton on the meta device lacks: rotary frequencies and the scale of the embedding."""
    config = model.config
    local = copy.deepcopy(config)
    local.rope_theta = config.rope_local_base_freq
    local.rope_scaling = {"rope_type": "default"}
    model.rotary_emb = Gemma3RotaryEmbedding(config=config)
    model.rotary_emb_local = Gemma3RotaryEmbedding(config=local)
    model.embed_tokens.embed_scale = torch.tensor(config.hidden_size**0.5)  # cast to the weights' dtype when used


class _Only:
    """A tensor source without the parts that are not wanted."""

    def __init__(self, source: TensorSource, exclude: tuple[str, ...]) -> None:
        self.shapes = {name: shape for name, shape in source.shapes.items() if not name.startswith(exclude)}
        self.read = source.read
