"""Which attention kernel torch chose for each form of call while a case ran.

An environment says which kernels torch may choose from; what it chose follows from shapes, strides, mask and device,
and on one GPU it is the largest harmless difference there is: two kernels are as far apart as many bugs. So a run
records it, and an explanation names it where two runs differ in it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

ATTENTION_KERNELS: Final = "attention_kernels"  # key of a recorded run's details: form of call to name of kernel
MOST_FORMS: Final = 1000  # of a run; a whole one at full size has ten


@contextmanager
def noting_attention_kernels() -> Iterator[dict[str, str]]:
    """While inside, note the kernel of each form of `scaled_dot_product_attention` when it is first called.

    Calls reach torch as they are, and calls in code under `torch.compile` are not seen: there the compiler chooses.

    Yields: form, such as "bfloat16 (1, 32, 6144, 128) x (1, 32, 1024, 128), mask", to "flash", "efficient", "math",
        "cudnn" or "overrideable"; filled while the block runs.
    """
    chosen: dict[str, str] = {}
    seen: set[tuple[Any, ...]] = set()
    attend: Callable[..., Tensor] = F.scaled_dot_product_attention
    choice: Callable[..., int] | None = getattr(torch, "_fused_sdp_choice", None)  # torch has no public way to ask

    @wraps(attend)
    def noted(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *rest: Any, **named: Any
    ) -> Tensor:
        attended = attend(query, key, value, attn_mask, *rest, **named)
        if choice is not None and not torch.compiler.is_compiling():
            form = (query.dtype, query.shape, key.shape, attn_mask is None)
            if form not in seen and len(seen) < MOST_FORMS:
                seen.add(form)
                with suppress(RuntimeError, TypeError, ValueError):  # an engine's own kind of tensor, or a newer torch
                    backend = SDPBackend(choice(query, key, value, attn_mask, *rest, **named))
                    chosen[_spelled(*form)] = backend.name.removesuffix("_ATTENTION").lower()
        return attended

    F.scaled_dot_product_attention = noted
    try:
        yield chosen
    finally:
        F.scaled_dot_product_attention = attend


def _spelled(dtype: torch.dtype, query: torch.Size, key: torch.Size, unmasked: bool) -> str:
    return f"{str(dtype).removeprefix('torch.')} {tuple(query)} x {tuple(key)}" + ("" if unmasked else ", mask")


def kernel_differences(reference: dict[str, Any], candidate: dict[str, Any]) -> list[str]:
    """Forms that two runs gave to different kernels, each as one phrase, reference first.

    Args: the details of the two runs, a stranger's data; one that notes no kernels differs in none.
    """
    old, new = (_noted(details) for details in (reference, candidate))
    return [
        f"attention of {form}: {kernel} in the reference, {new[form]} here"
        for form, kernel in old.items()
        if new.get(form, kernel) != kernel
    ]


def _noted(details: dict[str, Any]) -> dict[str, str]:
    found = details.get(ATTENTION_KERNELS)
    return {str(form): str(kernel) for form, kernel in found.items()} if isinstance(found, dict) else {}
