"""Products: joined layers, what becomes of the model's own, and fp8."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from runners.ltx23.fast.fp8 import Fp8Product
from runners.ltx23.fast.products import LARGE, PlainProduct, joined, linear_of, maker


def layers() -> list[nn.Linear]:
    torch.manual_seed(3)
    return [nn.Linear(16, width).requires_grad_(False) for width in (32, 48, 16)]


def test_joined_layers_give_their_outputs_one_after_the_other() -> None:
    parts, x = layers(), torch.randn(2, 5, 16)
    expected = torch.cat([part(x) for part in parts], dim=-1)
    product = joined(parts)
    torch.testing.assert_close(product(x), expected)
    torch.testing.assert_close(torch.cat([part(x) for part in parts], dim=-1), expected)


def test_nothing_is_held_twice_and_joining_again_is_free() -> None:
    parts = layers()
    first = joined(parts)
    storage = first.weight.untyped_storage().data_ptr()
    assert {part.weight.untyped_storage().data_ptr() for part in parts} == {storage}
    again = joined(parts)
    assert again.weight.data_ptr() == first.weight.data_ptr() and torch.equal(again.weight, first.weight)
    assert again.bias.data_ptr() == first.bias.data_ptr() and torch.equal(again.bias, first.bias)
    swapped = joined(parts[::-1])  # not side by side in this order
    assert torch.equal(swapped.weight[:16], parts[2].weight)


@pytest.mark.parametrize("keep", [True, False])
def test_named_products_are_in_fp8(keep: bool) -> None:
    parts = layers()
    make = maker(frozenset({"video/self/qkv"}), keep=keep)
    assert isinstance(make("video/self/out", parts), PlainProduct)
    weight = parts[0].weight.clone()
    product = make("video/self/qkv", parts)
    assert isinstance(product, Fp8Product) and product.weight.dtype == torch.float8_e4m3fn
    assert torch.equal(parts[0].weight, weight) if keep else parts[0].weight.numel() == 0


def test_an_fp8_product_is_the_product_of_rounded_factors() -> None:
    part, x = layers()[1], torch.randn(2, 3, 16)
    product = Fp8Product.of(part.weight, part.bias)

    def rounded(rows: torch.Tensor) -> torch.Tensor:
        scale = rows.abs().amax(dim=-1, keepdim=True) / 448
        return (rows / scale).to(torch.float8_e4m3fn).double() * scale

    expected = rounded(x.flatten(0, 1)) @ rounded(part.weight).t() + part.bias
    torch.testing.assert_close(product(x).flatten(0, 1).double(), expected, rtol=1e-5, atol=1e-5)
    plain = part(x)
    assert 0 < (product(x) - plain).norm() / plain.norm() < 0.05
    torch.testing.assert_close(product.gelu(x), F.gelu(product(x), approximate="tanh"))
    gelu_first = product(F.gelu(x, approximate="tanh"))
    torch.testing.assert_close(product.of_gelu(x), gelu_first, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [72, 216, 288, 6144])
@pytest.mark.parametrize(("width", "columns"), [(512, 1536), (512, 192), (512, 2048), (2048, 512)])
def test_an_fp8_product_on_tensor_cores_is_that_of_a_cpu(tokens: int, width: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(tokens + width + columns)
    x, weight, bias = (
        torch.randn(shape, generator=generator).bfloat16() for shape in ((tokens, width), (columns, width), (columns,))
    )
    expected = Fp8Product.of(weight, bias)(x).float()
    found = Fp8Product.of(weight.cuda(), bias.cuda())(x.cuda()).cpu().float()
    assert (found - expected).norm() / expected.norm() < 0.01  # a token or channel scaled wrongly is beyond it


def test_the_names_are_those_of_large_products() -> None:
    assert len(set(LARGE)) == 9
    module = nn.Sequential(nn.Identity(), nn.Linear(2, 3))
    assert linear_of(module, "1") is module[1]
