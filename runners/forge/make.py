"""Making checkpoints: as files in the official format, or tensor by tensor straight on a device.

Every value follows from (seed, tensor name) alone, so both ways give the same bits and hence the same hash.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from runners.checksum import WeightEntry, weight_entry, weights_hash
from runners.errors import CheckpointError
from runners.forge.gemma_folder import write_gemma_files
from runners.forge.inventory import (
    DTYPE,
    Inventory,
    gemma_inventory,
    lora_inventory,
    model_inventory,
    upsampler_inventory,
)
from runners.forge.known import recipe_key
from runners.forge.presets import Preset, preset_named
from runners.forge.scales import made_tensor
from runners.partial_folder import partial_folder, take_place

SPEC_VERSION = 2  # counted up whenever the values, names or files of any preset change
CHECKPOINT_NAME = "ltx-2.3.safetensors"
GEMMA_FOLDER = "gemma"
LORA_NAME = "ltx-2.3-distilled-lora.safetensors"
DISTILLED_NAME = "ltx-2.3-distilled.safetensors"
UPSAMPLER_NAME = "ltx-2.3-spatial-upscaler-x2.safetensors"
MADE_BY = "forge"  # key of a made file's metadata
GEMMA_WEIGHTS_NAME = "model.safetensors"
_DISTILLED_SEEDS = 1 << 32  # added to the seed of what distillation trains
_TRANSFORMER, _CONNECTOR = "model.diffusion_model.", "_embeddings_connector."
_SAFETENSORS_DTYPE = {torch.bfloat16: "BF16"}


class MadeTensors:
    """Named tensors that are made when read: what a file's tensors would be, without the file.

    `shapes` and `read` are those of `runners.model_files.TensorSource`.
    """

    def __init__(self, inventory: Inventory, seed: int, *, distilled: bool = False) -> None:
        """`distilled` gives the transformer other values, and leaves everything else alone, as distillation does."""
        self.shapes = inventory
        self.seed = seed
        self.distilled = distilled

    def read(self, names: list[str], device: torch.device) -> dict[str, Tensor]:
        """Tensors by name, made on `device`. Raises: CheckpointError for a name the model does not have."""
        unknown = [name for name in names if name not in self.shapes]
        if unknown:
            raise CheckpointError(f"The made model has no {', '.join(unknown[:10])}.")
        return {name: made_tensor(name, self.shapes[name], DTYPE, self._seed_of(name), device) for name in names}

    def _seed_of(self, name: str) -> int:
        trained = self.distilled and name.startswith(_TRANSFORMER) and _CONNECTOR not in name
        return self.seed + _DISTILLED_SEEDS * trained

    def tensors(self, device: torch.device) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with its name, one at a time."""
        for name in self.shapes:
            yield name, self.read([name], device)[name]

    def checksums(self, device: torch.device) -> Iterator[WeightEntry]:
        """The facts on every tensor that `weights_hash` needs."""
        for name, tensor in self.tensors(device):
            yield weight_entry(name, tensor)


def made_model(preset: Preset, seed: int) -> MadeTensors:
    """The single file's tensors of a preset."""
    return MadeTensors(model_inventory(preset), seed)


def made_distilled(preset: Preset, seed: int) -> MadeTensors:
    """The distilled checkpoint's tensors of a preset: those of the single file, with another transformer."""
    return MadeTensors(model_inventory(preset), seed, distilled=True)


def made_upsampler(preset: Preset, seed: int) -> MadeTensors:
    """The spatial upsampler's tensors of a preset."""
    return MadeTensors(upsampler_inventory(preset.upsampler), seed)


def made_gemma(preset: Preset, seed: int) -> MadeTensors:
    """The Gemma folder's tensors of a preset."""
    return MadeTensors(gemma_inventory(preset.gemma), seed)


def made_lora(preset: Preset, seed: int) -> MadeTensors:
    """The distilled LoRA's tensors of a preset."""
    return MadeTensors(lora_inventory(model_inventory(preset), preset.lora_rank), seed)


def forged_hash(preset: str, seed: int, device: torch.device) -> str:
    """Hash of a made checkpoint with its Gemma: that of `runners.weights.WeightsFolder` on the forged folder."""
    sizes = preset_named(preset)
    return parts_hash({"": made_model(sizes, seed), "gemma/": made_gemma(sizes, seed)}, device)


