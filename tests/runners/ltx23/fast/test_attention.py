"""Attention of the fast tier: what it refuses, and tokens that lie oddly. The whole model is held to the exact tier."""

import pytest
import torch
from torch.nn import functional as F

from runners.errors import ConfigError
from runners.ltx23.attention import Attention
from runners.ltx23.fast.attention import attend, eps_of


def test_norms_of_two_epsilons_are_refused_since_one_pass_norms_both() -> None:
    with torch.device("meta"):
        layer = Attention(query_width=20, context_width=28, heads=3, head_width=8, norm_eps=1e-6, gated=True)
    assert eps_of(layer) == 1e-6
    layer.k_norm.eps = 1e-5
    with pytest.raises(ConfigError, match="epsilons 1e-06 and 1e-05; this tier norms both with one"):
        eps_of(layer)


@pytest.mark.parametrize(("gates", "copied"), [(4, True), (8, False)])
def test_attention_is_given_tokens_a_multiple_of_16_bytes_apart(
    gates: int, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, width = 2, 48
    joined = torch.randn(3, 5, 3 * width + gates).bfloat16()
    given: list[torch.Tensor] = []

    def kernel(*parts: torch.Tensor) -> torch.Tensor:
        given.extend(parts)
        return parts[0]

    monkeypatch.setattr(F, "scaled_dot_product_attention", kernel)
    queries, keys, values = joined[..., : 3 * width].chunk(3, dim=-1)
    attend(queries, keys, values, heads)
    assert [part.shape for part in given] == [(3, heads, 5, width // heads)] * 3
    assert all(part.stride(2) * part.element_size() % 16 == 0 for part in given)
    inside = joined.untyped_storage().data_ptr()
    assert [part.untyped_storage().data_ptr() != inside for part in given] == [copied] * 3


@pytest.mark.gpu
@pytest.mark.parametrize("gates", [0, 1, 4, 8])
@pytest.mark.parametrize("tokens", [10, 72, 1536])
def test_attention_on_a_gpu_is_that_of_a_cpu_however_many_columns_of_gates_lie_between_tokens(
    gates: int, tokens: int
) -> None:
    heads, width = 4, 192
    generator = torch.Generator().manual_seed(gates + tokens)
    joined = torch.randn((3, tokens, 3 * width + gates), generator=generator).bfloat16()

    def attended(tokens: torch.Tensor) -> torch.Tensor:
        queries, keys, values = tokens[..., : 3 * width].chunk(3, dim=-1)
        return attend(queries, keys, values, heads).cpu().double()

    expected, found = attended(joined.double()), attended(joined.cuda())
    assert (found - expected).norm() / expected.norm() < 0.01
