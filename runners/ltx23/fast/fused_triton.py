"""The fused operations on CUDA: one Triton program a token. What they compute stands in `runners.ltx23.fast.fused`.

A program holds its token in registers, so a tensor is read and written once. Tokens that share a noise level read the
same row of modulation, which the cache keeps.

On a machine without a GPU, Triton's interpreter (TRITON_INTERPRET=1) runs the kernels on CPU tensors for the tests.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Functions under `triton.jit` are compiled by Triton, which has its own types.

from typing import Any, Self

import torch
import triton
import triton.language as tl
from torch import Tensor

from runners.errors import ShapeError
from runners.ltx23.fast.fused import LARGEST_FP8, SMALLEST, Prepare, TokenRotary


class Compilations:
    """The kernels that Triton makes ready while this is entered; what it compiled, it keeps between runs."""

    def __init__(self) -> None:
        self._compiled = self._kept = 0
        self._seconds = 0.0

    @property
    def note(self) -> str:
        """Number of kernels that were compiled and how long that took, and number taken from Triton's cache."""
        return f"{self._compiled} kernels compiled in {self._seconds:.1f} s, {self._kept} taken from Triton's cache"

    def __enter__(self) -> Self:
        self._outer = triton.knobs.compilation.listener
        triton.knobs.compilation.listener = self._heard
        return self

    def __exit__(self, *_: object) -> None:
        triton.knobs.compilation.listener = self._outer

    def _heard(self, *, times: Any, cache_hit: bool, **_: object) -> None:
        self._kept += cache_hit
        self._compiled += not cache_hit
        self._seconds += 0.0 if cache_hit else times.total / 1e6


@triton.jit
def _modulate(x, y, scale, shift, row, tokens, width, eps, NORM: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + program * width + column, inside, 0.0).to(tl.float32)
    if NORM:
        value = value * tl.rsqrt(tl.sum(value * value) / width + eps)
    level = tl.load(row + program % tokens).to(tl.int64) * width
    scaled = value * (1.0 + tl.load(scale + level + column, inside, 0.0))
    result = scaled + tl.load(shift + level + column, inside, 0.0)
    tl.store(y + program * width + column, result.to(y.dtype.element_ty), inside)


