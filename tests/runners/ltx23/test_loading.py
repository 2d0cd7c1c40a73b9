"""Loading components: the checkpoint's names, and the first ten of whatever does not fit."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from runners.errors import CheckpointError
from runners.ltx23.loading import checkpoint_name, expected_shapes, load, verify

CPU = torch.device("cpu")
PREFIXES = {"": "net.", "inner.": "elsewhere.deep."}


class Made:
    """A tensor source in memory."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def read(self, names: list[str], device: torch.device) -> dict[str, Tensor]:
        return {name: self.tensors[name].to(device) for name in names}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.outer = nn.Linear(3, 2)
        self.inner = nn.Linear(2, 5, bias=False)
        self.register_buffer("scale", torch.zeros(4))


def source() -> Made:
    generator = torch.Generator().manual_seed(0)
    shapes = {"net.outer.weight": (2, 3), "net.outer.bias": (2,), "net.scale": (4,), "elsewhere.deep.weight": (5, 2)}
    return Made({name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()})


def skeleton() -> Net:
    with torch.device("meta"):
        return Net()


def test_the_longest_prefix_says_where_a_key_is() -> None:
    assert checkpoint_name(PREFIXES, "outer.weight") == "net.outer.weight"
    assert checkpoint_name(PREFIXES, "inner.weight") == "elsewhere.deep.weight"
    assert expected_shapes(skeleton(), PREFIXES) == source().shapes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_module_gets_its_weights_ready_for_inference(dtype: torch.dtype) -> None:
    made = source()
    module: Any = load(skeleton(), PREFIXES, made, CPU, dtype)
    assert torch.equal(module.inner.weight, made.tensors["elsewhere.deep.weight"].to(dtype))
    assert torch.equal(module.scale, made.tensors["net.scale"].to(dtype))
    assert not module.training
    for value in module.state_dict().values():
        assert value.dtype == dtype and value.device == CPU
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_missing_tensors_and_other_shapes_are_named_when_loading() -> None:
    made = source()
    made.tensors["net.outer.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError, match=r"outer.bias is \(7,\); its configuration says \(2,\)"):
        load(skeleton(), PREFIXES, made, CPU, torch.float32)
    del made.shapes["net.scale"]
    with pytest.raises(CheckpointError, match=r"1 tensors are missing: net.scale"):
        load(skeleton(), PREFIXES, made, CPU, torch.float32)


def test_all_that_fits_passes_and_parts_that_nothing_reads_may_be_there() -> None:
    made = source()
    wanted = dict(made.shapes)
    made.shapes["audio_vae.encoder.conv_in.weight"] = (1,)
    verify(wanted, made, "the checkpoint")


def test_the_first_ten_of_every_kind_are_named() -> None:
    wanted = {f"a.{i:02d}": (2, 3) for i in range(12)} | {"same": (1,)} | {f"s.{i}": (1,) for i in range(2)}
    made = Made({"same": torch.zeros(1), "extra": torch.zeros(1), "s.0": torch.zeros(4), "s.1": torch.zeros(1)})
    with pytest.raises(CheckpointError) as caught:
        verify(wanted, made, "the checkpoint")
    sentence = str(caught.value)
    assert sentence.startswith("The tensors of the checkpoint do not fit its configuration: 12 missing: a.00, a.01")
    assert "a.09 and 2 more; 1 unknown: extra; 1 of another shape: s.0 is (4,) instead of (1,)." in sentence
    assert "a.10" not in sentence
