"""The list of parts that a checkpoint holds, for loading and forging alike."""

from typing import Any

import pytest
import torch

from runners.errors import ConfigError
from runners.forge.presets import full_config, preset_named
from runners.ltx23.loading import expected_shapes
from runners.ltx23.parts import model_parts
from runners.releases import ReleaseBehaviours


def parts_of(config: dict[str, Any]) -> dict[str, Any]:
    return model_parts(config, hidden_width=72, num_hidden_states=6, reference=ReleaseBehaviours())


def test_the_full_model_has_the_released_number_of_parameters() -> None:
    parts = model_parts(full_config(), hidden_width=3840, num_hidden_states=49, reference=ReleaseBehaviours())
    sizes = {}
    with torch.device("meta"):
        for name, make in parts.items():
            module: Any = make()
            sizes[name] = sum(value.numel() for value in module.state_dict().values()) / 1e9
            count = len(expected_shapes(module, module.CHECKPOINT_PREFIXES))
            assert count == len(module.state_dict())  # no two keys share a name
            if name == "transformer":
                assert count == 4186
    wanted = {
        "transformer": 18.989,
        "connectors": 3.172,
        "video_encoder": 0.319,
        "video_decoder": 0.407,
        "audio_decoder": 0.032,
        "vocoder": 0.129,
    }
    assert sizes == {name: pytest.approx(size, abs=6e-4) for name, size in wanted.items()}


@pytest.mark.parametrize("section", ["transformer", "vae", "audio_vae", "vocoder"])
def test_a_missing_section_is_named(section: str) -> None:
    config = preset_named("tiny").config
    config[section] = []
    with pytest.raises(ConfigError, match=f"has no section '{section}'"):
        parts_of(config)
    del config[section]
    with pytest.raises(ConfigError, match=f"has no section '{section}'; an LTX-2.3 file has one"):
        parts_of(config)
