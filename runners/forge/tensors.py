"""Tensors that are made when read, in the dtypes that the official files have them in.

Every value follows from (seed, tensor name) alone, so that a file, a subset of it and a tensor on a device have the
same bits.
"""

import re
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from runners.checksum import WeightEntry, weight_entries
from runners.errors import CheckpointError
from runners.forge.inventory import DTYPE, Inventory
from runners.forge.scales import made_tensor

_DISTILLED_SEEDS: Final = 1 << 32  # added to the seed of what distillation trains
_TRANSFORMER, _CONNECTOR = "model.diffusion_model.", "_embeddings_connector."
FP8: Final = torch.float8_e4m3fn
_WEIGHT, _WEIGHT_SCALE, _INPUT_SCALE = ".weight", ".weight_scale", ".input_scale"
_BLOCK: Final = re.compile(r"model\.diffusion_model\.transformer_blocks\.(\d+)\.")
_SCALED_BLOCKS: Final = range(1, 43)  # of the 48 of the released model
_MULTIPLE: Final = 16  # of either side of a weight, or CUDA has no product of e4m3 numbers


class MadeTensors:
    """Named tensors that are made when read: what a file's tensors would be, without the file.

    `shapes` and `read` are those of `runners.model_files.TensorSource`.
    """

    def __init__(self, inventory: Inventory, seed: int, *, distilled: bool = False) -> None:
        """`distilled` gives the transformer other values, and leaves everything else alone, as distillation does."""
        self.shapes = inventory
        self.seed = seed
        self.distilled = distilled

    def dtype(self, name: str) -> torch.dtype:
        """The dtype that a tensor is kept in."""
        return DTYPE

    def read(self, names: list[str], device: torch.device) -> dict[str, Tensor]:
        """Tensors by name, made on `device`. Raises: CheckpointError for a name the model does not have."""
        unknown = [name for name in names if name not in self.shapes]
        if unknown:
            raise CheckpointError(f"The made model has no {', '.join(unknown[:10])}.")
        return {name: self._made(name, device) for name in names}

    def _made(self, name: str, device: torch.device) -> Tensor:
        trained = self.distilled and name.startswith(_TRANSFORMER) and _CONNECTOR not in name
        seed = self.seed + _DISTILLED_SEEDS * trained
        return made_tensor(name, self.shapes[name], self.dtype(name), seed, device)

    def tensors(self, device: torch.device) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with its name, one at a time."""
        for name in self.shapes:
            yield name, self.read([name], device)[name]

    def checksums(self, device: torch.device) -> Iterator[WeightEntry]:
        """The facts on every tensor that `weights_hash` needs."""
        return weight_entries(self.tensors(device))


class ScaledTensors(MadeTensors):
    """The same model quantised beforehand, for `fp8_scaled_mm`: e4m3 weights with an fp32 scale, and one of inputs.

    Source of names, dtypes and layers: ltx_core.quantization.fp8_scaled_mm 1.0.0, which scales every linear layer of
    all blocks but the first and the last five of 48; 1.2.0 takes what has a scale. Layers that are no multiple of 16
    wide, which the released model has none of, are left alone.
    """

    def __init__(self, inventory: Inventory, seed: int, *, distilled: bool = False) -> None:
        """As `MadeTensors`, of the names and shapes before quantisation."""
        shapes: Inventory = {}
        for name, shape in inventory.items():
            shapes[name] = shape
            if _is_scaled(name, shape):
                layer = name.removesuffix(_WEIGHT)
                shapes |= {layer + _WEIGHT_SCALE: (), layer + _INPUT_SCALE: ()}
        super().__init__(shapes, seed, distilled=distilled)

    def dtype(self, name: str) -> torch.dtype:
        """The dtype that a tensor is kept in: scaled weights in e4m3, scales in fp32, the rest as it was."""
        if name.endswith((_WEIGHT_SCALE, _INPUT_SCALE)):
            return torch.float32
        return FP8 if _is_scaled(name, self.shapes[name]) else super().dtype(name)

    def _made(self, name: str, device: torch.device) -> Tensor:
        from runners.ltx23.fp8_scaled_mm import scaled

        if name.endswith(_WEIGHT_SCALE):
            return scaled(self._unscaled(name.removesuffix(_WEIGHT_SCALE) + _WEIGHT, device))[1]
        if _is_scaled(name, self.shapes[name]):
            return scaled(self._unscaled(name, device))[0]
        return super()._made(name, device)

    def _unscaled(self, name: str, device: torch.device) -> Tensor:
        plain = MadeTensors({name: self.shapes[name]}, self.seed, distilled=self.distilled)
        return plain.read([name], device)[name]


def _is_scaled(name: str, shape: tuple[int, ...]) -> bool:
    block = _BLOCK.match(name)
    linear = name.endswith(_WEIGHT) and len(shape) == 2 and all(width % _MULTIPLE == 0 for width in shape)
    return linear and block is not None and int(block[1]) in _SCALED_BLOCKS
