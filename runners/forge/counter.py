"""Counter-based values: element i of a named tensor is a pure function of (seed, name, i).

The same bits come out on CPU and CUDA, in any order, for any slice, because everything but the last two steps is
integer arithmetic: a 64-bit counter is mixed, its four 16-bit lanes are added (an Irwin-Hall sum of four uniforms,
bell-shaped, never beyond 3.47 deviations), and one float32 multiplication and one float32 addition scale it. No sine,
logarithm or fused multiply-add, which round differently from device to device.

Source of the mixing: splitmix64, see runners/mix64.py.
"""

import hashlib
import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from runners.mix64 import GOLDEN, mix64_, signed64

_CHUNK = 1 << 21  # elements; two int64 buffers of it stay within a large GPU's cache
_LANES = 4
LANE_SUM_STD = math.sqrt(_LANES * (2**32 - 1) / 12)  # of a sum of four uniform 16-bit integers


def stream_key(seed: int, name: str) -> int:
    """64-bit key of the value stream of one named tensor."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")


def fill_normal_(out: Tensor, key: int, *, mean: float, std: float, start: int = 0, chunk: int = _CHUNK) -> Tensor:
    """Fill a contiguous tensor with near-Gaussian values, in place and on its own device.

    Args:
        out: contiguous, any shape, floating dtype; overwritten. Values are rounded to its dtype from float32.
        key: of the stream, from `stream_key`.
        mean: of the values, applied in float32.
        std: standard deviation of the values, applied in float32.
        start: position in the stream of the first element of `out`, for filling a slice of a larger tensor.
        chunk: elements worked on at a time where there is no kernel; the values do not depend on it.
    Returns: `out`.
    """
    assert out.is_contiguous()
    if out.is_cuda and out.numel() and (kernel := triton_kernel()) is not None:
        with torch.cuda.device(out.device):
            kernel(out, key, mean=mean, std=std, start=start)
        return out
    return fill_normal_torch_(out, key, mean=mean, std=std, start=start, chunk=chunk)


@lru_cache(maxsize=1)
def triton_kernel() -> Callable[..., None] | None:
    """The CUDA kernel, or None where Triton is not installed."""
    try:
        from runners.forge.counter_triton import fill_kernel_
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        return None
    return fill_kernel_


def fill_normal_torch_(
    out: Tensor, key: int, *, mean: float, std: float, start: int = 0, chunk: int = _CHUNK
) -> Tensor:
    """`fill_normal_` in plain torch operations, on any device: the specification that the kernel is tested against."""
    flat = out.view(-1)
    chunk = max(1, min(chunk, flat.numel()))
    counters = torch.arange(chunk, dtype=torch.int64, device=out.device).mul_(signed64(GOLDEN))
    words, scratch = torch.empty_like(counters), torch.empty_like(counters)
    for first in range(0, flat.numel(), chunk):
        part = flat[first : first + chunk]
        size = part.numel()
        torch.add(counters[:size], signed64(key + GOLDEN * (start + first + 1)), out=words[:size])
        lanes = mix64_(words[:size], scratch[:size]).view(torch.int16).view(size, _LANES)
        # A signed 16-bit lane has mean -1/2, so the sum of four, exact in int32, has mean -2.
        sums = lanes.sum(dim=1, dtype=torch.int32).add_(_LANES // 2).float()
        part.copy_(sums.mul_(std / LANE_SUM_STD).add_(mean))
    return out
