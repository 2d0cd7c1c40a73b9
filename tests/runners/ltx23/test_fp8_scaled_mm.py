"""Layers of pre-quantised checkpoints: which they are, what they compute, and LoRAs fused into them."""

import importlib
from typing import Any

import pytest
import torch
from torch import nn

from runners.errors import CheckpointError
from runners.ltx23.fp8_cast import FP8, put_in_place
from runners.ltx23.fp8_scaled_mm import (
    LARGEST,
    ScaledLinear,
    ScaledWeights,
    fused_scaled,
    scaled,
    scaled_layers,
)
from runners.ltx23.loading import load
from runners.ltx23.lora import FusedWeights
from tests.runners.ltx23.test_lora import LAYER, WEIGHT, Tensors, lora

CPU = torch.device("cpu")
OUT, IN = 16, 32  # the product of e4m3 numbers wants multiples of 16


def test_a_weight_and_its_scale_have_the_bits_of_the_official_function() -> None:
    importlib.import_module("ltx_core.loader")  # the other imports this one halfway
    official: Any = importlib.import_module("ltx_core.quantization.fp8_scaled_mm").quantize_weight_to_fp8_per_tensor
    weight, delta = torch.randn(7, 5).bfloat16(), torch.randn(7, 5).bfloat16()
    ours, scale = scaled(weight)
    theirs, their_scale = official(weight)  # (5, 7), as TensorRT-LLM wants it
    assert torch.equal(ours.float(), theirs.t().float()) and torch.equal(scale, their_scale)
    assert ours.float().abs().max() == LARGEST and scale.shape == ()
    again, scale_again = fused_scaled(ours, scale, delta)
    wanted, wanted_scale = official(ours.float() * scale + delta.float())
    assert torch.equal(again.float(), wanted.t().float()) and torch.equal(scale_again, wanted_scale)


def test_a_layer_multiplies_rounded_numbers_and_adds_its_bias_to_the_rounded_product() -> None:
    holder: Any = nn.ModuleDict({"first": nn.Linear(IN, OUT), "other": nn.Linear(IN, OUT)})
    plain = holder["other"]
    put_in_place(holder, ScaledLinear, {"first"}.__contains__)
    layer = holder["first"]
    assert isinstance(layer, ScaledLinear) and holder["other"] is plain
    weight, scale = scaled(torch.randn(OUT, IN))
    source = Tensors(
        **{"first.weight": weight, "first.weight_scale": scale, "first.input_scale": torch.tensor(0.25)},
        **{
            "first.bias": torch.randn(OUT).bfloat16(),
            "other.weight": torch.zeros(OUT, IN),
            "other.bias": torch.ones(OUT),
        },
    )
    load(holder, {"": ""}, source, CPU, torch.bfloat16)
    assert layer.weight.dtype == FP8 and layer.weight_scale.dtype == layer.input_scale.dtype == torch.float32
    assert layer.bias.dtype == torch.bfloat16
    x = torch.randn(2, 3, IN).bfloat16()
    x[0, 0, 0] = 1000.0  # beyond 448 x 0.25: cut off
    rounded = (x.float() / 0.25).clamp(-448, 448).to(FP8).float()
    product = (rounded @ weight.float().t() * 0.25 * scale).bfloat16()
    torch.testing.assert_close(layer(x), product + layer.bias, rtol=2**-7, atol=2**-7)
    assert layer(x).shape == (2, 3, OUT) and layer(x).dtype == torch.bfloat16


def test_the_checkpoint_says_which_layers_have_a_scale() -> None:
    shapes: dict[str, tuple[int, ...]] = {WEIGHT: (OUT, IN)}
    with pytest.raises(CheckpointError, match="this one has none"):
        scaled_layers(shapes)
    assert scaled_layers({**shapes, f"{WEIGHT}_scale": ()}) == {LAYER}
    wide = Tensors(**{WEIGHT: torch.zeros(OUT, IN), f"{WEIGHT}_scale": torch.tensor(1.0)})
    with pytest.raises(CheckpointError, match=r"has a scale, and is torch\.float32"):
        ScaledWeights(wide).read([WEIGHT], CPU)


def test_a_lora_gives_a_scaled_weight_another_scale() -> None:
    one = lora(0.5)
    weight, scale = scaled(torch.randn(7, 5))
    source = Tensors(**{WEIGHT: weight, f"{WEIGHT}_scale": scale})
    fused = FusedWeights(ScaledWeights(source), [one], torch.bfloat16, accumulated=True)
    made = fused.read([WEIGHT, f"{WEIGHT}_scale"], CPU)
    a, b = one.source.tensors.values()  # type: ignore[attr-defined]
    wanted, wanted_scale = fused_scaled(weight, scale, torch.matmul(b * 0.5, a))
    assert torch.equal(made[WEIGHT].float(), wanted.float()) and torch.equal(made[f"{WEIGHT}_scale"], wanted_scale)
    assert not torch.equal(wanted_scale, scale)
