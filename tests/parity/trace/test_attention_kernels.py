"""What torch chose for attention is noted as it happens, and changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from parity.trace.attention_kernels import ATTENTION_KERNELS, kernel_differences, noting_attention_kernels

ATTEND = F.scaled_dot_product_attention


def heads(tokens: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 3, tokens, 16, generator=torch.Generator().manual_seed(tokens)).to(dtype)


@pytest.mark.parametrize(("backend", "name"), [(SDPBackend.MATH, "math"), (SDPBackend.FLASH_ATTENTION, "flash")])
def test_each_form_of_call_is_noted_with_the_kernel_that_was_allowed(backend: SDPBackend, name: str) -> None:
    query, key = heads(5), heads(7)
    mask = torch.zeros(5, 7)
    with sdpa_kernel([backend]):
        plain = ATTEND(query, key, key), ATTEND(query, key, key, attn_mask=mask, dropout_p=0.0, is_causal=False)
        with noting_attention_kernels() as chosen:
            noted = (
                F.scaled_dot_product_attention(query, key, key),
                F.scaled_dot_product_attention(query, key, key, attn_mask=mask, dropout_p=0.0, is_causal=False),
            )
            F.scaled_dot_product_attention(query=query, key=key, value=key)
    assert chosen == {
        "float32 (2, 3, 5, 16) x (2, 3, 7, 16)": name,
        "float32 (2, 3, 5, 16) x (2, 3, 7, 16), mask": name,
    }
    assert all(torch.equal(one, other) for one, other in zip(plain, noted, strict=True))


def test_torch_is_as_it_was_whatever_happens_inside() -> None:
    with pytest.raises(RuntimeError), noting_attention_kernels() as chosen:
        F.scaled_dot_product_attention(heads(5), heads(7)[..., :8], heads(7))
    assert chosen == {} and F.scaled_dot_product_attention is ATTEND


def test_compiled_code_is_left_alone() -> None:
    def attend(query: Tensor, key: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, key)

    with noting_attention_kernels() as chosen:
        compiled: Callable[..., Tensor] = torch.compile(attend, backend="eager", fullgraph=True)
        assert torch.equal(compiled(heads(5), heads(7)), ATTEND(heads(5), heads(7), heads(7)))
    assert chosen == {}


def test_a_tensor_that_torch_cannot_choose_for_goes_its_way() -> None:
    class Stranger(Tensor):
        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch._fused_sdp_choice:  # type: ignore[attr-defined]
                raise TypeError("not mine")
            return super().__torch_function__(function, types, args, kwargs or {})

    query = heads(5).as_subclass(Stranger)
    with noting_attention_kernels() as chosen:
        assert F.scaled_dot_product_attention(query, query, query).shape == (2, 3, 5, 16)
    assert chosen == {}


def test_only_forms_that_both_runs_called_can_differ() -> None:
    old = {ATTENTION_KERNELS: {"a": "cudnn", "b": "flash", "c": "math"}}
    new = {ATTENTION_KERNELS: {"a": "flash", "b": "flash", "d": "math"}}
    assert kernel_differences(old, new) == ["attention of a: cudnn in the reference, flash here"]
    assert kernel_differences(old, {}) == kernel_differences({}, old) == []
    assert kernel_differences(old, {ATTENTION_KERNELS: ["a"]}) == []  # a stranger's data
