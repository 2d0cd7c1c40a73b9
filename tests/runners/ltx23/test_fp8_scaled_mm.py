"""Layers of pre-quantised checkpoints: which they are, what they compute, and LoRAs fused into them."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from runners.case import Case
from runners.errors import CheckpointError, RunnerError
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
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions
from runners.weights import WeightsFolder
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


def test_a_whole_run_multiplies_e4m3_numbers_in_the_blocks_that_have_a_scale_alone(
    scaled_weights: WeightsFolder,
    micro_weights: WeightsFolder,
    micro_case: Callable[..., Case],
    run: Callable[..., Any],
) -> None:
    one_step = {"reference": "1.2.0", "request.num_inference_steps": 1}
    plain = run(NativeRunner(micro_weights, RunOptions(device=CPU)), micro_case(one_step)).taps
    case = micro_case({**one_step, "quantization": "fp8_scaled_mm"})
    taps = run(NativeRunner(scaled_weights, RunOptions(device=CPU)), case).taps
    assert taps.keys() == plain.keys()
    for stream in ("video", "audio"):
        for branch in ("self_attn", "ff"):
            first, second = (f"denoise/000/cond/block/{block:02d}/{stream}/{branch}" for block in (0, 1))
            assert torch.equal(taps[first], plain[first]) and not torch.equal(taps[second], plain[second])
        x0 = f"denoise/000/cond/x0/{stream}"
        away = (taps[x0].float() - plain[x0].float()).norm() / plain[x0].float().norm()
        assert 1e-3 < away < 0.1  # e4m3 has four binary digits


def test_a_release_that_computes_it_with_another_library_is_refused(
    scaled_weights: WeightsFolder, micro_case: Callable[..., Case], run: Callable[..., Any]
) -> None:
    with pytest.raises(RunnerError, match=r"Official 1\.0\.0 computes fp8_scaled_mm with kernels of TensorRT-LLM"):
        run(NativeRunner(scaled_weights, RunOptions(device=CPU)), micro_case({"quantization": "fp8_scaled_mm"}))
