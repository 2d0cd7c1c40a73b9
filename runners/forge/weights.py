"""Made weights without files, for a model too large to write: `--weights forge:full:0` in place of a folder."""

import shutil
import tempfile
import weakref
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from runners.errors import CheckpointError, OutOfMemoryError
from runners.forge.gemma_folder import write_gemma_files
from runners.forge.known import known_hash, recipe_key
from runners.forge.make import GEMMA_WEIGHTS_NAME, SPEC_VERSION, forged_hash, made_gemma, made_model
from runners.forge.presets import preset_named
from runners.weights import Weights, WeightsFolder

SCHEME = "forge:"


class ForgedWeights:
    """The weights of a preset, each tensor made where and when it is wanted; only the tokenizer is on disk."""

    def __init__(self, preset: str, seed: int, device: torch.device) -> None:
        """Prepare the names and the tokenizer. Raises: ConfigError for an unknown preset."""
        sizes = preset_named(preset)
        self.preset, self.seed, self.device = preset, seed, device
        self.config: dict[str, Any] = sizes.config
        self.model_version = f"2.3.0-forged-{preset}"
        self.model = made_model(sizes, seed)
        self.gemma_config: dict[str, Any] = sizes.gemma
        self.gemma = made_gemma(sizes, seed)
        self.gemma_folder = Path(tempfile.mkdtemp(prefix="parity-gemma-"))
        weakref.finalize(self, shutil.rmtree, self.gemma_folder, ignore_errors=True)
        write_gemma_files(self.gemma_folder, sizes.gemma)
        # The official ledger wants to see a file of this name before it asks its loader, which does not read it.
        (self.gemma_folder / GEMMA_WEIGHTS_NAME).touch()

    @cached_property
    def hash(self) -> str:
        """That of the same weights in files: looked up where the recipe is known, else taken of every bit.

        Raises: OutOfMemoryError.
        """
        known = known_hash(recipe_key([self.model.shapes, self.gemma.shapes], SPEC_VERSION, self.seed))
        try:
            return known or forged_hash(self.preset, self.seed, self.device)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"{self.device} ran out of memory while the weights were hashed ({error}). Free it, or take another."
            ) from error


def weights_named(name: str, device: torch.device) -> Weights:
    """What `--weights` names: a folder, or `forge:PRESET:SEED`.

    Raises: CheckpointError for a folder that is not whole, or a seed that is no number.
    """
    if not name.startswith(SCHEME):
        return WeightsFolder(Path(name))
    preset, _, seed = name.removeprefix(SCHEME).partition(":")
    if not seed.isdecimal():
        raise CheckpointError(f"--weights {name!r}: wanted a folder, or forge:PRESET:SEED such as forge:full:0.")
    return ForgedWeights(preset, int(seed), device)
