"""Weights on disk are a stranger's data: everything wrong with them gets one clear sentence before a tensor is read."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from runners.errors import CheckpointError
from runners.model_files import ModelFiles
from runners.weights import TensorFiles, WeightsFolder, num_blocks

CPU = torch.device("cpu")
NAME = "ltx-2.3.safetensors"


@pytest.fixture
def copied(micro_weights: WeightsFolder, tmp_path: Path) -> Path:
    """A weights folder to spoil: its large files are links, so that a copy costs nothing."""
    folder = tmp_path / "weights"
    shutil.copytree(micro_weights.folder, folder, copy_function=os.link)
    return folder


def rewrite(folder: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Another checkpoint in place of the one there."""
    (folder / NAME).unlink()
    save_file(tensors, folder / NAME, metadata=metadata)


def with_metadata(**metadata: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, {"x": torch.ones(2)}, metadata)


def replace_with(data: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / NAME).unlink()
        (folder / NAME).write_bytes(data)

    return spoil


def cut_in_half(folder: Path) -> None:
    whole = (folder / NAME).read_bytes()
    replace_with(whole[: len(whole) // 2])(folder)


def flip_header(folder: Path) -> None:
    whole = bytearray((folder / NAME).read_bytes())
    whole[9] ^= 0xFF
    replace_with(bytes(whole))(folder)


def pipe_in(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return spoil


def directory_instead(folder: Path) -> None:
    (folder / NAME).unlink()
    (folder / NAME).mkdir()


def without(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


def with_gemma_config(text: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "gemma/config.json").unlink()
        (folder / "gemma/config.json").write_text(text)

    return spoil


def second_checkpoint(folder: Path) -> None:
    os.link(folder / NAME, folder / "ltx-2.3-again.safetensors")


def second_gemma(folder: Path) -> None:
    shutil.copytree(folder / "gemma", folder / "gemma2", copy_function=os.link)


def same_tensor_twice(folder: Path) -> None:
    os.link(folder / "gemma/model.safetensors", folder / "gemma/model-2.safetensors")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (without(NAME), r"must hold exactly one ltx-2.3\*.safetensors file; found none"),
        (second_checkpoint, r"exactly one ltx-2.3\*.safetensors file; found ltx-2.3-again.safetensors, ltx-2.3.safe"),
        (cut_in_half, r"is not a whole safetensors file"),
        (flip_header, r"is not a whole safetensors file"),
        (replace_with(b""), r"is not a whole safetensors file"),
        (replace_with(b"\xff" * 64), r"is not a whole safetensors file"),
        (directory_instead, r"is not a regular file"),
        (with_metadata(config="{}"), r"says model_version None; LTX-2.3 is wanted"),
        (with_metadata(config="{}", model_version="2.0"), r"says model_version '2.0'"),
        (with_metadata(model_version="2.3.0"), r"has no 'config' in its metadata"),
        (with_metadata(model_version="2.3.0", config="{"), r"'config' in .* is not valid JSON"),
        (with_metadata(model_version="2.3.0", config="[1]"), r"'config' in .* is not a JSON object"),
        (with_metadata(model_version="2.3.0", config='{"vae": {}}'), r"has no section 'transformer'"),
        (with_metadata(model_version="2.3.0", config='{"transformer": [1]}'), r"has no section 'transformer'"),
        (with_metadata(model_version="2.3.0", config="9" * 5000), r"is not valid JSON"),
        (with_metadata(model_version="2.3.0", config="[" * 100_000), r"is not valid JSON"),
        (without("gemma/tokenizer.model"), r"exactly one Gemma folder \(one with tokenizer.model\); found none"),
        (second_gemma, r"exactly one Gemma folder .*; found gemma, gemma2"),
        (
            without("gemma/preprocessor_config.json"),
            r"lacks preprocessor_config.json; download it whole",
        ),
        (without("gemma/config.json"), r"lacks config.json"),
        (without("gemma/model.safetensors"), r"has no model\*.safetensors; the Gemma folder is incomplete"),
        (same_tensor_twice, r"is in both .*model-2.safetensors and .*model.safetensors"),
        (with_gemma_config("{"), r"config.json is not valid JSON"),
        (with_gemma_config('{"model_type": "gemma3"}'), r"has no 'text_config'"),
        (with_gemma_config('{"text_config": 5}'), r"has no 'text_config'"),
        (
            with_gemma_config('{"text_config": {"num_hidden_layers": 1000000000}}'),
            r"config.json: text_config.num_hidden_layers is 1000000000; a model has at most 100",
        ),
        (
            with_metadata(model_version="2.3.0", config='{"transformer": {"num_layers": 1000000000}}'),
            r"transformer.num_layers is 1000000000; a model has at most 100",
        ),
        (pipe_in("gemma/tokenizer.json"), r"tokenizer.json is not a regular file; download Gemma whole"),
        (pipe_in("gemma/model.safetensors"), r"model.safetensors is not a regular file"),
        (pipe_in("ltx-2.3.safetensors"), r"ltx-2.3.safetensors is not a regular file"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(spoil: Callable[[Path], None], sentence: str, copied: Path) -> None:
    spoil(copied)
    with pytest.raises(CheckpointError, match=sentence):
        WeightsFolder(copied)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"No weights folder at .*; make one with `parity forge"):
        WeightsFolder(tmp_path / "nothing")


def test_shapes_and_tensors_are_those_of_the_file(micro_weights: WeightsFolder) -> None:
    name = "model.diffusion_model.patchify_proj.weight"
    with safe_open(micro_weights.checkpoint_path, framework="pt") as file:
        wanted = file.get_tensor(name)
        assert micro_weights.model.shapes.keys() == set(file.keys())
    assert micro_weights.model.shapes[name] == tuple(wanted.shape) == (96, 128)
    assert torch.equal(micro_weights.model.read([name], CPU)[name], wanted)
    assert micro_weights.config["transformer"]["num_layers"] == 2
    assert micro_weights.model.metadata["model_version"].startswith("2.3")


def test_several_files_are_read_as_one(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "1.safetensors")
    save_file({"b": torch.zeros(3, 4, dtype=torch.bfloat16)}, tmp_path / "2.safetensors")
    files = TensorFiles([tmp_path / "1.safetensors", tmp_path / "2.safetensors"])
    assert files.shapes == {"a": (2,), "b": (3, 4)}
    assert files.read(["b", "a"], CPU)["b"].dtype == torch.bfloat16
    (tmp_path / "2.safetensors").write_bytes(b"gone")
    with pytest.raises(CheckpointError, match="is not a whole safetensors file"):
        files.read(["b"], CPU)


def test_the_hash_sees_one_changed_bit_in_either_part_and_not_the_metadata(copied: Path) -> None:
    checkpoint, gemma = copied / NAME, copied / "gemma/model.safetensors"
    gemma.unlink()
    metadata = {"model_version": "2.3.1", "config": json.dumps({"transformer": {}, "a": 1})}
    x, y = torch.randn(5, 3), torch.randn(7).bfloat16()

    def hash_of(x: torch.Tensor, y: torch.Tensor, metadata: dict[str, str]) -> str:
        rewrite(copied, {"x": x}, metadata)
        save_file({"y": y}, gemma)
        return WeightsFolder(copied).hash

    first = hash_of(x, y, metadata)
    assert len(first) == 64
    assert hash_of(x, y, metadata | {"note": "copied"}) == first
    changed_x, changed_y = x.clone(), y.clone()
    changed_x.view(torch.int32)[4, 2] ^= 1
    changed_y.view(torch.int16)[6] ^= 1
    assert len({first, hash_of(changed_x, y, metadata), hash_of(x, changed_y, metadata)}) == 3
    save_file({"x": y}, gemma)
    rewrite(copied, {"y": x}, metadata)
    assert WeightsFolder(copied).hash != first
    assert checkpoint.is_file()


@pytest.mark.parametrize("layers", ["48", 0, -1, True, None, 1.5, [2]])
def test_a_number_of_layers_that_is_none_is_refused(micro_weights: WeightsFolder, layers: object) -> None:
    config = {"transformer": {"num_layers": layers}}
    made = ModelFiles(
        config=config,
        model=micro_weights.model,
        gemma_config={},
        gemma=micro_weights.gemma,
        gemma_folder=micro_weights.gemma_folder,
    )
    with pytest.raises(CheckpointError, match="num_layers = "):
        num_blocks(cast(WeightsFolder, made))
