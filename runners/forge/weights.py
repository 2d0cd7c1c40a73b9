"""Made weights without files, for a model too large to write: `--weights forge:full:0` in place of a folder."""

import shutil
import tempfile
import weakref
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from runners.errors import CheckpointError, OutOfMemoryError
from runners.forge.gemma_folder import write_gemma_files
from runners.forge.inventory import Inventory, gemma_inventory, lora_inventory, model_inventory
from runners.forge.known import known_hash, recipe_key
from runners.forge.make import (
    GEMMA_WEIGHTS_NAME,
    LORA_NAME,
    SPEC_VERSION,
    made_upsampler,
    parts_hash,
)
from runners.forge.presets import Preset, preset_named
from runners.forge.tensors import MadeTensors
from runners.model_files import UpsamplerFiles
from runners.stages import PIPELINES, Pipeline
from runners.weights import Weights, WeightsFolder, kind_of_files

SCHEME = "forge:"


@dataclass(frozen=True, kw_only=True)
class TensorMaker:
    """The start of making tensors, prepared where the native modules, transformers and sentencepiece are."""

    model: Inventory
    gemma: Inventory
    gemma_folder: Path  # tokenizer and configuration; whoever prepared it keeps it


class ForgedWeights(Weights):
    """The weights of a preset, each tensor made where and when it is wanted; only the tokenizer is on disk."""

    def __init__(
        self,
        preset: str,
        seed: int,
        device: torch.device,
        prepared: TensorMaker | None = None,
        pipeline: Pipeline = PIPELINES["one_stage"],
    ) -> None:
        """Prepare the names and the tokenizer, unless another process has.

        Args:
            preset: size of the model.
            seed: of the values.
            device: where they are hashed.
            prepared: of the same preset by another process, or for another pipeline.
            pipeline: whose files these are.
        Raises: ConfigError for an unknown preset.
        """
        sizes = preset_named(preset)
        self.preset, self.seed, self.device = preset, seed, device
        self.model_version = f"2.3.0-forged-{preset}"
        self.prepared = prepared or self._prepare(sizes)
        super().__init__(
            config=sizes.config,
            model=MadeTensors(self.prepared.model, seed, distilled=pipeline.distilled),
            gemma_config=sizes.gemma,
            gemma=MadeTensors(self.prepared.gemma, seed),
            gemma_folder=self.prepared.gemma_folder,
            upsampler=self._upsampler(sizes) if pipeline.two_stages else None,
        )
        self._distilled = pipeline.distilled
        self._of_kind: dict[Pipeline, ForgedWeights] = {pipeline: self}

    def of_pipeline(self, name: str) -> "ForgedWeights":
        """The weights that a pipeline runs with."""
        kind = kind_of_files(name)
        if kind not in self._of_kind:
            self._of_kind[kind] = ForgedWeights(self.preset, self.seed, self.device, self.prepared, kind)
        return self._of_kind[kind]

    def _upsampler(self, sizes: Preset) -> UpsamplerFiles:
        return UpsamplerFiles(config=sizes.upsampler, tensors=made_upsampler(sizes, self.seed))

    def _prepare(self, sizes: Preset) -> TensorMaker:
        """Take the inventories, and write Gemma's small files into a folder that goes when this object does."""
        folder = Path(tempfile.mkdtemp(prefix="parity-gemma-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        write_gemma_files(folder, sizes.gemma)
        # The official code wants to see a file of this name before it asks its loader, which does not read it.
        (folder / GEMMA_WEIGHTS_NAME).touch()
        return TensorMaker(model=model_inventory(sizes), gemma=gemma_inventory(sizes.gemma), gemma_folder=folder)

    @property
    def distilled_lora(self) -> str:
        """The name of the distilled LoRA."""
        return LORA_NAME

    def lora(self, name: str) -> MadeTensors:
        """The tensors of the distilled LoRA, the one there is. Raises: CheckpointError for another name."""
        if name != LORA_NAME:
            raise CheckpointError(f"Made weights have one LoRA, {LORA_NAME}; got {name[:200]!r}.")
        rank = preset_named(self.preset).lora_rank
        return MadeTensors(lora_inventory(self.prepared.model, rank), self.seed)

    @cached_property
    def recipe(self) -> str:
        """Key of everything that the bits follow from, with a few of the bits that this interpreter makes, hex."""
        parts = [made.shapes for made in self._parts().values()]
        return recipe_key(parts, SPEC_VERSION, self.seed, "distilled" if self._distilled else "")

    @cached_property
    def hash(self) -> str:
        """That of the same weights in files: looked up where the recipe is known, else taken of every bit.

        Raises: OutOfMemoryError.
        """
        try:
            return known_hash(self.recipe) or parts_hash(self._parts(), self.device)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"{self.device} ran out of memory while the weights were hashed ({error}). Free it, or take another."
            ) from error

    def _parts(self) -> dict[str, MadeTensors]:
        parts = {"": self.model, "gemma/": self.gemma}
        if self.upsampler is not None:
            parts["upsampler/"] = self.upsampler.tensors
        return {name: made for name, made in parts.items() if isinstance(made, MadeTensors)}


def weights_named(name: str, device: torch.device) -> WeightsFolder | ForgedWeights:
    """The weights that `--weights` names: a folder, or `forge:PRESET:SEED`.

    Raises: CheckpointError for a folder that is not whole, or a seed that is no number.
    """
    if not name.startswith(SCHEME):
        return WeightsFolder(Path(name))
    preset, _, seed = name.removeprefix(SCHEME).partition(":")
    if not seed.isdecimal():
        raise CheckpointError(f"--weights {name!r}: wanted a folder, or forge:PRESET:SEED such as forge:full:0.")
    return ForgedWeights(preset, int(seed), device)
