"""The pipeline's configuration: what may stand in it, and who wins when several say something."""

from typing import Any

import pytest
import torch

from runners.errors import ConfigError
from runners.ltx23.pipeline_config import PipelineConfig, resolve_pipeline_config
from runners.releases import ReleaseBehaviours

CPU = torch.device("cpu")


def test_the_default_is_the_official_run() -> None:
    config = PipelineConfig()
    assert config.disable_autocast is True
    assert config.dtype == torch.bfloat16 and config.reference == ReleaseBehaviours()


def test_the_command_line_wins_over_the_override_and_both_over_the_base() -> None:
    later = ReleaseBehaviours(guidance_fp32=True)
    base = PipelineConfig()
    override = {"disable_autocast": False, "reference": later}
    assert resolve_pipeline_config(base) == base
    resolved = resolve_pipeline_config(base, override, {"disable_autocast": True})
    assert resolved == PipelineConfig(disable_autocast=True, reference=later)
    not_given = resolve_pipeline_config(base, override, {"disable_autocast": None, "dtype": None})
    assert not_given.disable_autocast is False and not_given.dtype == torch.bfloat16


def test_autocast_of_an_oracle_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"autocast computes in bf16, but dtype is torch\.float32"):
        PipelineConfig(disable_autocast=False, dtype=torch.float32)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"disable_autocast": 1}, "disable_autocast is 1; wanted true or false"),
        ({"disable_autocast": None}, "disable_autocast is None"),
        ({"disable_autocast": "true"}, "disable_autocast is 'true'"),
        ({"skip_v2a_cross_attn_for_video_gt": True}, "Unknown pipeline option skip_v2a_cross_attn_for_video_gt"),
        ({"dtype": "bf16"}, "dtype is bf16; wanted torch.bfloat16"),
        ({"dtype": torch.float16}, "dtype is torch.float16"),
        ({"reference": "1.0.0"}, "reference is '1.0.0'; wanted a ReleaseBehaviours"),
        ({"autocast": True, "tiers": 1}, "Unknown pipeline option autocast, tiers; known are disable_autocast, dtype"),
    ],
)
def test_what_no_configuration_may_hold_is_refused(overrides: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        resolve_pipeline_config(PipelineConfig(), overrides)


@pytest.mark.parametrize("disable", [True, False])
def test_autocast_is_entered_only_when_asked_for_and_left_again(disable: bool) -> None:
    with PipelineConfig(disable_autocast=disable).autocast(CPU):
        assert torch.is_autocast_enabled("cpu") is not disable
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == (torch.float32 if disable else torch.bfloat16)
    assert not torch.is_autocast_enabled("cpu")
