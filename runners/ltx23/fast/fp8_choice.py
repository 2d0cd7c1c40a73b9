"""The products that the fp8 tiers compute in fp8: chosen by measuring, kept in `fp8_layers.toml` with their reasons.

For each product of each block, `bench/fp8_layers.py` measures the error that fp8 alone adds to the streams after the
block, on the inputs of a real step and against the block in fp32, and the time that it saves. The products that save
most time for the squared error are taken until a step's error reaches a multiple of the official code's own.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

from runners.errors import ConfigError
from runners.files import read_bytes

FILE: Final = Path(__file__).with_name("fp8_layers.toml")


@dataclass(frozen=True)
class Fp8Choice:
    """Names of products, each with the blocks where it is computed in fp8."""

    blocks: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def of_block(self, block: int) -> frozenset[str]:
        """The names of a block's products in fp8."""
        return frozenset(name for name, blocks in self.blocks.items() if block in blocks)


NOTHING_IN_FP8: Final = Fp8Choice()


@lru_cache
def choice_of_tier(tier: str) -> Fp8Choice:
    """The choice of a tier; nothing for those that have none. Raises: ConfigError if the file is not there."""
    text = read_bytes(FILE, ConfigError, "restore it as it was committed").decode()
    tiers = tomllib.loads(text)["tiers"]
    products = tiers.get(tier, {}).get("products", {})
    return Fp8Choice({name: frozenset(blocks) for name, blocks in products.items()})
