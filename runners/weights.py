"""Weights on disk: the official single file beside a Gemma folder, read as untrusted input.

A weights folder holds one `ltx-2.3*.safetensors` file, whose metadata carry `config` (JSON) and `model_version`, and
one folder with Gemma 3 in Hugging Face form. Beside it may lie LoRAs (`*-lora*.safetensors`), the distilled checkpoint
(`*-distilled*.safetensors`) and the spatial upsampler (`*-spatial-upscaler*.safetensors`), named as the official files
are. Nothing is unpickled; headers are checked before a tensor is read.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from runners.checksum import WeightEntry, weight_entries, weights_hash
from runners.counts import require_counts
from runners.errors import CheckpointError
from runners.files import opened, opened_tensors
from runners.load import parse, read_text
from runners.model_files import ModelFiles, TensorSource, UpsamplerFiles
from runners.stages import PIPELINES, Pipeline, pipeline_named

MODEL_VERSION_PREFIX = "2.3"
LORA = "-lora"  # in the name of a LoRA, as the official files have it
DISTILLED = "-distilled"  # in the name of the distilled checkpoint, and of its LoRA
UPSCALER = "-upscaler"
SPATIAL_UPSCALER = "-spatial-upscaler"
_AGAIN = "copy or forge the weights again"
GEMMA_FILES = ("config.json", "tokenizer.model", "preprocessor_config.json")


class TensorFiles:
    """Named tensors of one or more safetensors files. `shapes` is known without reading any tensor."""

    def __init__(self, paths: list[Path]) -> None:
        """Read the headers. Raises: CheckpointError for a file that is missing, truncated or not safetensors."""
        self.paths = paths
        self.metadata: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._path_of: dict[str, Path] = {}
        for path in paths:
            with opened_tensors(path, CheckpointError, _AGAIN) as file:
                self.metadata.update(file.metadata() or {})
                for name in file.keys():  # noqa: SIM118 - the file is no dict
                    if name in self._path_of:
                        raise CheckpointError(f"Tensor {name!r} is in both {self._path_of[name]} and {path}.")
                    self._path_of[name] = path
                    self.shapes[name] = tuple(file.get_slice(name).get_shape())

    def read(self, names: list[str], device: torch.device) -> dict[str, Tensor]:
        """Tensors by name, on `device`, as stored. Raises: CheckpointError if the file has changed meanwhile."""
        with ExitStack() as stack:
            files: dict[Path, Any] = {}
            tensors: dict[str, Tensor] = {}
            try:
                for name in names:
                    path = self._path_of[name]
                    if path not in files:
                        opening = opened_tensors(path, CheckpointError, _AGAIN, device=str(device))
                        files[path] = stack.enter_context(opening)
                    tensors[name] = files[path].get_tensor(name)
            except (SafetensorError, OSError, RuntimeError) as error:
                raise CheckpointError(f"Reading tensors failed ({error}); copy or forge the weights again.") from error
        return tensors

    def checksums(self) -> Iterator[WeightEntry]:
        """(name, dtype, shape, checksum) of every tensor, of which a few are held at a time."""
        with ExitStack() as stack:  # opened once: opening parses the header of all tensors
            files = {path: stack.enter_context(opened_tensors(path, CheckpointError, _AGAIN)) for path in self.paths}
            yield from weight_entries((name, files[self._path_of[name]].get_tensor(name)) for name in self.shapes)


class Weights(ModelFiles):
    """A model's files with what identifies them: a folder, or made on the spot (`runners.forge.weights`)."""

    model_version: str  # what the checkpoint says it is; starts with "2.3"

    @cached_property
    def hash(self) -> str:
        """Hash of every tensor of the checkpoint and of Gemma, hex."""
        raise NotImplementedError

    def lora(self, name: str) -> TensorSource:
        """The tensors of a LoRA that lies beside the checkpoint. Raises: CheckpointError if there is none so named."""
        raise NotImplementedError

    @property
    def distilled_lora(self) -> str:
        """The name, for `lora`, of the distilled LoRA. Raises: CheckpointError if there is none or more than one."""
        raise NotImplementedError

    def of_pipeline(self, name: str) -> "Weights":
        """The weights that an official pipeline runs with: those it takes of these, and nothing else, hashed as such.

        Raises: CheckpointError if a file of it is missing.
        """
        raise NotImplementedError


