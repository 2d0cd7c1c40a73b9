"""Reading the transformer's configuration: sizes, official defaults, and values that must not be ignored."""

import json
from importlib.resources import files
from typing import Any

import pytest

from runners.errors import ConfigError
from runners.ltx23.transformer_config import ConnectorConfig, RotaryConfig, TextConnectorsConfig, TransformerConfig

RELEASED: dict[str, Any] = json.loads((files("runners.forge") / "ltx-2.3-22b.config.json").read_text())


def released(*without: str, **changes: object) -> dict[str, Any]:
    section = {key: value for key, value in RELEASED["transformer"].items() if key not in without}
    return {"transformer": section | changes}


def connectors(config: dict[str, Any]) -> TextConnectorsConfig:
    return TextConnectorsConfig.from_dict(config, hidden_width=3840, num_hidden_states=49)


def test_the_released_configuration_is_read_whole() -> None:
    config = TransformerConfig.from_dict(RELEASED)
    assert (config.video.width, config.video.heads, config.audio.width, config.audio.heads) == (4096, 32, 2048, 32)
    assert (config.num_layers, config.norm_eps, config.gated_attention) == (48, 1e-6, True)
    assert config.rotary == RotaryConfig(kind="split", theta=10000.0, precision="float64")
    assert (config.timestep_scale, config.cross_gate_timestep_scale, config.cross_max_position) == (1000, 1000, 20)
    text = connectors(RELEASED)
    assert text.video == ConnectorConfig(
        heads=32,
        head_width=128,
        num_layers=8,
        max_position=4096,
        rotary=config.rotary,
        gated_attention=True,
        num_registers=128,
    )
    assert (text.audio.width, text.audio.num_layers) == (2048, 8)


def test_absent_keys_take_the_official_defaults() -> None:
    config = TransformerConfig.from_dict(
        released("rope_type", "frequencies_precision", "apply_gated_attention", "av_ca_timestep_scale_multiplier")
    )
    assert config.rotary == RotaryConfig(kind="interleaved", theta=10000.0, precision="float32")
    assert (config.gated_attention, config.cross_gate_timestep_scale) == (False, 1)
    # Without sizes of its own the audio connector is the video one, which here does not fit its stream.
    with pytest.raises(ConfigError, match="audio connector is 4096 wide and its stream 2048"):
        connectors(released("audio_connector_attention_head_dim"))


def test_connectors_do_not_follow_the_transformers_theta() -> None:
    config = released(positional_embedding_theta=500.0)
    assert TransformerConfig.from_dict(config).rotary.theta == 500.0
    assert connectors(config).video.rotary.theta == 10000.0


def test_keys_that_no_release_reads_are_passed_over() -> None:
    config = TransformerConfig.from_dict(released(_class_name="AVTransformer3DModel", norm_num_groups=32))
    assert config == TransformerConfig.from_dict(RELEASED)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vae": {}}, "got the sections vae"),
        (released("qk_norm"), "qk_norm is None; LTX-2.3 has 'rms_norm'"),
        (released(share_ff=True), "share_ff is True"),
        (released(use_middle_indices_grid=False), "use_middle_indices_grid is False"),
        (released(caption_proj_before_connector=False), "caption_proj_before_connector is False"),
        (released(cross_attention_adaln=False), "cross_attention_adaln is False"),
        (released(ff_bias=False), "ff_bias is False and would be ignored"),
        (released(connector_num_learnable_registers=64), "would be ignored; only 128"),
        (released(frequencies_precision="double"), "frequencies_precision is 'double'"),
        (released(rope_type="rotated"), "rope_type is 'rotated'"),
        (released(attention_type="flash_attention_3"), "attention_type is 'flash_attention_3'"),
        (released(num_layers="48"), "num_layers is '48'; wanted a whole number"),
        (released(num_layers=True), "num_layers is True; wanted a whole number"),
        (released(num_layers=0), "num_layers is 0; wanted a whole number from 1 to 100"),
        (released(num_layers=101), "num_layers is 101; wanted a whole number from 1 to 100"),
        (released(num_attention_heads=2**14), "width is 2097152; wanted a whole number from 1 to 1048576"),
        (released(timestep_scale_multiplier=10**400), "timestep_scale_multiplier is 1000.*at most 1073741824"),
        (released(norm_eps=float("nan")), "norm_eps is nan"),
        (released(apply_gated_attention=1), "apply_gated_attention is 1; wanted true or false"),
        (released(cross_attention_dim=2048), "cross_attention_dim is 2048.*4096"),
        (released(audio_cross_attention_dim=4096), "audio_cross_attention_dim is 4096.*2048"),
        (released(positional_embedding_max_pos=[20, 2048]), r"3 axes; max_positions has 2: \(20, 2048\)"),
        (released(num_attention_heads=3, attention_head_dim=3, cross_attention_dim=9), "9 must be a multiple of 6"),
    ],
)
def test_what_cannot_be_honoured_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TransformerConfig.from_dict(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (released("caption_proj_input_norm"), "caption_proj_input_norm is None"),
        (
            released(connector_positional_embedding_max_pos=[4096, 1]),
            r"max_pos is \[4096, 1\]; wanted a list of 1 to 1",
        ),
        (released(connector_num_layers=-1), "num_layers is -1"),
        (released(audio_connector_num_layers=10**9), "num_layers is 1000000000; wanted .* from 1 to 100"),
        (released(connector_num_attention_heads=10**12), "heads is 1000000000000;"),
        (released(connector_attention_head_dim=64), "video connector is 2048 wide and its stream 4096"),
    ],
)
def test_connectors_that_cannot_be_honoured_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        connectors(config)
