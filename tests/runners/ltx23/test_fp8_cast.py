"""Layers that keep e4m3: which they are, and what they compute."""

import importlib
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from runners.ltx23.fp8_cast import FP8, UpcastLinear, is_cast, put_in_place
from runners.ltx23.loading import expected_shapes
from runners.ltx23.pipeline import ModelComponents
from runners.ltx23.pipeline_config import PipelineConfig
from runners.ltx23.transformer import Transformer
from runners.weights import WeightsFolder

CPU = torch.device("cpu")


def test_the_listed_tensors_are_the_official_ones(micro_weights: WeightsFolder) -> None:
    importlib.import_module("ltx_core.loader")  # the other imports this one halfway
    operations: Any = importlib.import_module("ltx_core.quantization").TRANSFORMER_LINEAR_DOWNCAST_MAP
    prefix = "model.diffusion_model."
    names = [
        name.removeprefix(prefix)
        for name in micro_weights.model.shapes
        if name.startswith(prefix) and "_connector." not in name
    ]
    officially = {
        name for name in names if operations.apply_to_key_value(name, torch.ones(2))[0].new_value.dtype == FP8
    }
    ours = {name for name in names if is_cast(name.rpartition(".")[0]) and name.endswith(("weight", "bias"))}
    assert ours == officially and len(ours) == 2 * 2 * (6 * 4 + 2 * 2)  # blocks, weight and bias, attentions, two ff
    assert not any("norm" in name or "gate" in name for name in ours)


def test_a_loaded_transformer_keeps_e4m3_where_the_list_says_and_bf16_elsewhere(micro_weights: WeightsFolder) -> None:
    config = PipelineConfig(quantization="fp8_cast")
    loaded = ModelComponents(micro_weights, config, CPU).build("transformer", Transformer)
    plain = ModelComponents(micro_weights, PipelineConfig(), CPU).build("transformer", Transformer)
    assert expected_shapes(loaded, {"": ""}) == expected_shapes(plain, {"": ""})
    exact = dict(plain.named_parameters())
    for name, weight in loaded.named_parameters():
        cast = is_cast(name.rpartition(".")[0])
        assert weight.dtype == (FP8 if cast else torch.bfloat16), name
        assert torch.equal(weight.bfloat16(), exact[name].to(weight.dtype).bfloat16()), name


def test_a_layer_computes_in_its_inputs_dtype() -> None:
    layer = nn.Linear(5, 3)
    holder = nn.ModuleDict({"transformer_blocks": nn.ModuleList([nn.ModuleDict({"to_q": layer, "to_gate": layer})])})
    put_in_place(holder, UpcastLinear, is_cast)
    block: Any = holder["transformer_blocks"]
    kept = block[0]["to_q"]
    assert isinstance(kept, UpcastLinear) and block[0]["to_gate"] is layer
    kept.load_state_dict({"weight": layer.weight.to(FP8), "bias": layer.bias.to(FP8)}, assign=True)
    x = torch.randn(2, 4, 5)
    for dtype in (torch.float32, torch.bfloat16):
        wanted = F.linear(x.to(dtype), layer.weight.to(FP8).to(dtype), layer.bias.to(FP8).to(dtype))
        assert torch.equal(kept(x.to(dtype)), wanted) and wanted.dtype == dtype
