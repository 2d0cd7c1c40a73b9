"""Fusion of LoRAs, held to hand-worked sums and to the official loader's own function."""

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from runners.errors import CheckpointError
from runners.ltx23.fp8_cast import FP8
from runners.ltx23.lora import FusedWeights, factor_keys
from runners.model_files import LoraSource

CPU = torch.device("cpu")
LAYER = "transformer_blocks.0.attn1.to_q"
WEIGHT = f"model.diffusion_model.{LAYER}.weight"
BIAS = f"model.diffusion_model.{LAYER}.bias"
CONNECTOR = "model.diffusion_model.video_embeddings_connector.transformer_1d_blocks.0.attn1.to_q.weight"
OUT, IN, RANK = 7, 5, 3


class Tensors:
    """Named tensors in memory."""

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.asked: list[str] = []

    def read(self, names: list[str], device: torch.device) -> dict[str, Tensor]:
        self.asked += names
        return {name: self.tensors[name].clone() for name in names}


def lora(strength: float, seed: int = 1, dtype: torch.dtype = torch.bfloat16, layer: str = LAYER) -> LoraSource:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        f"diffusion_model.{layer}.lora_A.weight": torch.randn(RANK, IN, generator=generator).to(dtype),
        f"diffusion_model.{layer}.lora_B.weight": torch.randn(OUT, RANK, generator=generator).to(dtype),
    }
    return LoraSource(name=f"lora-{seed}.safetensors", source=Tensors(**factors), strength=strength)


def checkpoint(dtype: torch.dtype = torch.bfloat16) -> Tensors:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(OUT, IN, generator=generator).bfloat16().to(dtype)
    return Tensors(**{WEIGHT: weight, BIAS: torch.ones(OUT).bfloat16(), CONNECTOR: torch.ones(OUT, IN).bfloat16()})


def fused(loras: list[LoraSource], source: Tensors, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    return FusedWeights(source, loras, dtype, accumulated=False).read([WEIGHT, BIAS], CPU)


def official(loras: list[LoraSource], source: Tensors, dtype: torch.dtype | None) -> Tensor:
    primitives: Any = importlib.import_module("ltx_core.loader.primitives")
    apply_loras: Any = importlib.import_module("ltx_core.loader.fuse_loras").apply_loras

    def state(tensors: dict[str, Tensor]) -> Any:
        return primitives.StateDict(sd=tensors, device=CPU, size=0, dtype=set())

    given = [
        primitives.LoraStateDictWithStrength(
            state({key.replace("diffusion_model.", ""): value for key, value in one.source.tensors.items()}),  # type: ignore[attr-defined]
            one.strength,
        )
        for one in loras
    ]
    model = state({f"{LAYER}.weight": source.tensors[WEIGHT].clone()})
    made: Tensor = apply_loras(model_sd=model, lora_sd_and_strengths=given, dtype=dtype).sd[f"{LAYER}.weight"]
    return made


@pytest.mark.parametrize("strengths", [(0.5,), (-0.7, 1.0, 0.3)])
@pytest.mark.parametrize("factors", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kept", [torch.bfloat16, FP8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_fused_weight_has_the_bits_of_the_official_function(
    strengths: tuple[float, ...], factors: torch.dtype, kept: torch.dtype, dtype: torch.dtype
) -> None:
    if kept == FP8 and dtype == torch.float32:
        pytest.skip("such a run is refused")
    loras = [lora(strength, seed, factors) for seed, strength in enumerate(strengths, 1)]
    ours = fused(loras, checkpoint(kept), dtype)[WEIGHT]
    theirs = official(loras, checkpoint(kept), None if kept == FP8 else dtype)
    assert ours.dtype == theirs.dtype and torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


def test_a_sum_of_whole_numbers_by_hand() -> None:
    a, b = torch.tensor([[1.0, 2.0]]).bfloat16(), torch.tensor([[3.0], [-1.0], [0.0]]).bfloat16()
    source = Tensors(**{WEIGHT: torch.ones(3, 2).bfloat16()})
    keys = {f"{LAYER}.lora_A.weight": a, f"{LAYER}.lora_B.weight": b}
    one = LoraSource(name="x", source=Tensors(**keys), strength=2.0)
    made = FusedWeights(source, [one], torch.bfloat16, accumulated=False).read([WEIGHT], CPU)[WEIGHT]
    assert made.tolist() == [[7.0, 13.0], [-1.0, -3.0], [1.0, 1.0]]


def test_what_no_lora_matches_stays_and_files_without_strength_are_not_read() -> None:
    source, silent = checkpoint(), lora(0.0)
    tensors = fused([silent], source)
    assert torch.equal(tensors[WEIGHT], source.tensors[WEIGHT]) and torch.equal(tensors[BIAS], source.tensors[BIAS])
    assert silent.source.asked == []  # type: ignore[attr-defined]
    assert torch.equal(fused([lora(1.0)], source)[BIAS], source.tensors[BIAS])


def test_later_releases_accumulate_further_products_in_bf16() -> None:
    loras = [lora(-0.7, 1, torch.float32), lora(0.4, 2, torch.float32)]
    made = FusedWeights(checkpoint(), loras, torch.float32, accumulated=True).read([WEIGHT], CPU)[WEIGHT]
    first, second = ([tensor.bfloat16() for tensor in one.source.tensors.values()] for one in loras)  # type: ignore[attr-defined]
    delta = torch.matmul(first[1] * -0.7, first[0]).addmm_(second[1], second[0], alpha=0.4)
    assert torch.equal(made, delta + checkpoint().tensors[WEIGHT]) and made.dtype == torch.bfloat16


def test_a_file_that_does_not_belong_to_the_model_is_refused() -> None:
    shapes = checkpoint().shapes
    assert factor_keys(lora(1.0), shapes).keys() == {WEIGHT}
    connector = "video_embeddings_connector.transformer_1d_blocks.0.attn1.to_q"
    for layer in ("transformer_blocks.9.attn1.to_q", connector):  # connectors take none
        with pytest.raises(CheckpointError, match=r"lora-1\.safetensors matches no weight of the transformer"):
            factor_keys(lora(1.0, layer=layer), shapes)
    with pytest.raises(CheckpointError, match=r"factors \(7, 3\) x \(3, 5\) for .*, which is \(7, 6\)"):
        factor_keys(lora(1.0), {WEIGHT: (7, 6)})
    twice = lora(1.0)
    tensors = twice.source.tensors  # type: ignore[attr-defined]
    tensors = {**tensors, f"{LAYER}.lora_A.weight": tensors[f"diffusion_model.{LAYER}.lora_A.weight"]}
    with pytest.raises(CheckpointError, match="one factor to the official loader"):
        factor_keys(LoraSource(name="x", source=Tensors(**tensors), strength=1.0), shapes)
    with pytest.raises(CheckpointError, match=r"kept in torch\.float16"):
        fused([lora(1.0)], checkpoint(torch.float16))
    mixed = lora(1.0)
    mixed.source.tensors[f"diffusion_model.{LAYER}.lora_A.weight"] = torch.ones(RANK, IN)  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="differ in their dtype"):
        fused([mixed], checkpoint())
