"""The distilled LoRA beside diffusers' weights: what it adds, and which files and environments are refused."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import peft
import pytest
import torch
from torch import Tensor

from runners.case import Case
from runners.diffusers.components import build_transformer
from runners.diffusers.lora import ADAPTER, load_lora, second_lora
from runners.diffusers.names import renaming_of
from runners.diffusers.runner import DiffusersRunner
from runners.errors import CheckpointError, RunnerError
from runners.ltx23.lora import Factors, factor_keys, lora_delta
from runners.ltx23.video_vae_config import VideoVaeConfig
from runners.model_files import LoraSource
from runners.protocol import RunOptions
from runners.weights import WeightsFolder
from tests.runners.diffusers.test_runner import MAPPABLE
from tests.runners.native.test_exact_tier import DISTILLED, TWO_STAGE

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Held:
    """Factors that lie in no file."""

    tensors: dict[str, Tensor]
    shapes: dict[str, tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", {name: tuple(tensor.shape) for name, tensor in self.tensors.items()})

    def read(self, names: list[str], device: torch.device) -> dict[str, Tensor]:
        return {name: self.tensors[name].to(device) for name in names}


@pytest.fixture(scope="module")
def stored(micro_weights: WeightsFolder) -> dict[str, Tensor]:
    source = micro_weights.lora(micro_weights.distilled_lora)
    return source.read(list(source.shapes), CPU)


@pytest.fixture
def pipeline(micro_weights: WeightsFolder) -> Any:
    """A pipeline that has a transformer and nothing else."""
    parts: dict[str, Any] = dict.fromkeys(
        ("scheduler", "vae", "audio_vae", "text_encoder", "tokenizer", "connectors", "vocoder")
    )
    transformer = build_transformer(micro_weights, CPU, torch.float32)
    return importlib.import_module("diffusers").LTX2Pipeline(**parts, transformer=transformer)


def test_each_layer_gives_strength_times_b_a_more_and_no_other_gives_anything(
    pipeline: Any, micro_weights: WeightsFolder, stored: dict[str, Tensor]
) -> None:
    lora = LoraSource(name="l", source=Held(stored), strength=-0.25)
    load_lora(pipeline, lora, micro_weights)
    matched = factor_keys(lora, micro_weights.model.shapes)
    table = renaming_of(VideoVaeConfig.from_checkpoint(micro_weights.config))
    layers = {
        f"{name}.weight": layer for name, layer in pipeline.transformer.named_modules() if hasattr(layer, "base_layer")
    }
    assert layers.keys() == table.keys(matched)["transformer"].keys() and len(layers) > 50
    for key, name in table.keys(matched)["transformer"].items():
        layer = layers[key]
        a, b = (stored[factor].float() for factor in matched[name])
        x = torch.randn(3, a.shape[1])
        torch.testing.assert_close(layer(x) - layer.base_layer(x), -0.25 * x @ a.T @ b.T, rtol=1e-4, atol=1e-5)
        assert layer.active_adapters == [ADAPTER]
        # The official loader's product of bf16 factors is bf16, in a model in fp32 too.
        fused = lora_delta([Factors(a=a.bfloat16(), b=b.bfloat16(), strength=-0.25)], torch.float32, accumulated=False)
        assert 2e-4 < float((fused + 0.25 * b @ a).norm() / (0.25 * b @ a).norm()) < 2**-8


@pytest.mark.parametrize("among", ["", "attn1.to_q", "ff.net.0.proj.lora_B"], ids=["all", "layers", "B"])
def test_factors_that_diffusers_has_no_place_for_are_refused_by_name(
    among: str, pipeline: Any, micro_weights: WeightsFolder, stored: dict[str, Tensor]
) -> None:
    # To the official loader, and so to native, a key means the same without the prefix that diffusers looks for.
    bare = {key.removeprefix("diffusion_model.") if among in key else key: value for key, value in stored.items()}
    lora = LoraSource(name="bare.safetensors", source=Held(bare), strength=1.0)
    left = {pair for pair in factor_keys(lora, micro_weights.model.shapes).values() if among in "".join(pair)}
    with pytest.raises(CheckpointError, match=rf"no place for {len(left)} of the \d+ pairs .* bare\.safetensors: \w+"):
        load_lora(pipeline, lora, micro_weights)


def test_a_file_of_another_model_is_refused_before_anything_is_loaded(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], run: Callable[..., Any], stored: dict[str, Tensor]
) -> None:
    other = Held({f"other.{key}": value for key, value in stored.items()})
    with (
        patch.object(WeightsFolder, "lora", lambda *_: other),
        patch("runners.diffusers.runner.build_components", side_effect=AssertionError("loaded")),
        pytest.raises(CheckpointError, match="matches no weight of the transformer"),
    ):
        run(DiffusersRunner(micro_weights, RunOptions(device=CPU)), micro_case(TWO_STAGE | MAPPABLE))


def test_without_peft_or_with_another_version_a_pipeline_with_a_lora_says_what_to_install(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    case, files = micro_case(TWO_STAGE), micro_weights.of_pipeline("two_stage")
    lora = second_lora(case, files)
    assert lora is not None and lora.strength == 1.0
    with (
        patch.dict(sys.modules, {"peft": None}),  # then an import says what it says where there is none
        pytest.raises(RunnerError, match=r"'two_stage' has a LoRA.*pip install '\.\[diffusers\]'"),
    ):
        second_lora(case, files)
    assert second_lora(micro_case(DISTILLED), micro_weights.of_pipeline("distilled")) is None
    with patch.object(peft, "__version__", "0.20.0"), pytest.raises(RunnerError, match=r"0\.20\.0 is installed"):
        second_lora(case, files)
