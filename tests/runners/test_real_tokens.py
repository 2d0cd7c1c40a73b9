"""The prompt without its padding, by hand."""

import subprocess
import sys

import pytest
import torch

from runners.errors import ShapeError
from runners.real_tokens import real_tokens, with_real_tokens, without_left_padding

HIDDEN = torch.arange(30).reshape(1, 5, 2, 3)  # (1, S, D, L)


@pytest.mark.parametrize(
    ("mask", "places"),
    [
        ([0, 0, 0, 1, 1], [3, 4]),  # padded on the left, as officially
        ([1, 1, 0, 0, 0], [0, 1]),  # on the right
        ([0, 1, 1, 1, 0], [1, 2, 3]),
        ([1, 1, 1, 1, 1], [0, 1, 2, 3, 4]),
        ([0, 0, 0, 0, 1], [4]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8], ids=str)
def test_the_tokens_that_the_mask_keeps_come_in_their_order(
    mask: list[int], places: list[int], dtype: torch.dtype
) -> None:
    given = torch.tensor([mask], dtype=dtype)
    found = real_tokens(HIDDEN, given)
    assert found.shape == (1, len(places), 2, 3) and found.is_contiguous()
    assert torch.equal(found, torch.stack([HIDDEN[:, place] for place in places], dim=1))
    wanted = HIDDEN.clone()
    for count, place in enumerate(places):
        wanted[0, place] = -count
    other = -torch.arange(len(places)).reshape(1, -1, 1, 1).expand(1, -1, 2, 3)
    before = HIDDEN.clone()
    assert torch.equal(with_real_tokens(HIDDEN, given, other), wanted) and torch.equal(HIDDEN, before)
    assert torch.equal(with_real_tokens(HIDDEN, given, found), HIDDEN)


def test_left_and_right_padding_and_another_window_give_the_same_tokens() -> None:
    left = torch.cat((torch.full((1, 3, 2), 7.0), torch.ones(1, 2, 2)), dim=1)
    right = torch.cat((torch.ones(1, 2, 2), torch.full((1, 6, 2), -torch.inf)), dim=1)
    found = real_tokens(left, torch.tensor([[0, 0, 0, 1, 1]])), real_tokens(right, torch.tensor([[1, 1] + [0] * 6]))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("hidden", "mask", "said"),
    [
        (torch.ones(1, 5, 2), torch.ones(1, 4, dtype=torch.int64), r"got \(1, 5, 2\) and \(1, 4\)"),
        (torch.ones(2, 5, 3), torch.ones(2, 5, dtype=torch.int64), r"takes one prompt.*got \(2, 5, 3\)"),
        (torch.ones(1, 5, 2), torch.ones(5, dtype=torch.int64), r"and \(5,\)"),
        (torch.ones(5), torch.ones(1, 5, dtype=torch.int64), r"got \(5,\)"),
        (torch.ones(1, 5, 2), torch.zeros(1, 5, dtype=torch.int64), "keeps none of 5 tokens"),
        (torch.ones(1, 0, 2), torch.ones(1, 0, dtype=torch.int64), "keeps none of 0 tokens"),
        (torch.ones(1, 5, 2), torch.tensor([[-1e9, -1e9, 0.0, 0.0, 0.0]]), "additive mask says the opposite"),
    ],
)
def test_a_mask_that_does_not_belong_to_the_prompt_is_refused(
    hidden: torch.Tensor, mask: torch.Tensor, said: str
) -> None:
    with pytest.raises(ShapeError, match=said):
        real_tokens(hidden, mask)


def test_other_tokens_than_the_mask_keeps_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"keeps tokens of shape \(1, 2, 3\); got \(1, 3, 3\)"):
        with_real_tokens(torch.ones(1, 5, 3), torch.tensor([[0, 0, 0, 1, 1]]), torch.ones(1, 3, 3))


def test_an_engines_own_interpreter_needs_torch_alone_for_it() -> None:
    program = "import sys, runners.real_tokens; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded and not {"parity", "transformers", "safetensors", "msgspec", "einops"} & set(loaded)


def test_a_window_padded_on_the_left_is_cut_to_its_prompt_and_nothing_else_is_touched() -> None:
    window = torch.arange(2 * 1024).reshape(1, 1024, 2)
    tokens = {"text/pos/hidden": 3, "text/neg/hidden": 1024}
    assert without_left_padding("text/pos/hidden", window, tokens).tolist() == [
        [[2042, 2043], [2044, 2045], [2046, 2047]]
    ]
    assert without_left_padding("text/neg/hidden", window, tokens) is window  # a prompt that fills it
    assert without_left_padding("connector/pos/video", window, tokens) is window
    for count in (2, 4, 1023):  # a token too few or too many stays one: that is for the comparison to say
        other = window[:, :count]
        assert without_left_padding("text/pos/hidden", other, tokens) is other
