"""Counts of a configuration that would be built one by one are bounded; sizes and everything official pass."""

import json
from pathlib import Path
from typing import Any

import pytest

from runners.counts import require_counts
from runners.errors import CheckpointError
from runners.forge.presets import preset_named

FORGE = Path(__file__).parent.parent.parent / "runners" / "forge"


@pytest.mark.parametrize("preset", ["tiny", "odd", "small", "full"])
def test_every_preset_and_the_released_configuration_pass(preset: str) -> None:
    sizes = preset_named(preset)
    require_counts(sizes.config, "it")
    require_counts(sizes.gemma, "it")
    for name in ("ltx-2.3-22b.config.json", "gemma-3-12b.config.json"):
        require_counts(json.loads((FORGE / name).read_text()), name)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"transformer": {"num_layers": 10**9}}, "it: transformer.num_layers is 1000000000; a model has at most 100"),
        ({"transformer": {"num_layers": 101}}, "a model has at most 100"),
        ({"transformer": {"num_layers": -(10**9)}}, "a model has at most 100"),
        ({"text_config": {"num_hidden_layers": 5000}}, "text_config.num_hidden_layers is 5000"),
        ({"vae": {"decoder_blocks": [["res_x", {"num_layers": 10**6}]]}}, "vae.decoder_blocks.0.1.num_layers"),
        ({"vae": {"decoder_blocks": [["res_x", {}]] * 101}}, "vae.decoder_blocks has 101 entries"),
        ({"audio_vae": {"ddconfig": {"num_res_blocks": 10**6}}}, "num_res_blocks is 1000000"),
        ({"vocoder": {"bwe": {"upsample_rates": [1] * 33}}}, "vocoder.bwe.upsample_rates has 33 entries"),
        ({"transformer": {"cross_attention_dim": 1 << 40}}, "a model has at most 2147483648"),
    ],
)
def test_a_count_that_no_model_has_is_refused_by_name(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        require_counts(config, "it")
