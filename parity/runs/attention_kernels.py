"""The attention kernels that torch chose for each form of call while a case ran.

An environment says which kernels torch may choose from; what it chose follows from shapes, strides, mask and device,
and on one GPU it is the largest harmless difference there is: two kernels are as far apart as many bugs. So a run
records it, and an explanation names it where two runs differ in it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from types import BuiltinFunctionType
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

from parity.runs.difference import Difference

ATTENTION_KERNELS: Final = "attention_kernels"  # key of a recorded run's details: form of call to names of kernels
MOST_FORMS: Final = 1000  # of a run; one of `tiny` has nine
_LONGEST: Final = 200  # characters of what a stranger's run says


@contextmanager
def noting_attention_kernels() -> Iterator[dict[str, str]]:
    """While inside, note the kernel of each new kind of call of `torch.nn.functional.scaled_dot_product_attention`.

    Calls reach torch as they are, in the whole process, and nothing that goes wrong in noting one ends a run. Not seen
    are calls under `torch.compile` or autocast, where others choose or torch casts first; calls by a name that was
    bound before; a kernel that is allowed or forbidden between two calls of one kind; and all calls of an engine that
    has put attention of its own in place of torch's.

    Yields: form, such as "bfloat16 (1, 32, 6144, 128) x (1, 32, 1024, 128), mask", to the kernels that its calls took,
        of "flash", "efficient", "math", "cudnn" and "overrideable", such as "flash, math"; filled while the block runs.
    """
    chosen: dict[str, str] = {}
    seen: set[tuple[Any, ...]] = set()
    attend: Callable[..., Tensor] = F.scaled_dot_product_attention
    choice: Callable[..., int] | None = getattr(torch, "_fused_sdp_choice", None)  # torch has no public way to ask
    if not isinstance(attend, BuiltinFunctionType) or choice is None:  # whatever is written in Python is not torch's
        yield chosen
        return

    @wraps(attend)
    def noted(*given: Any, **named: Any) -> Tensor:
        attended: Tensor = attend(*given, **named)
        if not torch.compiler.is_compiling():
            with suppress(Exception):  # an engine's own kind of tensor, a tracer, another torch
                note(*given, **named)
        return attended

    def note(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **more: Any,
    ) -> None:
        kind = (
            *(query.dtype, query.device, query.shape, query.stride(), key.shape, key.stride(), key.dtype),
            *(value.shape, value.stride(), value.dtype, dropout_p > 0, is_causal, more.get("enable_gqa")),
            None if attn_mask is None else (attn_mask.dtype, attn_mask.shape, attn_mask.stride()),
        )
        if kind in seen or len(seen) == MOST_FORMS or torch.is_autocast_enabled(query.device.type):
            return
        seen.add(kind)
        name = SDPBackend(choice(query, key, value, attn_mask, dropout_p, is_causal, **more)).name
        form = f"{str(query.dtype).removeprefix('torch.')} {tuple(query.shape)} x {tuple(key.shape)}"
        form += ("" if attn_mask is None else ", mask") + (", causal" if is_causal else "")
        others = chosen[form].split(", ") if form in chosen else []
        chosen[form] = ", ".join(sorted({*others, name.removesuffix("_ATTENTION").lower()}))

    F.scaled_dot_product_attention = noted
    try:
        yield chosen
    finally:
        if F.scaled_dot_product_attention is noted:  # else somebody has put his own there meanwhile
            F.scaled_dot_product_attention = attend


def kernel_differences(reference: dict[str, Any], candidate: dict[str, Any]) -> list[Difference]:
    """Forms of attention that two runs gave to different kernels; the form is the key.

    Args: the details of the two runs, a stranger's data; one that notes no kernels differs in none.
    """
    old, new = (_noted(details) for details in (reference, candidate))
    return [
        Difference(key=form, old=kernel, new=new[form])
        for form, kernel in old.items()
        if new.get(form, kernel) != kernel
    ]


def _noted(details: dict[str, Any]) -> dict[str, str]:
    found = details.get(ATTENTION_KERNELS)
    pairs = list(found.items())[:MOST_FORMS] if isinstance(found, dict) else []
    return {str(form)[:_LONGEST]: kernel[:_LONGEST] for form, kernel in pairs if isinstance(kernel, str)}
