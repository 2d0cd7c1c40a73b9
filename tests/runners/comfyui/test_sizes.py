"""Checkpoints whose sizes ComfyUI cannot have are refused by name; the tiny one, of the released ratios, is not."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import pytest

from runners.comfyui.sizes import require_buildable, text_encoder_fitted
from runners.errors import RunnerError
from runners.forge.presets import preset_named
from runners.weights import Weights, WeightsFolder

Change = Callable[[dict[str, Any], dict[str, Any]], None]


def test_the_tiny_checkpoint_can_be_built(tiny_weights: WeightsFolder) -> None:
    require_buildable(tiny_weights)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda config, _: config.update(audio_num_attention_heads=4), r"heads of video and audio \(5 and 4\)"),
        (lambda config, _: config.update(audio_connector_num_layers=1), r"connectors of unlike depths \(2 and 1\)"),
        (lambda _, text: text.update(query_pre_attn_scalar=40), r"other than its head width \(24\)"),
    ],
)
def test_sizes_that_it_knows_by_heart_are_refused_by_name(
    change: Change, what: str, tiny_weights: WeightsFolder
) -> None:
    config = json.loads(json.dumps(tiny_weights.config))
    gemma = json.loads(json.dumps(tiny_weights.gemma_config))
    change(config["transformer"], gemma["text_config"])
    with (
        patch.dict(tiny_weights.config, config),
        patch.dict(tiny_weights.gemma_config, gemma),
        pytest.raises(RunnerError, match=f"'comfyui' cannot build .*{what}"),
    ):
        require_buildable(tiny_weights)


def test_with_the_released_sizes_nothing_is_refused_or_replaced() -> None:
    released = preset_named("full")

    weights = cast(Weights, SimpleNamespace(config=released.config, gemma_config=released.gemma))
    require_buildable(weights)
    with text_encoder_fitted(weights):  # it would import ComfyUI, which is not here, to replace anything
        pass
