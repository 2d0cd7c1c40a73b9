"""Inputs that a stage needs from the batch are there, or named."""

import pytest
import torch

from runners.errors import ParityError, StageInputError
from runners.ltx23.stages.batch import needed


def test_a_tensor_is_itself_and_a_list_its_first_element() -> None:
    x, y = torch.ones(2), torch.zeros(3)
    assert needed(x, "SomeStage", "prompt_embeds") is x
    assert needed([y, x], "SomeStage", "prompt_embeds") is y


@pytest.mark.parametrize("absent", [None, []], ids=str)
def test_what_is_missing_is_named_with_its_stage(absent: list[torch.Tensor] | None) -> None:
    with pytest.raises(StageInputError, match="SomeStage needs prompt_embeds, which is missing") as caught:
        needed(absent, "SomeStage", "prompt_embeds")
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, ParityError)
