"""The CUDA kernels of the fused operations against their torch forms.

With Triton 3.6 installed, TRITON_INTERPRET=1 makes the CPU run these tests too; its interpreter truncates to bf16.
"""

import os

import pytest
import torch
from torch import Tensor

from runners.errors import ShapeError
from runners.ltx23.fast import fused
from runners.ltx23.fast.fused import Prepare, Rows, TokenRotary

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark: pytest.MarkDecorator | list[pytest.MarkDecorator] = [] if INTERPRETED else pytest.mark.gpu
DEVICE = "cpu" if INTERPRETED else "cuda"
EPS = 1e-6
LANES, TOKENS, LEVELS = 3, 5, 2
# Heads and pairs a head: widths that are powers of two and such that are not.
SIZES = [(4, 6), (32, 64), (7, 10)]
# The largest error in units of the largest value: fp32 sums in another order, or a rounding that falls the other way.
WITHIN = {torch.float32: 2e-6, torch.bfloat16: 2**-6 if INTERPRETED else 2**-7}
DTYPES = list(WITHIN)


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype).to(DEVICE)


def rows_of(width: int, levels: int = LEVELS) -> Rows:
    return Rows(scale=randn(levels, width), shift=randn(levels, width + 1)[:, 1:].contiguous())


def levels_of_tokens() -> Tensor:
    return torch.tensor([0, 1, 1, 0, 1], dtype=torch.int32, device=DEVICE)


def assert_near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    expected = expected.to(found.device).float()
    assert (found.float() - expected).abs().max() <= WITHIN[dtype] * expected.abs().max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "pairs"), SIZES)
@pytest.mark.parametrize("norm", [True, False])
def test_modulate(dtype: torch.dtype, heads: int, pairs: int, norm: bool) -> None:
    from runners.ltx23.fast import fused_triton

    width = heads * pairs * 2
    x, rows, row = randn(LANES, TOKENS, width, dtype=dtype), rows_of(width), levels_of_tokens()
    found, expected = torch.empty_like(x), torch.empty_like(x, device="cpu")
    fused_triton.modulate(x, Prepare(rows=rows, row=row, out=found), EPS, norm=norm)
    its = Prepare(rows=Rows(rows.scale.cpu(), rows.shift.cpu()), row=row.cpu(), out=expected)
    assert_near(found, fused.norm_modulate(x.cpu(), its, EPS) if norm else fused.modulate(x.cpu(), its), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "pairs"), SIZES)
@pytest.mark.parametrize("following", [0, 1, 2])
def test_add_branch(dtype: torch.dtype, heads: int, pairs: int, following: int) -> None:
    from runners.ltx23.fast import fused_triton

    width = heads * pairs * 2
    x, branch = randn(LANES, TOKENS, width), randn(LANES + 1, TOKENS, width, dtype=dtype)[:LANES]
    gate, row, zeros = randn(LEVELS, width), levels_of_tokens(), torch.zeros(TOKENS, dtype=torch.int32, device=DEVICE)
    after = [(rows_of(width), row), (rows_of(width, levels=1), zeros)][:following]
    prepare = tuple(Prepare(rows=rows, row=its, out=torch.empty_like(branch)) for rows, its in after)
    expected = tuple(
        Prepare(
            rows=Rows(rows.scale.cpu(), rows.shift.cpu()), row=its.cpu(), out=torch.empty_like(branch, device="cpu")
        )
        for rows, its in after
    )
    on_cpu = x.cpu().clone()
    fused.add_branch_(on_cpu, branch.cpu(), gate.cpu(), row.cpu(), expected, EPS)
    fused_triton.add_branch_(x, branch, gate, row, prepare, EPS)
    assert_near(x, on_cpu, torch.float32)
    for found, wanted in zip(prepare, expected, strict=True):
        assert_near(found.out, wanted.out, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "pairs"), SIZES)
@pytest.mark.parametrize("rotate", [True, False])
@pytest.mark.parametrize("parts", [1, 2])
def test_norm_rotate_touches_its_parts_of_a_joined_product_alone(
    dtype: torch.dtype, heads: int, pairs: int, rotate: bool, parts: int
) -> None:
    from runners.ltx23.fast import fused_triton

    width = heads * pairs * 2
    joined = randn(LANES, TOKENS, 4 * width, dtype=dtype)
    weights = (randn(width, dtype=dtype), randn(width + 1, dtype=dtype)[1:].contiguous())[:parts]
    tables = randn(TOKENS, width // 2, dtype=dtype), randn(TOKENS + 1, width // 2, dtype=dtype)[1:]
    rotary = TokenRotary(*tables, heads)
    on_cpu = joined.cpu().clone()
    own = slice(width, (1 + parts) * width)
    its = TokenRotary(rotary.cos.cpu(), rotary.sin.cpu(), heads) if rotate else None
    fused.norm_rotate_(on_cpu[..., own], tuple(weight.cpu() for weight in weights), its, EPS)
    before = joined.clone()
    fused_triton.norm_rotate_(joined[..., own], weights, rotary if rotate else None, EPS)
    assert_near(joined[..., own], on_cpu[..., own], dtype)
    for other in (slice(0, width), slice((1 + parts) * width, None)):
        assert torch.equal(joined[..., other], before[..., other])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "pairs"), SIZES)
def test_gate_heads(dtype: torch.dtype, heads: int, pairs: int) -> None:
    from runners.ltx23.fast import fused_triton

    width = heads * pairs * 2
    attended, product = randn(LANES, TOKENS, width, dtype=dtype), randn(LANES, TOKENS, width + heads, dtype=dtype)
    logits = product[..., width:]  # as one product leaves them
    expected = fused.gate_heads_(attended.cpu().clone(), logits.cpu())
    assert_near(fused_triton.gate_heads_(attended, logits), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [112, 512, 2048])
@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # of the interpreter
def test_quantize_rows(dtype: torch.dtype, width: int, gelu: bool) -> None:
    from runners.ltx23.fast import fused_triton

    x = randn(TOKENS, width, dtype=dtype)
    values, scale = fused_triton.quantize_rows(x, gelu=gelu)
    expected, its = fused.quantize_rows(x.cpu(), gelu=gelu)
    torch.testing.assert_close(scale.cpu(), its, rtol=1e-5, atol=0)
    assert values.dtype == torch.float8_e4m3fn
    if not INTERPRETED:  # which loses the carry of a rounding
        # A rounding may fall the other way: a step of e4m3, an eighth, or the smallest one, of numbers near zero.
        torch.testing.assert_close(values.float().cpu(), expected.float(), rtol=1 / 7, atol=2**-9)


def test_strided_tensors_are_refused() -> None:
    from runners.ltx23.fast import fused_triton

    x = randn(LANES, TOKENS, 32)[..., ::2]
    with pytest.raises(ShapeError, match="contiguous"):
        fused_triton.modulate(x, Prepare(rows=rows_of(16), row=levels_of_tokens(), out=x), EPS, norm=True)
    with pytest.raises(ShapeError, match="one stride"):
        fused_triton.norm_rotate_(x, (randn(16),), None, EPS)


@pytest.mark.skipif(INTERPRETED, reason="has no products on tensor cores")
def test_gelu_in_the_epilogue_is_the_gelu_of_the_layer() -> None:
    x, weight, bias = (randn(*shape, dtype=torch.bfloat16) for shape in ((LANES, TOKENS, 64), (256, 64), (256,)))
    found = fused.linear_gelu(x, weight, bias)
    assert_near(found, fused.linear_gelu(x.cpu(), weight.cpu(), bias.cpu()), torch.bfloat16)