@triton.jit
def _add_branch(
    x,
    branch,
    gate,
    gate_row,
    y1,
    scale1,
    shift1,
    row1,
    y2,
    scale2,
    shift2,
    row2,
    tokens,
    width,
    eps,
    OUTPUTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    at = program * width + column
    token = program % tokens
    level = tl.load(gate_row + token).to(tl.int64) * width
    value = tl.load(x + at, inside, 0.0).to(tl.float32)
    value += tl.load(branch + at, inside, 0.0).to(tl.float32) * tl.load(gate + level + column, inside, 0.0)
    tl.store(x + at, value, inside)
    if OUTPUTS > 0:
        normed = value * tl.rsqrt(tl.sum(value * value) / width + eps)
        level = tl.load(row1 + token).to(tl.int64) * width
        scaled = normed * (1.0 + tl.load(scale1 + level + column, inside, 0.0))
        result = scaled + tl.load(shift1 + level + column, inside, 0.0)
        tl.store(y1 + at, result.to(y1.dtype.element_ty), inside)
    if OUTPUTS > 1:
        level = tl.load(row2 + token).to(tl.int64) * width
        scaled = normed * (1.0 + tl.load(scale2 + level + column, inside, 0.0))
        result = scaled + tl.load(shift2 + level + column, inside, 0.0)
        tl.store(y2 + at, result.to(y2.dtype.element_ty), inside)


@triton.jit
def _norm_rotate(
    x,
    weight1,
    weight2,
    cos,
    sin,
    lanes,
    tokens,
    stride,
    width,
    eps,
    PARTS: tl.constexpr,
    HALF: tl.constexpr,
    ROTATE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # The lanes of a token follow each other, so that all but the first find its rotary row in the cache.
    token = tl.program_id(0).to(tl.int64) // lanes
    place = tl.program_id(0).to(tl.int64) % lanes * tokens + token
    pair = tl.arange(0, BLOCK)
    inside = pair < width // 2
    first_at = pair // HALF * (2 * HALF) + pair % HALF
    second_at = first_at + HALF
    if ROTATE:
        table = token * (width // 2) + pair
        c = tl.load(cos + table, inside, 0.0).to(tl.float32)
        s = tl.load(sin + table, inside, 0.0).to(tl.float32)
    for part in tl.static_range(PARTS):
        weight = weight1 if part == 0 else weight2
        start = x + place * stride + part * width
        first = tl.load(start + first_at, inside, 0.0).to(tl.float32)
        second = tl.load(start + second_at, inside, 0.0).to(tl.float32)
        inverse = tl.rsqrt(tl.sum(first * first + second * second) / width + eps)
        first = first * inverse * tl.load(weight + first_at, inside, 0.0).to(tl.float32)
        second = second * inverse * tl.load(weight + second_at, inside, 0.0).to(tl.float32)
        if ROTATE:
            turned = first * c - second * s
            second = second * c + first * s
            first = turned
        tl.store(start + first_at, first.to(x.dtype.element_ty), inside)
        tl.store(start + second_at, second.to(x.dtype.element_ty), inside)


@triton.jit
def _gate_heads(attended, logits, stride, width, HEAD_WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    logit = tl.load(logits + program * stride + column // HEAD_WIDTH, inside, 0.0).to(tl.float32)
    value = tl.load(attended + program * width + column, inside, 0.0).to(tl.float32)
    value = value * (2.0 * tl.sigmoid(logit))
    tl.store(attended + program * width + column, value.to(attended.dtype.element_ty), inside)


@triton.jit
def _quantize_rows(
    x, values, scales, width, LARGEST: tl.constexpr, SMALLEST: tl.constexpr, GELU: tl.constexpr, BLOCK: tl.constexpr
):
    program = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + program * width + column, inside, 0.0).to(tl.float32)
    if GELU:
        # 0.5 x (1 + tanh y) = x sigmoid(2 y), with y = sqrt(2/pi) (x + 0.044715 x^3)
        value = value * tl.sigmoid(1.5957691216057308 * (value + 0.044715 * value * value * value))
    scale = tl.maximum(tl.max(tl.abs(value)), SMALLEST) / LARGEST
    tl.store(scales + program, scale)
    tl.store(values + program * width + column, (value / scale).to(values.dtype.element_ty), inside)


def modulate(x: Tensor, prepare: Prepare, eps: float, *, norm: bool) -> Tensor:
    """`fused.norm_modulate`, or `fused.modulate`. Raises: ShapeError for tensors that are not contiguous."""
    rows, row, y = prepare.rows, prepare.row, prepare.out
    _require_contiguous("modulate", x, rows.scale, rows.shift, y)
    tokens, width = x.shape[-2:]
    block = triton.next_power_of_2(width)
    _modulate[(x.numel() // width,)](
        x, y, rows.scale, rows.shift, row, tokens, width, eps, NORM=norm, BLOCK=block, num_warps=_warps(block)
    )
    return y


def add_branch_(
    x: Tensor, branch: Tensor, gate: Tensor, gate_row: Tensor, prepare: tuple[Prepare, ...], eps: float
) -> Tensor:
    """See `fused.add_branch_`. Raises: ShapeError for tensors that are not contiguous."""
    _require_contiguous("add_branch_", x, branch, gate)
    given: list[Tensor] = []
    for one in prepare:
        _require_contiguous("add_branch_", one.out, one.rows.scale, one.rows.shift)
        given += one.out, one.rows.scale, one.rows.shift, one.row
    tokens, width = x.shape[-2:]
    block = triton.next_power_of_2(width)
    _add_branch[(x.numel() // width,)](
        x,
        branch,
        gate,
        gate_row,
        *given,
        *[x, gate, gate, gate_row] * (2 - len(prepare)),  # never read
        tokens,
        width,
        eps,
        OUTPUTS=len(prepare),
        BLOCK=block,
        num_warps=_warps(block),
    )
    return x


def norm_rotate_(x: Tensor, weights: tuple[Tensor, ...], rotary: TokenRotary | None, eps: float) -> Tensor:
    """See `fused.norm_rotate_`. Raises: ShapeError for lanes that do not follow each other token by token."""
    lanes, tokens, all_parts = x.shape
    width, stride = all_parts // len(weights), _token_stride("norm_rotate_", x)
    block = triton.next_power_of_2(width // 2)
    cos, sin, heads = (x, x, 1) if rotary is None else (rotary.cos, rotary.sin, rotary.heads)  # x is not read so
    _norm_rotate[(lanes * tokens,)](
        x,
        weights[0],
        weights[-1],
        cos,
        sin,
        lanes,
        tokens,
        stride,
        width,
        eps,
        PARTS=len(weights),
        HALF=width // heads // 2,
        ROTATE=rotary is not None,
        BLOCK=block,
        num_warps=_warps(2 * block),
    )
    return x


def gate_heads_(attended: Tensor, logits: Tensor) -> Tensor:
    """See `fused.gate_heads_`. Raises: ShapeError for lanes that do not follow each other token by token."""
    _require_contiguous("gate_heads_", attended)
    stride = _token_stride("gate_heads_", logits)
    heads, width = logits.shape[-1], attended.shape[-1]
    block = triton.next_power_of_2(width)
    _gate_heads[(attended.numel() // width,)](
        attended, logits, stride, width, HEAD_WIDTH=width // heads, BLOCK=block, num_warps=_warps(block)
    )
    return attended


def quantize_rows(x: Tensor, *, gelu: bool) -> tuple[Tensor, Tensor]:
    """See `fused.quantize_rows`. Raises: ShapeError for a tensor that is not contiguous."""
    _require_contiguous("quantize_rows", x)
    rows, width = x.shape
    values, scales = torch.empty_like(x, dtype=torch.float8_e4m3fn), x.new_empty((rows, 1), dtype=torch.float32)
    block = triton.next_power_of_2(width)
    _quantize_rows[(rows,)](
        x,
        values,
        scales,
        width,
        LARGEST=LARGEST_FP8,
        SMALLEST=SMALLEST,
        GELU=gelu,
        BLOCK=block,
        num_warps=_warps(block),
    )
    return values, scales


def _require_contiguous(operation: str, *tensors: Tensor) -> None:
    for tensor in tensors:
        if not tensor.is_contiguous():
            raise ShapeError(
                f"{operation} wants contiguous tensors; got strides {tensor.stride()} for {tuple(tensor.shape)}."
            )


def _token_stride(operation: str, x: Tensor) -> int:
    lanes, tokens, _ = x.shape
    if x.stride(2) != 1 or (lanes > 1 and x.stride(0) != tokens * x.stride(1)):
        raise ShapeError(f"{operation} wants tokens at one stride; got strides {x.stride()} for {tuple(x.shape)}.")
    return x.stride(1)


def _warps(block: int) -> int:
    return max(1, min(16, block // 512))  # sixteen elements a thread: 128-bit accesses, twice
