"""Gemma: token ids against the official tokenizer, and folders that do not hold together."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runners.errors import CheckpointError
from runners.ltx23.gemma import PromptTokenizer, gemma_skeleton, load_gemma
from runners.real_tokens import PROMPT_TOKENS
from runners.weights import WeightsFolder

CPU = torch.device("cpu")
PROMPTS = ("", "  A red kite — over the sea.\n", "word " * 3000, "日本語 🚀 \u0000", "<bos><end_of_turn>")


@pytest.mark.parametrize("prompt", PROMPTS, ids=["empty", "plain", "long", "unicode", "special"])
def test_a_prompt_has_the_official_ids_and_mask(prompt: str, micro_weights: WeightsFolder) -> None:
    from ltx_core.text_encoders.gemma.tokenizer import LTXVGemmaTokenizer

    ids, mask = PromptTokenizer(micro_weights.gemma_folder)(prompt, CPU)
    official = LTXVGemmaTokenizer(str(micro_weights.gemma_folder), PROMPT_TOKENS).tokenize_with_weights(prompt)["gemma"]
    assert ids.tolist() == [[int(token) for token, _ in official]]
    assert mask.tolist() == [[int(valid) for _, valid in official]]
    assert ids.shape == mask.shape == (1, PROMPT_TOKENS)
    if prompt != PROMPTS[2]:
        assert mask[0, 0] == 0 and mask[0, -1] == 1  # padded on the left


def load_changed(weights: WeightsFolder, config: dict[str, Any]) -> None:
    load_gemma(config, weights.gemma_folder, weights.gemma, CPU, torch.float32)


def test_only_the_language_model_is_loaded(micro_weights: WeightsFolder) -> None:
    encoder = load_gemma(
        micro_weights.gemma_config, micro_weights.gemma_folder, micro_weights.gemma, CPU, torch.float32
    )
    names = {f"language_model.model.{key.removeprefix('language_model.')}" for key in encoder.state_dict()}
    assert names == {name for name in micro_weights.gemma.shapes if name.startswith("language_model.")}
    assert any(name.startswith("vision_tower.") for name in micro_weights.gemma.shapes)


def more_layers(config: dict[str, Any]) -> None:
    config["text_config"]["num_hidden_layers"] = 4


def wider(config: dict[str, Any]) -> None:
    config["text_config"]["hidden_size"] = 80


def not_numbers(config: dict[str, Any]) -> None:
    config["text_config"]["hidden_size"] = "wide"


def no_heads(config: dict[str, Any]) -> None:
    config["text_config"]["num_key_value_heads"] = 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            more_layers,
            r"Gemma's language model do not fit its configuration: 13 missing: language_model.model.layers.3",
        ),
        (wider, r"of another shape: language_model.model.embed_tokens.weight is \(880, 72\) instead of \(880, 80\)"),
        (not_numbers, r"config.json does not describe a Gemma 3"),
        (no_heads, r"config.json does not describe a Gemma 3"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Any]], None], sentence: str, micro_weights: WeightsFolder
) -> None:
    config = copy.deepcopy(micro_weights.gemma_config)
    change(config)
    with pytest.raises(CheckpointError, match=sentence):
        load_changed(micro_weights, config)


def test_a_skeleton_takes_no_memory(micro_weights: WeightsFolder) -> None:
    assert {parameter.device.type for parameter in gemma_skeleton(micro_weights.gemma_config).parameters()} == {"meta"}


def test_a_tokenizer_that_cannot_be_read_is_refused_and_its_code_never_run(
    micro_weights: WeightsFolder, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"The tokenizer in .*nothing cannot be read"):
        PromptTokenizer(tmp_path / "nothing")
    folder = tmp_path / "gemma"
    shutil.copytree(micro_weights.gemma_folder, folder)
    for name in ("tokenizer.json", "tokenizer.model"):
        (folder / name).write_bytes(b"\x00garbage")
    with pytest.raises(CheckpointError, match=r"The tokenizer in .*gemma cannot be read"):
        PromptTokenizer(folder)
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: ...\n")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="cannot be read"):
        PromptTokenizer(folder)
    assert not ran.exists()