def kind_of_files(pipeline: str) -> Pipeline:
    """A pipeline reduced to what decides the files it takes; LoRAs are asked for by name. Raises: CaseError."""
    named = pipeline_named(pipeline)
    return Pipeline(two_stages=named.two_stages, distilled=named.distilled)


def num_blocks(weights: Weights) -> int:
    """Number of blocks of the transformer. Raises: CheckpointError if the configuration gives none."""
    count = weights.config["transformer"].get("num_layers", 48)
    if type(count) is not int or count < 1:
        raise CheckpointError(f"The checkpoint's transformer has num_layers = {str(count)[:40]!r}; wanted 1 or more.")
    return count


class WeightsFolder(Weights):
    """A weights folder as users pass it with `--weights`."""

    model: TensorFiles
    gemma: TensorFiles

    def __init__(self, folder: Path, pipeline: Pipeline = PIPELINES["one_stage"]) -> None:
        """Find and check the parts that a pipeline takes.

        Raises: CheckpointError saying what is missing or of another version.
        """
        if not folder.is_dir():
            raise CheckpointError(
                f"No weights folder at {folder}; make one with `parity forge --preset tiny --out DIR`."
            )
        self.folder = folder
        self.checkpoint_path = self._checkpoint(distilled=pipeline.distilled)
        gemma_folders = sorted(path.parent for path in folder.glob("*/tokenizer.model"))
        gemma_folder = self._only(gemma_folders, "Gemma folder (one with tokenizer.model)")
        model = TensorFiles([self.checkpoint_path])
        config = self._config(model.metadata)
        self.model_version = model.metadata["model_version"]
        gemma_config = self._gemma_config(gemma_folder)
        shards = sorted(gemma_folder.glob("model*.safetensors"))
        if not shards:
            raise CheckpointError(f"{gemma_folder} has no model*.safetensors; the Gemma folder is incomplete.")
        super().__init__(
            config=config,
            model=model,
            gemma_config=gemma_config,
            gemma=TensorFiles(shards),
            gemma_folder=gemma_folder,
            upsampler=self._upsampler() if pipeline.two_stages else None,
        )
        self._of_kind: dict[Pipeline, WeightsFolder] = {pipeline: self}

    def of_pipeline(self, name: str) -> "WeightsFolder":
        """The same folder for another pipeline. Raises: CheckpointError if a file of it is missing."""
        kind = kind_of_files(name)
        if kind not in self._of_kind:
            self._of_kind[kind] = WeightsFolder(self.folder, kind)
        return self._of_kind[kind]

    def _checkpoint(self, *, distilled: bool) -> Path:
        found = sorted(self.folder.glob("ltx-2.3*.safetensors"))
        models = [path for path in found if LORA not in path.name and UPSCALER not in path.name]
        kind = [path for path in models if (DISTILLED in path.name) == distilled]
        return self._only(kind, f"ltx-2.3*.safetensors file{' of the distilled model' if distilled else ''}")

    def _upsampler(self) -> UpsamplerFiles:
        found = sorted(self.folder.glob(f"ltx-2.3*{SPATIAL_UPSCALER}*.safetensors"))
        path = self._only(
            found, f"ltx-2.3*{SPATIAL_UPSCALER}*.safetensors file, which a pipeline with two stages needs"
        )
        tensors = TensorFiles([path])
        if "config" not in tensors.metadata:
            raise CheckpointError(f"{path} has no 'config' in its metadata; it is not an official file.")
        where = f"'config' in the metadata of {path}"
        config = self._json_object(tensors.metadata["config"], where)
        require_counts(config, where)
        return UpsamplerFiles(config=config, tensors=tensors, path=path)

    def lora_path(self, name: str) -> Path:
        """The file of a LoRA in this folder. Raises: CheckpointError if there is none of that name."""
        path = self.folder / name
        if Path(name).name != name or not path.is_file():
            raise CheckpointError(
                f"LoRA {name[:200]!r} is neither beside the case file nor a file in {self.folder}; put it there, or "
                "name it with --lora FILE:STRENGTH."
            )
        return path

    def lora(self, name: str) -> TensorFiles:
        """The tensors of a LoRA in this folder. Raises: CheckpointError if there is none of that name."""
        return TensorFiles([self.lora_path(name)])

    @property
    def distilled_lora(self) -> str:
        """The name, for `lora`, of the distilled LoRA. Raises: CheckpointError if there is none or more than one."""
        found = sorted(self.folder.glob(f"ltx-2.3*{DISTILLED}{LORA}*.safetensors"))
        return self._only(found, f"ltx-2.3*{DISTILLED}{LORA}*.safetensors file, which this pipeline needs").name

    def _only(self, found: list[Path], what: str) -> Path:
        if len(found) != 1:
            names = ", ".join(path.name for path in found[:10]) or "none"
            raise CheckpointError(f"{self.folder} must hold exactly one {what}; found {names}.")
        return found[0]

    def _config(self, metadata: Mapping[str, str]) -> dict[str, Any]:
        version = metadata.get("model_version")
        if version is None or not version.startswith(MODEL_VERSION_PREFIX):
            raise CheckpointError(
                f"{self.checkpoint_path} says model_version {version!r}; LTX-{MODEL_VERSION_PREFIX} is wanted "
                f"(a version that starts with {MODEL_VERSION_PREFIX!r}). Take the 2.3 checkpoint."
            )
        if "config" not in metadata:
            raise CheckpointError(
                f"{self.checkpoint_path} has no 'config' in its metadata; it is not an official file."
            )
        where = f"'config' in the metadata of {self.checkpoint_path}"
        config = self._json_object(metadata["config"], where)
        if not isinstance(config.get("transformer"), dict):
            raise CheckpointError(f"{where} has no section 'transformer'; take an official checkpoint.")
        require_counts(config, where)
        return config

    def _gemma_config(self, folder: Path) -> dict[str, Any]:
        missing = [name for name in GEMMA_FILES if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(f"The Gemma folder {folder} lacks {', '.join(missing)}; download it whole.")
        for path in folder.iterdir():  # transformers reads what it finds there, by name
            if not path.is_dir() and path.suffix != ".safetensors":
                with opened(path, CheckpointError, "download Gemma whole"):
                    pass
        path = folder / "config.json"
        config = self._json_object(read_text(path, CheckpointError, "download Gemma whole"), str(path))
        if not isinstance(config.get("text_config"), dict):
            raise CheckpointError(f"{path} has no 'text_config'; a Gemma 3 folder with text and vision is wanted.")
        require_counts(config, str(path))
        return config

    @staticmethod
    def _json_object(text: str, what: str) -> dict[str, Any]:
        value = parse(text, what, CheckpointError, "take an official checkpoint")
        if not isinstance(value, dict):
            raise CheckpointError(f"{what} is not a JSON object.")
        return value

    @cached_property
    def hash(self) -> str:
        """Hash of every tensor of the checkpoint, of Gemma and of the upsampler where it is used, hex."""
        entries = [*self.model.checksums()]
        parts = {"gemma": self.gemma}
        if self.upsampler is not None:
            assert isinstance(self.upsampler.tensors, TensorFiles)
            parts["upsampler"] = self.upsampler.tensors
        for part, files in parts.items():
            entries += [(f"{part}/{name}", dtype, shape, value) for name, dtype, shape, value in files.checksums()]
        return weights_hash(entries)
