"""Making checkpoints as files in the official format, and the hash that they have, without the files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final, Literal, cast, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from runners.checksum import weights_hash
from runners.errors import CheckpointError, ConfigError
from runners.forge.gemma_folder import write_gemma_files
from runners.forge.inventory import (
    gemma_inventory,
    lora_inventory,
    model_inventory,
    upsampler_inventory,
)
from runners.forge.known import recipe_key
from runners.forge.presets import Preset, preset_named
from runners.forge.tensors import FP8, MadeTensors, ScaledTensors
from runners.partial_folder import partial_folder, take_place

SPEC_VERSION = 2  # counted up whenever the values, names or files of any preset change
CHECKPOINT_NAME = "ltx-2.3.safetensors"
GEMMA_FOLDER = "gemma"
LORA_NAME = "ltx-2.3-distilled-lora.safetensors"
DISTILLED_NAME = "ltx-2.3-distilled.safetensors"
UPSAMPLER_NAME = "ltx-2.3-spatial-upscaler-x2.safetensors"
MADE_BY = "forge"  # key of a made file's metadata
GEMMA_WEIGHTS_NAME = "model.safetensors"
_SAFETENSORS_DTYPE = {torch.bfloat16: "BF16", torch.float32: "F32", FP8: "F8_E4M3"}
Prequantized = Literal["fp8_scaled_mm"]  # what of `runners.case.Quantization` wants a checkpoint of its own
_KIND: Final[dict[Prequantized | None, type[MadeTensors]]] = {None: MadeTensors, "fp8_scaled_mm": ScaledTensors}


def made_model(preset: Preset, seed: int, quantization: Prequantized | None = None) -> MadeTensors:
    """The single file's tensors of a preset."""
    return _KIND[quantization](model_inventory(preset), seed)


def made_distilled(preset: Preset, seed: int, quantization: Prequantized | None = None) -> MadeTensors:
    """The distilled checkpoint's tensors of a preset: those of the single file, with another transformer."""
    return _KIND[quantization](model_inventory(preset), seed, distilled=True)


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


def forge(
    preset: str,
    seed: int,
    out_dir: Path,
    device: torch.device | None = None,
    *,
    replace: bool = False,
    quantization: Prequantized | None = None,
) -> Path:
    """Write a made checkpoint, the distilled one, its LoRA, the spatial upsampler and a `gemma` folder.

    All of it is byte for byte the same on every call.

    The folder is written under a temporary name and renamed when whole. Values are made on `device`; None is the CPU.
    `replace` replaces a made checkpoint that is there already, and nothing else. With `quantization` both checkpoints
    are quantised beforehand.

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
        made_by = {"preset": preset, "seed": seed, "spec": SPEC_VERSION}
        if quantization is not None:
            made_by["quantization"] = quantization
        metadata = {"format": "pt", MADE_BY: json.dumps(made_by)}
        _write_safetensors(gemma_folder / GEMMA_WEIGHTS_NAME, made_gemma(sizes, seed), metadata, device)
        _write_safetensors(new / LORA_NAME, made_lora(sizes, seed), metadata, device)
        metadata["config"] = json.dumps(sizes.config, sort_keys=True)
        metadata["model_version"] = f"2.3.0-forged-{preset}"
        _write_safetensors(new / CHECKPOINT_NAME, made_model(sizes, seed, quantization), metadata, device)
        _write_safetensors(new / DISTILLED_NAME, made_distilled(sizes, seed, quantization), metadata, device)
        metadata["config"] = json.dumps(sizes.upsampler, sort_keys=True)
        _write_safetensors(new / UPSAMPLER_NAME, made_upsampler(sizes, seed), metadata, device)
        take_place(new, out_dir)
    return out_dir


def prequantized(name: str | None) -> Prequantized | None:
    """A quantisation that a checkpoint can be made for. Raises: ConfigError for another name."""
    if name is not None and name not in get_args(Prequantized):
        raise ConfigError(
            f"--quantization {name[:40]!r}: wanted {', '.join(get_args(Prequantized))}. For fp8_cast take the plain "
            'checkpoint, and quantization = "fp8_cast" in the case.'
        )
    return cast(Prequantized | None, name)


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
        dtype = made.dtype(name)
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": _SAFETENSORS_DTYPE[dtype], "shape": list(shape), "data_offsets": [start, end]}
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