def parts_hash(parts: Mapping[str, MadeTensors], device: torch.device) -> str:
    """Hash of made tensors, those of each part under names that begin with its key."""
    return weights_hash(
        (f"{part}{name}", dtype, shape, checksum)
        for part, made in parts.items()
        for name, dtype, shape, checksum in made.checksums(device)
    )


def forged_recipe(preset: str, seed: int) -> str:
    """Key of a made checkpoint's recipe in `runners.forge.known`."""
    sizes = preset_named(preset)
    return recipe_key([model_inventory(sizes), gemma_inventory(sizes.gemma)], SPEC_VERSION, seed)


def forge(preset: str, seed: int, out_dir: Path, device: torch.device | None = None, *, replace: bool = False) -> Path:
    """Write a made checkpoint, the distilled one, its LoRA, the spatial upsampler and a `gemma` folder.

    All of it is byte for byte the same on every call.

    The folder is written under a temporary name and renamed when whole. Values are made on `device`; None is the CPU.
    `replace` replaces a made checkpoint that is there already, and nothing else.

    Returns: `out_dir`.
    Raises: ConfigError for an unknown preset; CheckpointError if `out_dir` exists and is not empty, or is a link.
    """
    device = device or torch.device("cpu")
    sizes = preset_named(preset)
    with partial_folder(out_dir) as new:
        free = not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir()))
        if out_dir.is_symlink() or not (free or (replace and is_forged(out_dir))):
            raise CheckpointError(
                f"{out_dir} exists and is not an empty folder; name another one. --replace replaces a made checkpoint."
            )
        gemma_folder = new / GEMMA_FOLDER
        gemma_folder.mkdir(parents=True)
        write_gemma_files(gemma_folder, sizes.gemma)
        metadata = {"format": "pt", MADE_BY: json.dumps({"preset": preset, "seed": seed, "spec": SPEC_VERSION})}
        _write_safetensors(gemma_folder / GEMMA_WEIGHTS_NAME, made_gemma(sizes, seed), metadata, device)
        _write_safetensors(new / LORA_NAME, made_lora(sizes, seed), metadata, device)
        metadata["config"] = json.dumps(sizes.config, sort_keys=True)
        metadata["model_version"] = f"2.3.0-forged-{preset}"
        _write_safetensors(new / CHECKPOINT_NAME, made_model(sizes, seed), metadata, device)
        _write_safetensors(new / DISTILLED_NAME, made_distilled(sizes, seed), metadata, device)
        metadata["config"] = json.dumps(sizes.upsampler, sort_keys=True)
        _write_safetensors(new / UPSAMPLER_NAME, made_upsampler(sizes, seed), metadata, device)
        take_place(new, out_dir)
    return out_dir


def is_forged(folder: Path) -> bool:
    """True if a folder holds nothing but a checkpoint that was made here, which can be made again."""
    path = folder / CHECKPOINT_NAME
    parts = {part.name for part in folder.iterdir()} if folder.is_dir() else set()
    earlier = {CHECKPOINT_NAME, GEMMA_FOLDER}  # what was made before there were pipelines with two stages
    if not earlier <= parts <= earlier | {LORA_NAME, DISTILLED_NAME, UPSAMPLER_NAME} or path.is_symlink():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return MADE_BY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _write_safetensors(path: Path, made: MadeTensors, metadata: dict[str, str], device: torch.device) -> None:
    """Write tensors one by one, so that a checkpoint larger than memory can be made.

    Source: safetensors format: little-endian uint64 length, JSON header padded with spaces to 8 bytes, data.
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, shape in made.shapes.items():
        start, end = end, end + torch.Size(shape).numel() * DTYPE.itemsize
        header[name] = {"dtype": _SAFETENSORS_DTYPE[DTYPE], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for _, tensor in made.tensors(device):
            write_bytes(file, tensor)


def write_bytes(file: BinaryIO, tensor: Tensor) -> None:
    """Append a tensor's bytes, row-major, to a file."""
    file.write(tensor.reshape(-1).view(torch.uint8).cpu().numpy().data)
