"""The checkpoint in SGLang's folders: every tensor once, with its values, and configurations from the checkpoint's."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file

from runners.errors import RunnerError
from runners.forge.weights import ForgedWeights
from runners.sglang import layout
from runners.sglang.layout import CLASSES, materialize, places
from runners.sglang.names import COPIES
from runners.weights import WeightsFolder

CPU = torch.device("cpu")


def tensors_in(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        there = load_file(path)
        assert not found.keys() & there.keys()
        found |= there
    return found


def test_every_tensor_of_the_tiny_checkpoint_is_there_once_with_its_values(
    tiny_weights: WeightsFolder, tmp_path: Path
) -> None:
    materialize(tiny_weights, tmp_path / "components")
    source = tiny_weights.model.read(list(tiny_weights.model.shapes), CPU)
    used: Counter[str] = Counter()
    for component, keys in places(tiny_weights.model.shapes).items():
        written = tensors_in(tmp_path / "components" / component)
        assert written.keys() == keys.keys()
        for key, name in keys.items():
            assert torch.equal(written[key], source[name]) and written[key].dtype == source[name].dtype
            used[name] += 1
    assert used.keys() == source.keys()
    more_than_once = {name: 1 + sum(name == copied for copied, _, _ in COPIES) for name, _, _ in COPIES}
    assert {name: count for name, count in used.items() if count != 1} == more_than_once


def test_the_folder_names_every_component_with_its_class(tiny_weights: WeightsFolder, tmp_path: Path) -> None:
    folder = tmp_path / "components"
    materialize(tiny_weights, folder)
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "LTX2Pipeline"
    for component, (_, class_name) in CLASSES.items():
        assert index[component][1] == class_name
        assert (folder / component).is_dir()
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        document = json.loads((folder / component / name).read_text())
        if component not in ("text_encoder", "tokenizer"):
            assert document["_class_name"] == class_name
    # Gemma stays where it is.
    assert (folder / "text_encoder").resolve() == tiny_weights.gemma_folder.resolve()


def test_configurations_have_the_sizes_of_the_checkpoint(tiny_weights: WeightsFolder) -> None:
    documents = layout.configurations(tiny_weights)
    text = tiny_weights.gemma_config["text_config"]
    transformer, connectors = documents["transformer"], documents["connectors"]
    assert transformer["num_layers"] == tiny_weights.config["transformer"]["num_layers"]
    assert transformer["quantize_video_rope_coords_to_hidden_dtype"] is True  # positions as in 1.0.0
    assert transformer["double_precision_rope"] is True
    assert connectors["feature_extractor_in_features"] == text["hidden_size"] * (text["num_hidden_layers"] + 1)
    assert connectors["video_feature_extractor_out_features"] == 160
    assert connectors["audio_feature_extractor_out_features"] == 80
    assert documents["vae"]["temporal_compression_ratio"] == 8
    assert documents["vae"]["spatial_compression_ratio"] == 32
    assert documents["vocoder"]["vocoder"] == tiny_weights.config["vocoder"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda config: config["vae"].update(norm_layer="group_norm", decoder_base_channels=32), "pixel_norm"),
        (lambda config: config.update(vocoder={"resblock": "1", "stereo": True}), "without bandwidth extension"),
    ],
)
def test_a_configuration_that_sglang_cannot_build_is_refused_by_name(
    change: Callable[[dict[str, Any]], None], what: str, tiny_weights: WeightsFolder, tmp_path: Path
) -> None:
    config = json.loads(json.dumps(tiny_weights.config))
    change(config)
    with patch.dict(tiny_weights.config, config), pytest.raises(RunnerError, match=what):
        materialize(tiny_weights, tmp_path / "components")
    assert not (tmp_path / "components").exists()


def test_large_components_are_written_in_shards_and_made_weights_as_files(tmp_path: Path) -> None:
    made = ForgedWeights("tiny", 0, CPU)
    with patch.object(layout, "SHARD_BYTES", 1 << 20):
        materialize(made, tmp_path / "components")
    assert len(list((tmp_path / "components/transformer").glob("model-*.safetensors"))) > 3
    assert [path.name for path in (tmp_path / "components/vae/image_encoder").glob("*.safetensors")] == [
        "model.safetensors"
    ]
    gemma = tensors_in(tmp_path / "components/text_encoder")
    assert gemma.keys() == made.gemma.shapes.keys()
    name = "language_model.model.norm.weight"
    assert torch.equal(gemma[name], made.gemma.read([name], CPU)[name])
