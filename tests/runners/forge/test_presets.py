import importlib
import json
from pathlib import Path

import pytest

from runners.errors import ConfigError
from runners.forge.presets import Json, full_gemma, preset_named

STREAMS = ("", "audio_", "connector_", "audio_connector_")


def keys(config: Json) -> set[str]:
    nested = {f"{key}.{inner}" for key, value in config.items() if isinstance(value, dict) for inner in keys(value)}
    return set(config) | nested


# Facts of the released file's `transformer` section (`ltx-2.3-22b-dev.safetensors`), which an engine may rely on.
RELEASED_KEYS = {
    *("_class_name", "activation_fn", "apply_gated_attention", "attention_bias", "attention_head_dim"),
    *("attention_type", "audio_attention_head_dim", "audio_connector_attention_head_dim"),
    *("audio_connector_num_attention_heads", "audio_cross_attention_dim", "audio_num_attention_heads"),
    *("audio_out_channels", "audio_positional_embedding_max_pos", "av_ca_timestep_scale_multiplier"),
    *("av_cross_ada_norm", "caption_channels", "caption_proj_before_connector", "caption_proj_input_norm"),
    *("caption_projection_first_linear", "caption_projection_second_linear", "causal_temporal_positioning"),
    *("connector_apply_gated_attention", "connector_attention_head_dim", "connector_learnable_registers_std"),
    *("connector_norm_output", "connector_num_attention_heads", "connector_num_layers"),
    *("connector_num_learnable_registers", "connector_positional_embedding_max_pos", "cross_attention_adaln"),
    *("cross_attention_dim", "cross_attention_norm", "double_self_attention", "dropout"),
    *("frequencies_precision", "in_channels", "norm_elementwise_affine", "norm_eps", "norm_num_groups"),
    *("num_attention_heads", "num_embeds_ada_norm", "num_layers", "num_vector_embeds", "only_cross_attention"),
    *("out_channels", "positional_embedding_max_pos", "positional_embedding_theta"),
    *("positional_embedding_type", "qk_norm", "rope_type", "share_ff", "standardization_norm"),
    *("text_encoder_norm_type", "timestep_scale_multiplier", "upcast_attention"),
    *("use_audio_video_cross_attention", "use_embeddings_connector", "use_linear_projection"),
    "use_middle_indices_grid",
}
RELEASED_BUT_SIZES = {
    "_class_name": "AVTransformer3DModel",
    "attention_type": "default",
    "causal_temporal_positioning": True,
    "connector_learnable_registers_std": 1,
    "connector_norm_output": True,
    "connector_num_learnable_registers": 128,
    "norm_num_groups": 32,
    "text_encoder_norm_type": "per_token_rms",
    "use_embeddings_connector": True,
}
SIZES = {
    *("num_layers", "num_attention_heads", "attention_head_dim", "cross_attention_dim", "caption_channels"),
    *("audio_num_attention_heads", "audio_attention_head_dim", "audio_cross_attention_dim"),
    *("connector_num_attention_heads", "connector_attention_head_dim", "connector_num_layers"),
    *("audio_connector_num_attention_heads", "audio_connector_attention_head_dim"),
}
ONLY_OF_UNEQUAL_DEPTHS = {"transformer.audio_connector_num_layers", "audio_connector_num_layers"}


def flat_keys(config: Json) -> set[str]:
    return keys(config) - ONLY_OF_UNEQUAL_DEPTHS


@pytest.mark.parametrize("name", ["tiny", "odd", "small"])
def test_smaller_presets_have_the_keys_of_the_full_one_and_no_others(name: str) -> None:
    assert flat_keys(preset_named(name).config) == keys(preset_named("full").config)
    assert keys(preset_named(name).gemma) == keys(full_gemma())


@pytest.mark.parametrize("name", ["tiny", "odd", "small", "full"])
def test_what_is_no_size_is_as_released(name: str) -> None:
    transformer, full = preset_named(name).config["transformer"], preset_named("full").config["transformer"]
    assert set(full) == RELEASED_KEYS and len(RELEASED_KEYS) == 59
    assert RELEASED_BUT_SIZES.items() <= transformer.items()
    assert {key for key in full if transformer[key] != full[key]} <= SIZES
    assert transformer["caption_channels"] == preset_named(name).gemma["text_config"]["hidden_size"]


