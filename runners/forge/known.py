"""The hash of a made checkpoint without making it, where its recipe was hashed before.

Every value follows from the recipe: the seed, each tensor's name and shape, the distribution it is drawn from, and the
arithmetic that draws it, which gives the same bits on every device. So the hash of all bits is a function of the
recipe, and `known_hashes.json` holds that function's values for the presets in use: hashing the 35 billion numbers of
`full` takes longer than making them. The key covers the specification's version, every name, shape and distribution,
the bits of tensors that are not drawn, and one drawn tensor of each kind as a probe of the arithmetic; whatever changes
one of them makes the entry unknown, and the bits are hashed again. Tests hold the entries to the bits.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from runners.checksum import checksum64
from runners.forge.inventory import DTYPE, Inventory
from runners.forge.scales import made_tensor, recipe_of

TABLE: Final = Path(__file__).with_name("known_hashes.json")


def recipe_key(parts: list[Inventory], version: int, seed: int, kind: str = "") -> str:
    """SHA-256 of everything that the bits of made tensors follow from, hex.

    Args:
        parts: name -> shape, of the model and of Gemma.
        version: of the forge's specification.
        seed: of the values.
        kind: what else decides the values: nothing, or that the transformer is a distilled one.
    """
    cpu = torch.device("cpu")
    total = hashlib.sha256(f"{version} {seed} {DTYPE}{kind and ' '}{kind}\n".encode())
    smallest: dict[int, tuple[int, str, tuple[int, ...]]] = {}  # by the length of groups: size, name, shape
    for part, tensors in enumerate(parts):
        for name, shape in tensors.items():
            recipe = recipe_of(name, shape)
            if isinstance(recipe, Tensor):
                what = f"{checksum64(recipe.to(DTYPE)):016x}"
            else:
                what = repr(recipe)
                drawn = (math.prod(shape), name, shape)
                smallest[recipe.group] = min(drawn, smallest.get(recipe.group, drawn))
            total.update(f"{part} {name} {shape} {what}\n".encode())
    for group, (_, name, shape) in sorted(smallest.items()):
        probe = checksum64(made_tensor(name, shape, DTYPE, seed, cpu))
        total.update(f"probe {group} {name} {probe:016x}\n".encode())
    return total.hexdigest()


def known_hash(key: str) -> str | None:
    """The hash of the checkpoint with this recipe, or None if nobody has hashed it yet."""
    table: dict[str, dict[str, str]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return next((entry["hash"] for entry in table.values() if entry["recipe"] == key), None)
