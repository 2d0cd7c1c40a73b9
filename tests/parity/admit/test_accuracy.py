"""The accuracy of one operation, on numbers worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from parity.admit.accuracy import SpecialValues, accuracy_of, special_values

EXACT = torch.tensor([[3.0, 4.0]], dtype=torch.float64)  # norm 5
OFFICIAL = torch.tensor([[3.0, 4.5]])


def test_errors_ratio_bias_and_worst_element_by_hand() -> None:
    found = accuracy_of("x", EXACT, OFFICIAL, torch.tensor([[3.0, 3.0]]))
    assert found.elements == 2
    assert found.official == pytest.approx(0.1) and found.candidate == pytest.approx(0.2)
    assert found.ratio == pytest.approx(2.0)
    # errors 0 and 0.5, 0 and -1: mean over root mean square, 0.25 / (0.5 / sqrt 2) and the like
    assert found.official_bias == pytest.approx(math.sqrt(0.5)) and found.bias == pytest.approx(-math.sqrt(0.5))
    assert found.worst is not None
    assert (found.worst.index, found.worst.exact, found.worst.official, found.worst.candidate) == ((0, 1), 4, 4.5, 3)
    assert not found.note


def test_a_shift_is_all_bias_and_a_swing_none() -> None:
    exact = torch.arange(1.0, 7.0, dtype=torch.float64).view(2, 3)
    shifted = accuracy_of("x", exact, exact + 0.5, exact - 0.25)
    assert (shifted.official_bias, shifted.bias) == (pytest.approx(1.0), pytest.approx(-1.0))
    swing = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]], dtype=torch.float64)
    assert accuracy_of("x", exact, exact + swing, exact - swing).bias == pytest.approx(0.0)


def test_the_bias_of_few_elements_by_chance_is_three_standard_deviations() -> None:
    few = torch.ones(9, dtype=torch.float64)
    assert accuracy_of("x", few, few, few).bias_by_chance == pytest.approx(1.0)


def test_equal_bits_have_ratio_one_and_an_exact_official_result_makes_any_error_infinite() -> None:
    equal = accuracy_of("x", EXACT, OFFICIAL, OFFICIAL)
    assert equal.ratio == 1.0 and equal.worst is None
    exactly = accuracy_of("x", EXACT, EXACT.float(), EXACT.float())
    assert exactly.ratio == 1.0 and exactly.bias == 0.0
    assert accuracy_of("x", EXACT, EXACT.float(), OFFICIAL).ratio == math.inf
    zeros = torch.zeros(1, 2, dtype=torch.float64)
    assert accuracy_of("x", zeros, zeros.float(), OFFICIAL).candidate == math.inf


@pytest.mark.parametrize(
    ("exact", "official", "candidate", "note"),
    [
        (EXACT, OFFICIAL, torch.tensor([[3.0, math.nan]]), "the candidate holds values that are not finite"),
        (EXACT, torch.tensor([[math.inf, 4.0]]), OFFICIAL, "the official code holds"),
        (EXACT * math.nan, OFFICIAL, OFFICIAL, "the official code in float64 holds"),
        (EXACT, OFFICIAL, OFFICIAL.T, r"have shapes (1, 2), (1, 2), (2, 1)"),
        (EXACT[:, :0], OFFICIAL[:, :0], OFFICIAL[:, :0], "there is no element"),
    ],
)
def test_what_cannot_be_computed_is_nan_and_says_why(
    exact: Tensor, official: Tensor, candidate: Tensor, note: str
) -> None:
    found = accuracy_of("x", exact, official, candidate)
    assert note in found.note
    assert math.isnan(found.ratio) and math.isnan(found.bias) and math.isnan(found.candidate)


def test_float64_is_wanted_of_the_exact_side() -> None:
    with pytest.raises(TypeError, match="x: the exact result is torch"):
        accuracy_of("x", OFFICIAL, OFFICIAL, OFFICIAL)


def test_special_values_are_counted_where_the_two_differ() -> None:
    tiny = torch.finfo(torch.bfloat16).tiny / 4  # subnormal
    official = torch.tensor([math.nan, math.nan, math.inf, math.inf, 0.0, -0.0, tiny, tiny, 1.0], dtype=torch.bfloat16)
    candidate = torch.tensor([math.nan, 1.0, math.inf, -math.inf, -0.0, -0.0, 0.0, tiny, 1.0], dtype=torch.bfloat16)
    found = special_values(official, candidate)
    assert found == SpecialValues(nan=1, infinite=1, signed_zero=1, subnormal=1)
    assert found.spoilt == 2
