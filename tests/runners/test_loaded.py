"""A sample of the checkpoint, looked for by value in what an engine has loaded."""

import torch
from torch import Tensor, nn

from runners.loaded import SAMPLED, look_for, others


class Source:
    """Three parameters as a checkpoint holds them."""

    def __init__(self) -> None:
        self.tensors = {
            "a.q": torch.arange(6.0).reshape(2, 3),
            "a.k": torch.arange(6.0, 18.0).reshape(4, 3),
            "a.bias": torch.tensor([0.5, 0.25, 2.0]),
        }

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(value.shape) for name, value in self.tensors.items()}

    def read(self, names: list[str], device: torch.device) -> dict[str, Tensor]:
        return {name: self.tensors[name].to(device) for name in names}


class Engine(nn.Module):
    """The same, renamed, in bf16, two of them fused."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        fused = torch.cat([source.tensors["a.q"], source.tensors["a.k"]])
        self.qk = nn.Parameter(fused.bfloat16())
        self.register_buffer("shift", source.tensors["a.bias"].bfloat16())


def test_values_are_found_under_other_names_in_another_dtype_and_in_fused_parameters() -> None:
    source = Source()
    found = look_for(Engine(source), source, list(source.tensors))
    assert (found.sampled, found.missing) == (3, ())
    assert others({"transformer": found}) == []


def test_a_component_filled_from_elsewhere_is_named() -> None:
    source = Source()
    engine = Engine(source)
    with torch.no_grad():
        engine.qk[3] += 1  # a row of a.k
    found = look_for(engine, source, list(source.tensors))
    assert found.missing == ("a.k",)
    assert others({"vocoder": found}) == [
        "vocoder holds other values than the checkpoint for 1 of 3 tensors looked for, such as a.k"
    ]


def test_of_many_tensors_a_few_are_looked_for_over_the_whole_range() -> None:
    source = Source()
    source.tensors = {f"{index:03d}": torch.tensor([float(index), 1.0]) for index in range(100)}
    found = look_for(nn.Module(), source, list(source.tensors))
    assert found.sampled <= SAMPLED
    assert (found.missing[0], found.missing[-1] > "085") == ("000", True)
