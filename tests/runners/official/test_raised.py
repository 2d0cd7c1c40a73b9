"""Weights in another dtype for a while are afterwards the very tensors of before, whatever happened."""

import pytest
import torch
from torch import nn

from runners.official.raised import raised


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2, dtype=torch.bfloat16)
        self.again = self.linear  # shared by two names
        self.register_buffer("scale", torch.tensor([1.5], dtype=torch.bfloat16))
        self.register_buffer("count", torch.tensor([7]))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("inference", [False, True])
def test_weights_are_raised_inside_and_the_same_again_afterwards(fails: bool, inference: bool) -> None:
    with torch.inference_mode(inference):
        part = Part()
        heard: list[torch.dtype] = []
        part.linear.register_forward_hook(lambda _module, _inputs, output: heard.append(output.dtype))
        before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in part.state_dict().items()}
        try:
            with raised(torch.float64, part, part.linear):
                assert {tensor.dtype for tensor in part.state_dict().values()} == {torch.float64, torch.int64}
                found = part.linear(torch.ones(3, dtype=torch.float64))
                assert heard == [torch.float64]
                weight, bias = (before[f"linear.{name}"][1].double() for name in ("weight", "bias"))
                torch.testing.assert_close(found, weight.sum(dim=1) + bias)
                if fails:
                    raise RuntimeError("out of memory")
        except RuntimeError:
            assert fails
        for name, tensor in part.state_dict().items():
            place, was = before[name]
            assert tensor.data_ptr() == place and tensor.dtype == was.dtype and torch.equal(tensor, was)
