"""Reading the `vocoder` section: the released sizes, and a refusal naming each value that is not supported."""

from copy import deepcopy
from typing import Any

import pytest

from runners.errors import ConfigError
from runners.ltx23.vocoder_config import ExtendedVocoderConfig, VocoderConfig, read_vocoder_config

AMP = {
    "resblock": "AMP1",
    "stereo": True,
    "activation": "snakebeta",
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "use_tanh_at_final": False,
    "use_bias_at_final": False,
}
RELEASED: dict[str, Any] = {
    "vocoder": {
        **AMP,
        "upsample_rates": [5, 2, 2, 2, 2, 2],
        "upsample_kernel_sizes": [11, 4, 4, 4, 4, 4],
        "upsample_initial_channel": 1536,
    },
    "bwe": {
        **AMP,
        "upsample_rates": [6, 5, 2, 2, 2],
        "upsample_kernel_sizes": [12, 11, 4, 4, 4],
        "upsample_initial_channel": 512,
        "n_fft": 512,
        "hop_length": 80,
        "num_mels": 64,
        "input_sampling_rate": 16000,
        "output_sampling_rate": 48000,
    },
}
ABSENT = object()


def changed(part: str, key: str, value: object) -> dict[str, Any]:
    section = deepcopy(RELEASED)
    if value is ABSENT:
        del section[part][key]
    else:
        section[part][key] = value
    return section


def test_the_released_section_triples_16_khz_to_48_khz() -> None:
    config = read_vocoder_config(RELEASED)
    assert isinstance(config, ExtendedVocoderConfig)
    assert config.ratio == 3
    assert (config.vocoder.output_sampling_rate_hz, config.extension.output_sampling_rate_hz) == (16000, 48000)
    assert (config.vocoder.final_activation, config.extension.final_activation) == ("clamp", "none")
    assert config.vocoder.upsample_initial_channel == 1536
    assert not config.extension.use_bias_at_final


def test_a_flat_section_takes_the_official_defaults() -> None:
    assert read_vocoder_config({"resblock": "1", "stereo": True}) == VocoderConfig()
    assert VocoderConfig().output_sampling_rate_hz == 24000
    assert VocoderConfig().final_activation == "tanh"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resblock", "AMP1"), ("resblock", "2"), ("stereo", False), ("use_tanh_at_final", None),
        ("use_bias_at_final", 1), ("output_sampling_rate", 0), ("upsample_initial_channel", 31),
        ("upsample_rates", [2]), ("upsample_rates", 5), ("upsample_kernel_sizes", [16, 15, 8, 4, 1]),
        ("resblock_kernel_sizes", [3, 7]), ("resblock_kernel_sizes", [3, 7, "11"]),
        ("resblock_dilation_sizes", [[1, 3]] * 3), ("resblock_dilation_sizes", [1, 3, 5]),
        ("resblock_dilation_sizes", [[1, 3, 0]] * 3), ("upsample_initial_channel", 10**13),
        ("upsample_rates", [1] * 33),
    ],
)  # fmt: skip
def test_an_unsupported_flat_value_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{key} "):
        read_vocoder_config({"resblock": "1", "stereo": True, key: value})


@pytest.mark.parametrize("part", ["vocoder", "bwe"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resblock", "1"), ("resblock", ABSENT), ("activation", "snake"), ("activation", ABSENT), ("stereo", ABSENT),
        ("resblock_kernel_sizes", [3, 8, 11]),
    ],
)  # fmt: skip
def test_an_unsupported_value_of_either_generator_is_refused_by_name(part: str, key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{key} "):
        read_vocoder_config(changed(part, key, value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_fft", ABSENT), ("hop_length", 0), ("num_mels", 80), ("input_sampling_rate", "16000"),
        ("output_sampling_rate", ABSENT), ("output_sampling_rate", 44100), ("hop_length", 81),
        ("upsample_rates", [6, 5, 2, 2, 3]), ("upsample_kernel_sizes", [12, 11, 4, 4, 5]),
    ],
)  # fmt: skip
def test_an_extension_that_would_not_line_up_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{key} "):
        read_vocoder_config(changed("bwe", key, value))


def test_sections_that_are_missing_or_no_sections_are_refused() -> None:
    with pytest.raises(ConfigError, match="resblock is None"):
        read_vocoder_config({})
    with pytest.raises(ConfigError, match=r"vocoder\.vocoder\.resblock is None"):
        read_vocoder_config({"bwe": RELEASED["bwe"]})
    with pytest.raises(ConfigError, match=r"vocoder\.bwe is 3"):
        read_vocoder_config({"vocoder": RELEASED["vocoder"], "bwe": 3})
