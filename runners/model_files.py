"""The files a model is loaded from: its configurations and its tensors by name, in files or made on the spot."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor


class TensorSource(Protocol):
    """Named tensors, from files or made on the spot."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, known without reading one."""

    def read(self, names: list[str], device: torch.device) -> dict[str, Tensor]:
        """Tensors by name, on `device`, in the dtype they are kept in."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelFiles:
    """A checkpoint beside its language model."""

    config: dict[str, Any]  # the checkpoint's configuration
    model: TensorSource  # tensors of the single file
    gemma_config: dict[str, Any]  # Gemma's config.json
    gemma: TensorSource
    gemma_folder: Path  # for the tokenizer
