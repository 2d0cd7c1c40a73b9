"""Attention: what its mask, gate and value pass-through do, worked by hand."""

import pytest
import torch
from torch import Tensor, nn

from runners.ltx23.attention import Attention
from runners.ltx23.rotary import SplitRotary

QUERY_WIDTH, CONTEXT_WIDTH, HEADS, HEAD_WIDTH = 5, 7, 2, 4


def attention(*, gated: bool, context_width: int = CONTEXT_WIDTH) -> Attention:
    torch.manual_seed(2)
    return Attention(
        query_width=QUERY_WIDTH,
        context_width=context_width,
        heads=HEADS,
        head_width=HEAD_WIDTH,
        norm_eps=1e-6,
        gated=gated,
    )


def by_hand(model: Attention, x: Tensor, context: Tensor) -> Tensor:
    """Softmax attention in float64, one head at a time."""

    def normed(y: Tensor) -> Tensor:  # over all heads together
        return y / (y.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()

    def linear(layer: nn.Module, y: Tensor) -> Tensor:
        assert isinstance(layer, nn.Linear)
        return y @ layer.weight.double().T + layer.bias.double()

    queries, keys = normed(linear(model.to_q, x.double())), normed(linear(model.to_k, context.double()))
    values = linear(model.to_v, context.double())
    heads = []
    for head in range(HEADS):
        own = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
        weights = (queries[..., own] @ keys[..., own].transpose(1, 2) / HEAD_WIDTH**0.5).softmax(dim=-1)
        heads.append(weights @ values[..., own])
    return linear(model.to_out[0], torch.cat(heads, dim=-1))


def test_attention_is_softmax_over_keys_normed_across_all_heads() -> None:
    model = attention(gated=False)
    x, context = torch.randn(2, 3, QUERY_WIDTH), torch.randn(2, 6, CONTEXT_WIDTH)
    torch.testing.assert_close(model(x, context).double(), by_hand(model, x, context), rtol=1e-5, atol=1e-5)


def test_a_gate_of_zero_logits_changes_nothing_and_one_far_below_closes_its_head() -> None:
    plain, gated = attention(gated=False), attention(gated=True)
    assert gated.to_gate_logits is not None
    gated.load_state_dict(plain.state_dict(), strict=False)
    x, context = torch.randn(1, 3, QUERY_WIDTH), torch.randn(1, 6, CONTEXT_WIDTH)
    gated.to_gate_logits.weight.data.zero_()
    gated.to_gate_logits.bias.data.zero_()
    assert torch.equal(gated(x, context), plain(x, context))
    gated.to_gate_logits.bias.data[:] = torch.tensor([-1e4, 0.0])  # sigmoid underflows to 0 for the first head
    plain.to_v.weight.data[:HEAD_WIDTH] = 0.0
    plain.to_v.bias.data[:HEAD_WIDTH] = 0.0
    torch.testing.assert_close(gated(x, context), plain(x, context))


def test_a_masked_key_is_not_seen() -> None:
    model = attention(gated=False)
    x, context = torch.randn(1, 3, QUERY_WIDTH), torch.randn(1, 6, CONTEXT_WIDTH)
    mask = torch.zeros(1, 1, 1, 6)
    mask[..., 4:] = torch.finfo(torch.float32).min
    torch.testing.assert_close(model(x, context, mask=mask), model(x, context[:, :4]))


def test_values_only_sees_no_other_token_and_needs_no_queries() -> None:
    model = attention(gated=False, context_width=QUERY_WIDTH)
    del model.to_q
    x = torch.randn(1, 3, QUERY_WIDTH)
    passed = model(x, x, values_only=True)
    torch.testing.assert_close(passed, model.to_out(model.to_v(x)))
    torch.testing.assert_close(model(x[:, :1], x[:, :1], values_only=True), passed[:, :1])
    with pytest.raises(AttributeError, match="to_q"):
        model(x, x)


@pytest.mark.parametrize("side", ["query_rotary", "key_rotary"])
def test_each_side_is_turned_by_its_own_table(side: str) -> None:
    """Turning queries by a quarter is the same as turning keys a quarter back, and not the same as neither."""
    model = attention(gated=False)
    x, context = torch.randn(1, 3, QUERY_WIDTH), torch.randn(1, 3, CONTEXT_WIDTH)
    zeros, ones = torch.zeros(1, HEADS, 3, 2), torch.ones(1, HEADS, 3, 2)
    forward, back = SplitRotary(zeros, ones, -ones), SplitRotary(zeros, -ones, ones)
    one, other = (forward, back) if side == "query_rotary" else (back, forward)
    only_queries, only_keys = model(x, context, query_rotary=one), model(x, context, key_rotary=other)
    torch.testing.assert_close(only_queries, only_keys)
    torch.testing.assert_close(model(x, context, query_rotary=one, key_rotary=one), model(x, context))
    assert not torch.allclose(only_queries, model(x, context), atol=1e-4)
