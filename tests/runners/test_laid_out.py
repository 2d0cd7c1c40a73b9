"""A module laid out has the shapes of one that is made, and whatever is not on the meta device is drawn as ever."""

import torch
from torch import nn
from torch.nn import init
from transformers import Gemma3TextConfig, Gemma3TextModel
from transformers.modeling_utils import PreTrainedModel

from runners.laid_out import laid_out

GEMMA = Gemma3TextConfig(
    vocab_size=11,
    hidden_size=6,
    intermediate_size=7,
    num_hidden_layers=2,
    num_attention_heads=3,
    num_key_value_heads=1,
    head_dim=4,
    pad_token_id=0,
)


def make() -> nn.ModuleList:
    return nn.ModuleList([nn.Linear(3, 5), nn.Conv1d(2, 7, 4), nn.Embedding(6, 8), Gemma3TextModel(GEMMA)])


def test_a_module_laid_out_has_shapes_and_no_number_and_nothing_was_drawn() -> None:
    shapes = {name: value.shape for name, value in make().state_dict().items()}
    drawn = list[object]()

    class Hearing(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if getattr(function, "__name__", "").endswith(("uniform_", "normal_")):
                drawn.append(function)
            return function(*args, **(kwargs or {}))

    with Hearing(), laid_out():
        laid = make()
    assert {name: value.shape for name, value in laid.state_dict().items()} == shapes and drawn == []
    assert {value.device.type for value in laid.state_dict().values()} == {"meta"}


def test_elsewhere_numbers_are_drawn_and_afterwards_all_functions_are_back() -> None:
    before = init.uniform_, init.kaiming_uniform_, PreTrainedModel.initialize_weights
    with torch.device("cpu"):
        expected = make().state_dict()
    torch.manual_seed(0)  # as `same_draws` does
    with laid_out(), torch.device("cpu"):
        found = make().state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert (init.uniform_, init.kaiming_uniform_, PreTrainedModel.initialize_weights) == before
