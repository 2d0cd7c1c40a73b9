"""Made values on CUDA: one Triton kernel that writes each value once. The specification is in `runners.forge.counter`.

In torch every step of the mixing is a pass over memory in 64 bits, some twenty of them for two bytes of weight. Here a
program keeps its counters in registers. The last two steps, one float32 multiplication and one addition, must round
one by one, so fusing them is switched off.

On a machine without a GPU, Triton's interpreter (TRITON_INTERPRET=1) runs the kernel on CPU tensors for the tests.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Functions under `triton.jit` are compiled by Triton, which has its own types.

from typing import Final

import triton
import triton.language as tl
from torch import Tensor

from runners.forge.counter import LANE_SUM_STD
from runners.mix64 import FIRST, GOLDEN, SECOND, signed64

_GOLDEN = tl.constexpr(GOLDEN)
_FIRST = tl.constexpr(FIRST)
_SECOND = tl.constexpr(SECOND)
_BLOCK: Final = 1024  # elements of a program
_WARPS: Final = 4  # so that a thread stores 8 elements, which are 16 bytes of bf16


@triton.jit(do_not_specialize=["elements", "key"])  # one compilation for tensors of all sizes
def _fill_kernel(
    out,  # of any floating type, contiguous
    elements,  # number of them
    key,  # counter before the first element's
    scale,  # of a centred sum of lanes, float32
    mean,  # float32
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    word = key.to(tl.int64).to(tl.uint64, bitcast=True) + (place + 1).to(tl.uint64) * _GOLDEN
    word = (word ^ (word >> 30)) * _FIRST
    word = (word ^ (word >> 27)) * _SECOND
    word = word ^ (word >> 31)
    # Four signed lanes of 16 bits; their sum has mean -2.
    low = word.to(tl.int16).to(tl.int32) + (word >> 16).to(tl.int16).to(tl.int32)
    high = (word >> 32).to(tl.int16).to(tl.int32) + (word >> 48).to(tl.int16).to(tl.int32)
    value = (low + high + 2).to(tl.float32) * scale + mean
    tl.store(out + place, value.to(out.dtype.element_ty), mask=place < elements)


def fill_kernel_(out: Tensor, key: int, *, mean: float, std: float, start: int = 0) -> None:
    """`runners.forge.counter.fill_normal_` for a tensor of at least one element, on the current CUDA stream."""
    elements = out.numel()
    _fill_kernel[(triton.cdiv(elements, _BLOCK),)](
        out,
        elements,
        signed64(key + GOLDEN * start),
        std / LANE_SUM_STD,
        mean,
        BLOCK=_BLOCK,
        num_warps=_WARPS,
        enable_fp_fusion=False,
    )
