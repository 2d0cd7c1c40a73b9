"""Reading the `audio_vae` section: the released sizes, and a refusal naming each value that is not supported."""

from typing import Any

import pytest

from runners.errors import ConfigError
from runners.ltx23.audio_vae_config import AudioVaeConfig


def read(**sizes: Any) -> AudioVaeConfig:
    return AudioVaeConfig.from_dict({"model": {"params": {"ddconfig": sizes}}})


def test_an_empty_section_takes_the_official_defaults_and_null_is_not_absent() -> None:
    assert AudioVaeConfig.from_dict({}) == AudioVaeConfig()
    assert read().causality_axis == "height"
    assert read(causality_axis=None).causality_axis is None


def test_bins_come_from_the_first_of_three_places_that_names_them() -> None:
    places: dict[str, Any] = {
        "model": {"params": {"ddconfig": {"mel_bins": 3}}},
        "preprocessing": {"mel": {"n_mel_channels": 5}},
        "variables": {"mel_bins": 7},
    }
    found = []
    for name in ("model", "preprocessing", "variables"):
        found.append(AudioVaeConfig.from_dict(places).mel_bins)
        del places[name]
    assert found == [3, 5, 7]
    assert AudioVaeConfig.from_dict(places).mel_bins is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ch", 0), ("ch", 12.5), ("ch", True), ("out_ch", "2"), ("ch_mult", []), ("ch_mult", 4), ("ch_mult", [1, 0]),
        ("num_res_blocks", -1), ("attn_resolutions", 16), ("attn_resolutions", ["16"]), ("resolution", None),
        ("z_channels", -8), ("norm_type", "batch"), ("causality_axis", "depth"), ("mid_block_add_attention", "no"),
        ("mel_bins", -64), ("ch", 1 << 21), ("ch_mult", [1] * 101), ("num_res_blocks", 10**9), ("ch_mult", [[1]]),
        ("attn_resolutions", [[16]]),
    ],
)  # fmt: skip
def test_an_unsupported_value_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{key} "):
        read(**{key: value})


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"model": 3}, "audio_vae.model is 3"),
        ({"model": {"params": None}}, "audio_vae.params is None"),
        ({"model": {"params": {"ddconfig": []}}}, r"audio_vae.ddconfig is \[\]"),
        ({"preprocessing": {"mel": "64"}}, "audio_vae.mel is '64'"),
        ({"variables": 64}, "audio_vae.variables is 64"),
    ],
)
def test_what_is_no_section_is_refused_by_name(section: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"{sentence}; wanted a section"):
        AudioVaeConfig.from_dict(section)


def test_group_normalization_wants_no_causal_axis_and_widths_of_whole_groups() -> None:
    assert read(norm_type="group", causality_axis=None, ch=64).norm_type == "group"
    with pytest.raises(ConfigError, match="causality_axis 'width'"):
        read(norm_type="group", causality_axis="width")
    with pytest.raises(ConfigError, match=r"divisible by 32; got \[48, 96, 192\]"):
        read(norm_type="group", causality_axis=None, ch=48)
