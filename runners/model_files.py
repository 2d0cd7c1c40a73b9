"""The files a model is loaded from: its configurations and its tensors by name, in files or made on the spot.

A language model's folder may name code of its own: its configurations say so under `auto_map`, and transformers then
asks on standard input and imports it. No such folder is a model here, whichever runner would load it.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from runners.errors import CheckpointError
from runners.load import keys_in

CODE: Final = "auto_map"  # the key under which a configuration names code to load it with
_CODE_FILE: Final = re.compile(r"\.(py[a-z]?|so|so\.[\d.]+|dll|dylib)$")  # that Python may import, or a process load
# Read by the tokenizers library and as lists of shards, which know no such key; a token may be spelt like it.
_NO_CONFIGURATION: Final = ("tokenizer.json", "vocab.json", "added_tokens.json")
_INDEX: Final = ".index.json"


class TensorSource(Protocol):
    """Named tensors, from files or made on the spot."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, known without reading one."""

    def read(self, names: list[str], device: torch.device) -> dict[str, Tensor]:
        """Tensors by name, on `device`, in the dtype they are kept in."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LoraSource:
    """A file of low-rank factors, and how strongly they are fused into the transformer."""

    name: str  # for messages and records
    source: TensorSource
    strength: float


@dataclass(frozen=True, kw_only=True, eq=False)
class UpsamplerFiles:
    """The file of the spatial upsampler that stands between two stages."""

    config: dict[str, Any]
    tensors: TensorSource
    path: Path | None = None  # None: made on the spot


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelFiles:
    """A checkpoint beside its language model."""

    config: dict[str, Any]  # the checkpoint's configuration
    model: TensorSource  # tensors of the single file
    gemma_config: dict[str, Any]  # Gemma's config.json
    gemma: TensorSource
    gemma_folder: Path  # for the tokenizer
    upsampler: UpsamplerFiles | None = None  # of pipelines with two stages

    def __post_init__(self) -> None:
        """Refuse a folder with code in it. Raises: CheckpointError."""
        require_no_code(self.gemma_folder)


def require_no_code(folder: Path) -> None:
    """Refuse a Gemma folder that holds Python files, libraries, or a configuration, of whatever part, that names code.

    Raises: CheckpointError naming the file.
    """
    for path in sorted(folder.rglob("*")):
        name = path.name.lower()
        if _CODE_FILE.search(name):
            raise CheckpointError(f"{path} is code, and a Gemma folder is data: nothing in it is run. Remove the file.")
        if not name.endswith(".json") or name in _NO_CONFIGURATION or name.endswith(_INDEX):
            continue
        if CODE in map(str.lower, keys_in(path, CheckpointError, "download Gemma whole")):
            raise CheckpointError(
                f"{path} names code to load the model with ({CODE!r}), and a Gemma folder is data: nothing in it is "
                "run. Take the official Gemma 3."
            )
