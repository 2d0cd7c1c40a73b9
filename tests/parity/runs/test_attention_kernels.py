"""Torch's choice of kernels for attention is noted as it happens, and noting it changes nothing."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from parity.runs import attention_kernels
from parity.runs.attention_kernels import ATTENTION_KERNELS, kernel_differences, noting_attention_kernels
from parity.runs.difference import Difference

ATTEND = F.scaled_dot_product_attention
FORM = "float32 (2, 3, 5, 16) x (2, 3, 7, 16)"


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
            F.scaled_dot_product_attention(query, key, key, None, 0.0, True, scale=0.5)
            query, key, value = (heads(tokens, torch.bfloat16) for tokens in (5, 7, 7))
            F.scaled_dot_product_attention(query, key, value)
    wanted = (FORM, f"{FORM}, mask", f"{FORM}, causal", FORM.replace("float32", "bfloat16"))
    assert chosen == dict.fromkeys(wanted, name)
    assert all(torch.equal(one, other) for one, other in zip(plain, noted, strict=True))


def test_a_form_whose_calls_took_two_kernels_names_both() -> None:
    query, key = heads(5), heads(7)
    with noting_attention_kernels() as chosen:
        F.scaled_dot_product_attention(query, key, key)
        assert chosen == {FORM: "flash"}
        F.scaled_dot_product_attention(query, key, key, dropout_p=0.1)  # flash attention on a CPU has no dropout
        F.scaled_dot_product_attention(query, key, key)
    assert chosen == {FORM: "flash, math"}


def test_torch_is_asked_once_for_each_kind_of_call() -> None:
    asked = []

    def choice(*given: Any, **named: Any) -> int:
        asked.append(named)
        return int(SDPBackend.CUDNN_ATTENTION.value)

    answering, few = patch.object(torch, "_fused_sdp_choice", choice), patch.object(attention_kernels, "MOST_FORMS", 2)
    with answering, few, noting_attention_kernels() as chosen:
        for tokens in (5, 5, 7, 5, 9):
            F.scaled_dot_product_attention(heads(tokens), heads(7), heads(7), enable_gqa=True)
    assert asked == [{"enable_gqa": True}] * 2
    assert chosen == {FORM: "cudnn", FORM.replace("5", "7"): "cudnn"}


def test_a_torch_that_cannot_be_asked_notes_nothing() -> None:
    with patch.object(torch, "_fused_sdp_choice", None), noting_attention_kernels() as chosen:
        F.scaled_dot_product_attention(heads(5), heads(7), heads(7))
    assert chosen == {}


def test_torch_is_as_it_was_whatever_happens_inside() -> None:
    with pytest.raises(RuntimeError), noting_attention_kernels() as chosen:
        F.scaled_dot_product_attention(heads(5), heads(7)[..., :8], heads(7))
    assert chosen == {} and F.scaled_dot_product_attention is ATTEND


def test_attention_that_an_engine_put_there_is_its_own() -> None:
    def own(query: Tensor, key: Tensor, value: Tensor, layout: str = "HND") -> Tensor:
        assert layout == "HND"
        return query

    with patch.object(F, "scaled_dot_product_attention", own), noting_attention_kernels() as chosen:
        assert F.scaled_dot_product_attention(heads(5), heads(7), heads(7)).shape == (2, 3, 5, 16)
    assert chosen == {}
    with noting_attention_kernels(), patch.object(F, "scaled_dot_product_attention", own):
        pass
    try:
        with noting_attention_kernels():
            F.scaled_dot_product_attention = own  # type: ignore[assignment]  # as an engine of less care might
        assert F.scaled_dot_product_attention is own
    finally:
        F.scaled_dot_product_attention = ATTEND


def test_compiled_code_and_autocast_are_left_alone() -> None:
    def attend(query: Tensor, key: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, key)

    with noting_attention_kernels() as chosen:
        compiled: Callable[..., Tensor] = torch.compile(attend, backend="eager", fullgraph=True)
        assert torch.equal(compiled(heads(5), heads(7)), ATTEND(heads(5), heads(7), heads(7)))
        with torch.autocast("cpu", torch.bfloat16):
            assert attend(heads(5), heads(7)).dtype == torch.bfloat16
    assert chosen == {}


@pytest.mark.parametrize("error", [TypeError, KeyError])
def test_a_tensor_that_torch_cannot_choose_for_goes_its_way(error: type[Exception]) -> None:
    class Stranger(Tensor):
        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function.__name__ == "_fused_sdp_choice":
                raise error("not mine")
            return super().__torch_function__(function, types, args, kwargs or {})

    query = heads(5).as_subclass(Stranger)
    with noting_attention_kernels() as chosen:
        assert F.scaled_dot_product_attention(query, query, query).shape == (2, 3, 5, 16)
    assert chosen == {}


def test_only_forms_that_both_runs_called_can_differ() -> None:
    old = {ATTENTION_KERNELS: {"a": "cudnn", "b": "flash", "c": "math"}}
    new = {ATTENTION_KERNELS: {"a": "flash", "b": "flash", "d": "math"}}
    assert kernel_differences(old, new) == [Difference(key="a", old="cudnn", new="flash")]
    assert kernel_differences(old, {}) == kernel_differences({}, old) == []


@pytest.mark.parametrize("hostile", [["a"], {"a": {"deep": 1}}, {"a": None}, {"b": 7}, "a"])
def test_what_a_stranger_says_is_read_as_pairs_of_short_texts(hostile: Any) -> None:
    assert kernel_differences({ATTENTION_KERNELS: {"a": "flash"}}, {ATTENTION_KERNELS: hostile}) == []
    long = {ATTENTION_KERNELS: {"a": "x" * 10**6}}
    [said] = kernel_differences({ATTENTION_KERNELS: {"a": "flash"}}, long)
    assert len(said.new) <= 200
