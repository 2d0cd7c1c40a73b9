"""Known hashes of made checkpoints: equal to the hash of the bits, and unknown as soon as the recipe differs."""

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from runners.forge import counter, known, scales, weights
from runners.forge.inventory import Inventory, model_inventory
from runners.forge.known import known_hash, recipe_key
from runners.forge.make import SPEC_VERSION, forged_hash, forged_recipe
from runners.forge.presets import preset_named
from runners.forge.tensors import MadeTensors
from runners.forge.weights import ForgedWeights

CPU = torch.device("cpu")
PARTS: list[Inventory] = [
    {"vae.decoder.conv_out.conv.weight": (48, 5, 3, 3, 3), "model.diffusion_model.proj_out.bias": (7,)},
    {"language_model.model.norm.weight": (13,)},
]


def test_the_recipe_of_full_is_the_one_that_was_hashed() -> None:  # that of tiny: test_make.py
    assert known_hash(forged_recipe("full", 0)) == json.loads(known.TABLE.read_text())["full:0"]["hash"]


@pytest.mark.gpu
def test_the_entry_of_full_is_the_hash_of_its_bits() -> None:
    assert known_hash(forged_recipe("full", 0)) == forged_hash("full", 0, torch.device("cuda"))


def test_the_key_moves_with_seed_version_names_shapes_distributions_and_arithmetic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = [
        recipe_key(PARTS, 1, 0),
        recipe_key(PARTS, 2, 0),
        recipe_key(PARTS, 1, 1),
        recipe_key(PARTS[::-1], 1, 0),
        recipe_key([PARTS[0], {"language_model.model.norm.weight": (14,)}], 1, 0),
    ]
    rule = r"language_model\..*norm\.weight"
    other = [
        (pattern, scales.spread_recipe(0.0, 0.2) if pattern == rule else recipe) for pattern, recipe in scales.RULES
    ]
    with monkeypatch.context() as patch:
        patch.setattr(scales, "COMPILED_RULES", tuple((re.compile(pattern), recipe) for pattern, recipe in other))
        keys.append(recipe_key(PARTS, 1, 0))
    fill = counter.fill_normal_

    def other_bits(out: torch.Tensor, key: int, **sizes: Any) -> torch.Tensor:
        return fill(out, key ^ 1, **sizes)

    with monkeypatch.context() as patch:
        patch.setattr(scales, "fill_normal_", other_bits)
        keys.append(recipe_key(PARTS, 1, 0))
    assert len(set(keys)) == len(keys)
    assert recipe_key(PARTS, 1, 0) == keys[0]


def test_an_unknown_recipe_is_hashed_by_its_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[list[str]] = []

    def by_bits(parts: Mapping[str, MadeTensors], device: torch.device) -> str:
        hashed.append([f"{part}{made.seed}" for part, made in parts.items()])
        return "ab" * 32

    monkeypatch.setattr(weights, "parts_hash", by_bits)
    assert ForgedWeights("tiny", 0, CPU).hash == known_hash(forged_recipe("tiny", 0))
    assert hashed == []
    assert ForgedWeights("tiny", 7, CPU).hash == "ab" * 32
    assert hashed == [["7", "gemma/7"]]
    assert ForgedWeights("tiny", 7, CPU).of_pipeline("distilled").hash == "ab" * 32
    assert hashed[1:] == [["7", "gemma/7", "upsampler/7"]]


def test_the_weights_without_files_ask_for_the_same_recipe() -> None:
    made = ForgedWeights("tiny", 3, CPU)
    assert recipe_key([made.model.shapes, made.gemma.shapes], SPEC_VERSION, 3) == forged_recipe("tiny", 3)
    assert made.model.shapes == model_inventory(preset_named("tiny"))
