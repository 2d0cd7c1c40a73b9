import importlib

import pytest

from runners.errors import ConfigError
from runners.forge.presets import Json, full_gemma, preset_named


def keys(config: Json) -> set[str]:
    nested = {f"{key}.{inner}" for key, value in config.items() if isinstance(value, dict) for inner in keys(value)}
    return set(config) | nested


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_smaller_presets_have_the_keys_of_the_full_one_and_no_others(name: str) -> None:
    assert keys(preset_named(name).config) == keys(preset_named("full").config)
    assert keys(preset_named(name).gemma) == keys(full_gemma())


def test_tiny_has_four_blocks_and_sizes_that_all_differ() -> None:
    transformer = preset_named("tiny").config["transformer"]
    assert transformer["num_layers"] >= 4
    streams = [
        (transformer[f"{prefix}num_attention_heads"], transformer[f"{prefix}attention_head_dim"])
        for prefix in ("", "audio_", "connector_", "audio_connector_")
    ]
    sizes = [size for pair in streams for size in pair] + [transformer["num_layers"]]
    assert len({heads for heads, _ in streams}) == len({width for _, width in streams}) == len(streams)
    widths = [heads * width for heads, width in streams]
    assert widths[0] == widths[2] == transformer["cross_attention_dim"]
    assert widths[1] == widths[3] == transformer["audio_cross_attention_dim"]
    assert widths[0] != widths[1]
    assert not {widths[0], widths[1], 128} & set(sizes)
    text = preset_named("tiny").gemma["text_config"]
    assert text["hidden_size"] not in widths
    assert text["head_dim"] * text["num_attention_heads"] != text["hidden_size"]


def test_tiny_gemma_has_both_kinds_of_layer_and_a_window_that_cuts() -> None:
    text = preset_named("tiny").gemma["text_config"]
    assert 1 < text["sliding_window_pattern"] < text["num_hidden_layers"]
    assert text["sliding_window"] < 64


def test_full_gemma_is_the_official_constant() -> None:
    module = pytest.importorskip("ltx_core.text_encoders.gemma.config")
    assert full_gemma() == importlib.import_module(module.__name__).GEMMA3_CONFIG_FOR_LTX.to_dict()


def test_presets_are_fresh_and_unknown_ones_refused() -> None:
    preset_named("tiny").config["transformer"]["num_layers"] = 1
    assert preset_named("tiny").config["transformer"]["num_layers"] == 4
    with pytest.raises(ConfigError, match=r"'huge'.*tiny, small, full"):
        preset_named("huge")
