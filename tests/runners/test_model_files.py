"""A folder that names code to load it with is no model, for any runner, and nothing of it runs."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runners.catalogue import open_runner
from runners.errors import CheckpointError
from runners.model_files import require_no_code
from runners.names import NAMES
from runners.protocol import RunOptions
from runners.weights import WeightsFolder

EVIL = {"AutoProcessor": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}


@pytest.fixture
def copied(micro_weights: WeightsFolder, tmp_path: Path) -> Path:
    """A weights folder to spoil: its large files are links, so that a copy costs nothing."""
    shutil.copytree(micro_weights.folder, tmp_path / "weights", copy_function=os.link)
    return tmp_path / "weights"


def evil_under(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update({key: EVIL})


def with_key(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """A change of one JSON file, which is made if it is not there."""

    def spoil(gemma: Path) -> None:
        path = gemma / name
        document = json.loads(path.read_text()) if path.exists() else {}
        change(document)
        path.unlink(missing_ok=True)  # it may be a link to the good one
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))

    return spoil


def with_file(name: str, text: str) -> Callable[[Path], None]:
    def spoil(gemma: Path) -> None:
        (gemma / name).parent.mkdir(exist_ok=True)
        (gemma / name).unlink(missing_ok=True)
        (gemma / name).write_text(text)

    return spoil


LIKE_THE_KEY = ("AUTO_MAP", "Auto_Map")
SPOILT = [
    *(
        with_key(name, lambda document: document.update(auto_map=EVIL))
        for name in ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
    ),
    with_key("video_preprocessor_config.json", lambda document: document.update(auto_map=EVIL)),
    with_key("sub/config.json", lambda document: document.update(auto_map=EVIL)),
    with_key("config.json", lambda document: document["text_config"].update(auto_map=EVIL)),
    with_file("config.json", '{"text_config": {}, "auto\\u005fmap": {"AutoConfig": "evil.Evil"}}'),
    with_file("generation_config.json", '{"auto_map": {}, "auto_map": null}'),
    with_file("evil.py", "raise SystemExit"),
    with_file("sub/evil.PY", "raise SystemExit"),
    *(
        with_file(name, "")
        for name in ("evil.so", "libevil.so.1.2", "evil.pyc", "sub/evil.PYD", "evil.dll", "evil.dylib")
    ),
    *(with_key("tokenizer_config.json", evil_under(key)) for key in LIKE_THE_KEY),
]


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_gemma_folder_with_code_is_refused_before_any_runner_is_made(
    spoil: Callable[[Path], None], copied: Path
) -> None:
    spoil(copied / "gemma")
    with pytest.raises(CheckpointError, match=r"(names code to load the model with|is code).*nothing in it is\s+run"):
        WeightsFolder(copied)


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_were_good_and_are_spoilt_since_are_refused_by_every_runner(name: str, copied: Path) -> None:
    """Every runner takes weights alone, and there are none of such a folder."""
    options = RunOptions(device=torch.device("cpu"))
    good = WeightsFolder(copied)
    assert open_runner(name, good, options).name == name
    with_file("evil.py", "raise SystemExit")(copied / "gemma")
    with pytest.raises(CheckpointError, match="is code"):
        open_runner(name, WeightsFolder(copied), options)


def test_what_honest_folders_hold_is_taken(copied: Path) -> None:
    """Numbers longer than ours in a tokenizer's configuration, and a token that is spelt like the key."""
    gemma = copied / "gemma"
    with_key("tokenizer_config.json", lambda document: document.update(model_max_length=10**30 + 19884624838656))(gemma)
    with_file("vocab.json", '{"auto_map": 17}')(gemma)
    with_file("model.safetensors.index.json", '{"weight_map": {"auto_map": "x"}}')(gemma)
    with_file("README.md", "auto_map")(gemma)
    with_file("notes.python", "so")(gemma)
    require_no_code(gemma)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"a": ' + "9" * 5000 + "]"])
def test_a_configuration_that_cannot_be_read_is_refused(text: str, copied: Path) -> None:
    with_file("generation_config.json", text)(copied / "gemma")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        require_no_code(copied / "gemma")
