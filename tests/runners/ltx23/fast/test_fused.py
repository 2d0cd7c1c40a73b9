"""The fused operations against values worked by hand."""

import math

import pytest
import torch
from torch import Tensor

from runners.errors import ConfigError, ShapeError
from runners.ltx23.fast import fused
from runners.ltx23.fast.fused import Prepare, Rows, TokenRotary
from runners.ltx23.rotary import InterleavedRotary, SplitRotary

# Two tokens of two channels: root mean squares 5 / sqrt(2) and sqrt(2).
X = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
NORMED = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]]) / torch.tensor([5 / math.sqrt(2), math.sqrt(2)])[None, :, None]
ROWS = Rows(scale=torch.tensor([[0.0, 1.0], [9.0, -1.0]]), shift=torch.tensor([[0.5, 0.0], [0.0, 2.0]]))
ROW = torch.tensor([0, 1], dtype=torch.int32)


def prepare(like: Tensor = X) -> Prepare:
    return Prepare(rows=ROWS, row=ROW, out=torch.full_like(like, torch.nan))


def expected(normed: Tensor) -> Tensor:
    factors, shifts = torch.tensor([[[1.0, 2.0], [10.0, 0.0]]]), torch.tensor([[[0.5, 0.0], [0.0, 2.0]]])
    return normed * factors + shifts


def test_norm_modulate_takes_the_row_of_the_token() -> None:
    torch.testing.assert_close(fused.norm_modulate(X, prepare(), 0.0), expected(NORMED))


def test_modulate_leaves_out_the_norm_alone() -> None:
    assert torch.equal(fused.modulate(X, prepare()), expected(X))


def test_epsilon_is_added_to_the_mean_square() -> None:
    zero = torch.zeros(1, 2, 2)
    assert torch.isfinite(fused.norm_modulate(zero, prepare(), 1e-6)).all()
    found = fused.norm_modulate(X, prepare(), 12.5)  # token 0: mean square 12.5, and as much again
    torch.testing.assert_close(found[0, 0], torch.tensor([3 / 5 + 0.5, 2 * 4 / 5]))


def test_add_branch_gates_by_level_and_prepares_from_the_sum() -> None:
    stream, one = torch.zeros(1, 2, 2), prepare()
    branch = torch.tensor([[[1.5, 2.0], [7.0, 1.0]]])
    gate = torch.tensor([[2.0, 2.0], [0.0, 2.0]])
    assert fused.add_branch_(stream, branch, gate, ROW, (one,), 0.0) is stream
    assert torch.equal(stream, X)
    torch.testing.assert_close(one.out, expected(NORMED))


def test_the_stream_is_not_rounded_to_the_branch() -> None:
    stream = torch.tensor([[[256.0]]])
    branch = torch.tensor([[[1.0]]], dtype=torch.bfloat16)  # bf16 has no 257
    fused.add_branch_(stream, branch, torch.ones(1, 1), torch.zeros(1, dtype=torch.int32), (), 0.0)
    assert stream.item() == 257.0


def test_norm_rotate_turns_pairs_of_halves_of_each_head() -> None:
    """Two heads of four channels; head 0 is turned by 90 degrees in its first pair, head 1 not at all."""
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]]])
    rms = math.sqrt(204 / 8)
    rotary = TokenRotary(torch.tensor([[0.0, 1.0, 1.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]]), 2)
    weight = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5])
    found = fused.norm_rotate_(x, (weight,), rotary, 0.0)
    assert found is x
    torch.testing.assert_close(found * rms, torch.tensor([[[-3.0, 2.0, 1.0, 4.0, 5.0, 6.0, 7.0, 4.0]]]))


def test_parts_side_by_side_have_norms_of_their_own() -> None:
    x = torch.tensor([[[3.0, 4.0, 0.0, 2.0, 77.0]]])
    fused.norm_rotate_(x[..., :4], (torch.ones(2), torch.tensor([1.0, 3.0])), None, 0.0)
    wanted = [3 * math.sqrt(2) / 5, 4 * math.sqrt(2) / 5, 0.0, 3 * math.sqrt(2), 77.0]
    torch.testing.assert_close(x, torch.tensor([[wanted]]))


def test_gates_scale_heads_by_twice_their_sigmoid() -> None:
    attended = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    found = fused.gate_heads_(attended, torch.tensor([[[0.0, math.log(3.0)]]]))  # sigmoids 1/2 and 3/4
    torch.testing.assert_close(found, torch.tensor([[[1.0, 2.0, 4.5, 6.0]]]))


def test_rows_are_quantized_by_their_own_scale() -> None:
    x = torch.tensor([[448.0, -224.0, 0.0], [1.0, -0.5, 0.25], [0.0, 0.0, 0.0]])
    values, scale = fused.quantize_rows(x, gelu=False)
    assert values.dtype == torch.float8_e4m3fn and scale.shape == (3, 1)
    assert scale[:2].flatten().tolist() == pytest.approx([1.0, 1 / 448])
    assert torch.equal(values.float() * scale, x)  # halves and quarters of the largest value are exact
    assert torch.isfinite(values.float()).all()


def test_gelu_comes_before_the_scale() -> None:
    x = torch.tensor([[3.0, -3.0, 1.0]])
    values, scale = fused.quantize_rows(x, gelu=True)
    # x Phi(x) of the tanh approximation, to four digits (Hendrycks and Gimpel, arXiv:1606.08415)
    assert scale.item() * 448 == pytest.approx(2.9964, abs=1e-4)
    torch.testing.assert_close(values.float() * scale, torch.tensor([[2.9964, -0.0036, 0.8412]]), rtol=0.07, atol=1e-4)


def test_rotary_is_laid_out_token_by_token() -> None:
    cos = torch.arange(12.0).reshape(1, 2, 3, 2)  # (B, H, T, D/2H)
    laid_out = TokenRotary.of(SplitRotary(cos, cos + 100, -cos - 100))
    assert laid_out.heads == 2
    assert laid_out.cos.tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    assert torch.equal(laid_out.sin, laid_out.cos + 100)


def test_interleaved_pairs_are_refused() -> None:
    table = torch.zeros(1, 3, 4)
    with pytest.raises(ConfigError, match="--tier exact"):
        TokenRotary.of(InterleavedRotary(table, table))


def test_a_stream_that_no_program_can_hold_is_refused() -> None:
    with pytest.raises(ShapeError, match="at most 16384 channels"):
        fused.gate_heads_(torch.zeros(1, 1, 1 << 15), torch.zeros(1, 1, 8))