RELEASED = Path(__file__).parents[4] / "shared" / "ltx-2.3-22b.config.json"


@pytest.mark.skipif(not RELEASED.is_file(), reason=f"the released configuration is not at {RELEASED}")
def test_the_full_configuration_is_the_released_one() -> None:
    assert preset_named("full").config == json.loads(RELEASED.read_text())


@pytest.mark.parametrize("name", ["tiny", "full"])
def test_portable_presets_have_the_ratios_of_the_released_file(name: str) -> None:
    transformer, text = preset_named(name).config["transformer"], preset_named(name).gemma["text_config"]
    heads = [transformer[f"{stream}num_attention_heads"] for stream in STREAMS]
    widths = [transformer[f"{stream}attention_head_dim"] for stream in STREAMS]
    assert len(set(heads)) == 1
    assert widths[0] == 2 * widths[1] == widths[2] == 2 * widths[3]
    assert transformer["cross_attention_dim"] == heads[0] * widths[0] == 2 * transformer["audio_cross_attention_dim"]
    assert "audio_connector_num_layers" not in transformer
    assert text["query_pre_attn_scalar"] == text["head_dim"]
    assert text["num_attention_heads"] == 2 * text["num_key_value_heads"]
    assert text["num_attention_heads"] * text["head_dim"] != text["hidden_size"]


def test_sizes_of_tiny_that_no_ratio_ties_all_differ() -> None:
    preset = preset_named("tiny")
    transformer, text = preset.config["transformer"], preset.gemma["text_config"]
    free = [
        *(
            transformer[key]
            for key in ("num_layers", "num_attention_heads", "attention_head_dim", "connector_num_layers")
        ),
        *(transformer[key] for key in ("audio_attention_head_dim", "cross_attention_dim", "audio_cross_attention_dim")),
        *(text[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")),
        text["head_dim"],
        128,  # latent channels, registers
    ]
    assert len(set(free)) == len(free)
    assert transformer["num_layers"] >= 4


def test_odd_has_four_blocks_and_sizes_that_all_differ() -> None:
    transformer = preset_named("odd").config["transformer"]
    assert transformer["num_layers"] >= 4
    streams = [
        (transformer[f"{stream}num_attention_heads"], transformer[f"{stream}attention_head_dim"]) for stream in STREAMS
    ]
    sizes = [size for pair in streams for size in pair] + [transformer["num_layers"]]
    assert len({heads for heads, _ in streams}) == len({width for _, width in streams}) == len(streams)
    widths = [heads * width for heads, width in streams]
    assert widths[0] == widths[2] == transformer["cross_attention_dim"]
    assert widths[1] == widths[3] == transformer["audio_cross_attention_dim"]
    assert widths[0] != widths[1]
    assert not {widths[0], widths[1], 128} & set(sizes)
    assert transformer["audio_connector_num_layers"] != transformer["connector_num_layers"]
    text = preset_named("odd").gemma["text_config"]
    assert text["hidden_size"] not in widths
    assert text["head_dim"] * text["num_attention_heads"] != text["hidden_size"]
    assert text["query_pre_attn_scalar"] != text["head_dim"]


@pytest.mark.parametrize("name", ["tiny", "odd"])
def test_small_gemmas_have_both_kinds_of_layer_and_a_window_that_cuts(name: str) -> None:
    text = preset_named(name).gemma["text_config"]
    assert 1 < text["sliding_window_pattern"] < text["num_hidden_layers"]
    assert text["sliding_window"] < 64


def test_full_gemma_is_the_official_constant() -> None:
    module = pytest.importorskip("ltx_core.text_encoders.gemma.config")
    assert full_gemma() == importlib.import_module(module.__name__).GEMMA3_CONFIG_FOR_LTX.to_dict()


def test_presets_are_fresh_and_unknown_ones_refused() -> None:
    preset_named("tiny").config["transformer"]["num_layers"] = 1
    assert preset_named("tiny").config["transformer"]["num_layers"] == 4
    with pytest.raises(ConfigError, match=r"'huge'.*tiny, odd, small, full"):
        preset_named("huge")
