"""Sketches on CUDA: one Triton kernel that reads a tensor once. The specification is in `parity.trace.sketch`.

Axes: R chunks that a program takes at a time, K bucket and lane, W 32-bit words of a vector of 8 elements, P program.

Each lane of a tile loads whole vectors, already turned, so that it adds every element to a running sum of its own: no
atomics and no shuffles in the loop, one hash for 8 elements. A program leaves its partial sums in scratch memory, and
the last program to finish adds the partial sums of all of them in a fixed order: one launch, the same bits every time.

NaN and infinities cost nothing while there are none: a program whose sum of squares is not finite takes its part again,
with those elements zeroed and counted. Only then is the tensor read twice.

On a machine without a GPU, Triton's interpreter (TRITON_INTERPRET=1) runs the kernel on CPU tensors for the tests.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Functions under `triton.jit` are compiled by Triton, which has its own types.

from functools import lru_cache
from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from parity.trace.sketch import FLOAT_STATISTICS, GOLDEN, MIX_FIRST, MIX_SECOND, MULTIPLIERS, SEED, VECTOR

_SEED = tl.constexpr(SEED)
_GOLDEN = tl.constexpr(GOLDEN)
_MIX_FIRST = tl.constexpr(MIX_FIRST)
_MIX_SECOND = tl.constexpr(MIX_SECOND)
_KEY_1 = tl.constexpr(MULTIPLIERS[1])
_KEY_2 = tl.constexpr(MULTIPLIERS[2])
_KEY_3 = tl.constexpr(MULTIPLIERS[3])
_BFLOAT16 = tl.constexpr(0)
_FLOAT16 = tl.constexpr(1)
_FLOAT32 = tl.constexpr(2)

_KINDS: Final = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}
_WARPS: Final = 8
_TILE_VECTORS: Final = 512  # two vectors, that is two 16-byte loads of bf16, in flight for each of 256 threads
_PROGRAMS_PER_MULTIPROCESSOR: Final = 4
_DOUBLES: Final = 3  # partial sum, sum of squares, largest magnitude
_LONGS: Final = 3  # partial checksum, NaN count, Inf count


@triton.jit
def _hash32(index):
    """Return h(index), uint32."""
    x = index.to(tl.uint32) + _SEED
    x = (x ^ (x >> 16)) * _MIX_FIRST
    x = (x ^ (x >> 15)) * _MIX_SECOND
    return x ^ (x >> 15)


@triton.jit
def _quad(w0, w1, w2, w3, bits):
    """Return the checksum term of four words under the hash of their place, uint64."""
    a = (w0 + bits).to(tl.uint64) * (w1 + bits * _KEY_1).to(tl.uint64)
    b = (w2 + bits * _KEY_2).to(tl.uint64) * (w3 + bits * _KEY_3).to(tl.uint64)
    return a + b


@triton.jit
def _four(words, R: tl.constexpr, K: tl.constexpr):
    """Part (R, K, 4) into its last axis. Each thread holds all four, so nothing moves."""
    even, odd = tl.split(tl.reshape(words, (R, K, 2, 2)))
    w0, w2 = tl.split(even)
    w1, w3 = tl.split(odd)
    return w0, w1, w2, w3


@triton.jit
def _low(word, KIND: tl.constexpr):
    """Return the first of the two 16-bit elements of a word, float32."""
    if KIND == _BFLOAT16:
        return (word << 16).to(tl.float32, bitcast=True)
    return word.to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _high(word, KIND: tl.constexpr):
    """Return the second of the two 16-bit elements of a word, float32."""
    if KIND == _BFLOAT16:
        return (word & 0xFFFF0000).to(tl.float32, bitcast=True)
    return (word >> 16).to(tl.uint16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _signed(x, bits, E: tl.constexpr):
    """Return x with its sign flipped where bit 31 - E of the hash is set."""
    return (x.to(tl.uint32, bitcast=True) ^ ((bits << E) & 0x80000000)).to(tl.float32, bitcast=True)


@triton.jit
def _finite(x):
    """Return x with NaN and infinities zeroed."""
    return tl.where(tl.abs(x) < float("inf"), x, 0.0)


@triton.jit
def _nan(x):
    return (x != x).to(tl.int64)


@triton.jit
def _inf(x):
    return (tl.abs(x) == float("inf")).to(tl.int64)


@triton.jit
def _sum8(a, b, c, d, e, f, g, h):
    return ((a + b) + (c + d)) + ((e + f) + (g + h))


@triton.jit
def _load(words, vectors, chunk, R: tl.constexpr, K: tl.constexpr, TURN_SHIFT: tl.constexpr, KIND: tl.constexpr):
    """Load the turned vectors of R chunks.

    Returns: the 8 elements, float32 (R, K) each; the hash, uint32 (R, K), 0 beyond the end; the checksum terms, uint64.
    """
    lane = tl.arange(0, K)
    turn = ((chunk.to(tl.uint32) * _GOLDEN) >> TURN_SHIFT).to(tl.int32)
    vector = chunk[:, None] * K + ((lane[None, :] - turn[:, None]) & (K - 1))  # (R, K)
    live = vector < vectors
    # A dead vector holds zeros; with a hash of zero its checksum term is zero too.
    bits = tl.where(live, _hash32(vector), 0).to(tl.uint32)
    place = vector.to(tl.int64)[:, :, None]
    if KIND == _FLOAT32:
        words8 = tl.load(words + place * 8 + tl.arange(0, 8)[None, None, :], mask=live[:, :, None], other=0)
        even, odd = tl.split(tl.reshape(words8.to(tl.uint32, bitcast=True), (R, K, 4, 2)))
        w0, w2, w4, w6 = _four(even, R, K)
        w1, w3, w5, w7 = _four(odd, R, K)
        first = tl.where(live, _hash32(vector * 2), 0).to(tl.uint32)
        second = tl.where(live, _hash32(vector * 2 + 1), 0).to(tl.uint32)
        terms = _quad(w0, w1, w2, w3, first) + _quad(w4, w5, w6, w7, second)
        x0 = w0.to(tl.float32, bitcast=True)
        x1 = w1.to(tl.float32, bitcast=True)
        x2 = w2.to(tl.float32, bitcast=True)
        x3 = w3.to(tl.float32, bitcast=True)
        x4 = w4.to(tl.float32, bitcast=True)
        x5 = w5.to(tl.float32, bitcast=True)
        x6 = w6.to(tl.float32, bitcast=True)
        x7 = w7.to(tl.float32, bitcast=True)
    else:
        words4 = tl.load(words + place * 4 + tl.arange(0, 4)[None, None, :], mask=live[:, :, None], other=0)
        w0, w1, w2, w3 = _four(words4.to(tl.uint32, bitcast=True), R, K)
        terms = _quad(w0, w1, w2, w3, bits)
        x0 = _low(w0, KIND)
        x1 = _high(w0, KIND)
        x2 = _low(w1, KIND)
        x3 = _high(w1, KIND)
        x4 = _low(w2, KIND)
        x5 = _high(w2, KIND)
        x6 = _low(w3, KIND)
        x7 = _high(w3, KIND)
    return x0, x1, x2, x3, x4, x5, x6, x7, bits, terms


@triton.jit
def _sketch_kernel(
    words,  # int32 (vectors * W,), 16-byte aligned
    vectors,  # number of vectors of 8 elements
    elements,  # N, for the mean
    scratch,  # float32 (P, 9 * K)
    doubles,  # float64 (3, P)
    longs,  # int64 (3, P)
    ticket,  # int32 (1,), zero before and after
    floats,  # float32 (K + 3,), written
    integers,  # int64 (3,), written
    R: tl.constexpr,
    K: tl.constexpr,
    TURN_SHIFT: tl.constexpr,
    KIND: tl.constexpr,
    GATHER: tl.constexpr,  # programs whose bucket sums are added at a time
    P_CEILING: tl.constexpr,  # power of two, at least P
):
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    lane = tl.arange(0, K)
    row = tl.arange(0, R)
    chunks = tl.cdiv(vectors, K)

    s0 = tl.zeros((R, K), tl.float32)
    s1 = tl.zeros((R, K), tl.float32)
    s2 = tl.zeros((R, K), tl.float32)
    s3 = tl.zeros((R, K), tl.float32)
    s4 = tl.zeros((R, K), tl.float32)
    s5 = tl.zeros((R, K), tl.float32)
    s6 = tl.zeros((R, K), tl.float32)
    s7 = tl.zeros((R, K), tl.float32)
    total = tl.zeros((R, K), tl.float32)
    square = tl.zeros((R, K), tl.float32)
    largest = tl.zeros((R, K), tl.float32)
    checksum = tl.zeros((R, K), tl.uint64)
    for start in range(program * R, chunks, programs * R):
        x0, x1, x2, x3, x4, x5, x6, x7, bits, terms = _load(words, vectors, start + row, R, K, TURN_SHIFT, KIND)
        checksum += terms
        s0 += _signed(x0, bits, 0)
        s1 += _signed(x1, bits, 1)
        s2 += _signed(x2, bits, 2)
        s3 += _signed(x3, bits, 3)
        s4 += _signed(x4, bits, 4)
        s5 += _signed(x5, bits, 5)
        s6 += _signed(x6, bits, 6)
        s7 += _signed(x7, bits, 7)
        total += _sum8(x0, x1, x2, x3, x4, x5, x6, x7)
        square += _sum8(x0 * x0, x1 * x1, x2 * x2, x3 * x3, x4 * x4, x5 * x5, x6 * x6, x7 * x7)
        low4 = tl.maximum(tl.maximum(tl.abs(x0), tl.abs(x1)), tl.maximum(tl.abs(x2), tl.abs(x3)))
        high4 = tl.maximum(tl.maximum(tl.abs(x4), tl.abs(x5)), tl.maximum(tl.abs(x6), tl.abs(x7)))
        largest = tl.maximum(largest, tl.maximum(low4, high4))

    total_all = tl.sum(tl.sum(total, 1), 0).to(tl.float64)
    square_all = tl.sum(tl.sum(square, 1), 0).to(tl.float64)
    largest_all = tl.max(tl.max(largest, 1), 0).to(tl.float64)
    nan_all = tl.zeros((), tl.int64)
    inf_all = tl.zeros((), tl.int64)

    if (square_all < float("inf")) == 0:  # NaN, an infinity, or squares beyond float32: take this part again, with care
        s0 = tl.zeros((R, K), tl.float32)
        s1 = tl.zeros((R, K), tl.float32)
        s2 = tl.zeros((R, K), tl.float32)
        s3 = tl.zeros((R, K), tl.float32)
        s4 = tl.zeros((R, K), tl.float32)
        s5 = tl.zeros((R, K), tl.float32)
        s6 = tl.zeros((R, K), tl.float32)
        s7 = tl.zeros((R, K), tl.float32)
        exact_total = tl.zeros((R, K), tl.float64)
        exact_square = tl.zeros((R, K), tl.float64)
        finite_largest = tl.zeros((R, K), tl.float32)
        nans = tl.zeros((R, K), tl.int64)
        infinities = tl.zeros((R, K), tl.int64)
        for start in range(program * R, chunks, programs * R):
            x0, x1, x2, x3, x4, x5, x6, x7, bits, _ = _load(words, vectors, start + row, R, K, TURN_SHIFT, KIND)
            nans += _sum8(_nan(x0), _nan(x1), _nan(x2), _nan(x3), _nan(x4), _nan(x5), _nan(x6), _nan(x7))
            infinities += _sum8(_inf(x0), _inf(x1), _inf(x2), _inf(x3), _inf(x4), _inf(x5), _inf(x6), _inf(x7))
            x0 = _finite(x0)
            x1 = _finite(x1)
            x2 = _finite(x2)
            x3 = _finite(x3)
            x4 = _finite(x4)
            x5 = _finite(x5)
            x6 = _finite(x6)
            x7 = _finite(x7)
            s0 += _signed(x0, bits, 0)
            s1 += _signed(x1, bits, 1)
            s2 += _signed(x2, bits, 2)
            s3 += _signed(x3, bits, 3)
            s4 += _signed(x4, bits, 4)
            s5 += _signed(x5, bits, 5)
            s6 += _signed(x6, bits, 6)
            s7 += _signed(x7, bits, 7)
            low4 = tl.maximum(tl.maximum(tl.abs(x0), tl.abs(x1)), tl.maximum(tl.abs(x2), tl.abs(x3)))
            high4 = tl.maximum(tl.maximum(tl.abs(x4), tl.abs(x5)), tl.maximum(tl.abs(x6), tl.abs(x7)))
            finite_largest = tl.maximum(finite_largest, tl.maximum(low4, high4))
            d0 = x0.to(tl.float64)
            d1 = x1.to(tl.float64)
            d2 = x2.to(tl.float64)
            d3 = x3.to(tl.float64)
            d4 = x4.to(tl.float64)
            d5 = x5.to(tl.float64)
            d6 = x6.to(tl.float64)
            d7 = x7.to(tl.float64)
            exact_total += _sum8(d0, d1, d2, d3, d4, d5, d6, d7)
            exact_square += _sum8(d0 * d0, d1 * d1, d2 * d2, d3 * d3, d4 * d4, d5 * d5, d6 * d6, d7 * d7)
        total_all = tl.sum(tl.sum(exact_total, 1), 0)
        square_all = tl.sum(tl.sum(exact_square, 1), 0)
        largest_all = tl.max(tl.max(finite_largest, 1), 0).to(tl.float64)
        nan_all = tl.sum(tl.sum(nans, 1), 0)
        inf_all = tl.sum(tl.sum(infinities, 1), 0)

    # The lanes' sums become bucket sums: bucket = lane + e * K/8, a move between lanes, so by way of scratch memory.
    mine = scratch + program * (9 * K)
    tl.store(mine + 0 * K + lane, tl.sum(s0, 0))
    tl.store(mine + 1 * K + lane, tl.sum(s1, 0))
    tl.store(mine + 2 * K + lane, tl.sum(s2, 0))
    tl.store(mine + 3 * K + lane, tl.sum(s3, 0))
    tl.store(mine + 4 * K + lane, tl.sum(s4, 0))
    tl.store(mine + 5 * K + lane, tl.sum(s5, 0))
    tl.store(mine + 6 * K + lane, tl.sum(s6, 0))
    tl.store(mine + 7 * K + lane, tl.sum(s7, 0))
    tl.debug_barrier()
    bucket_sum = tl.zeros((K,), tl.float32)
    for e in tl.static_range(8):
        bucket_sum += tl.load(mine + e * K + ((lane - e * (K // 8)) & (K - 1)))
    tl.store(mine + 8 * K + lane, bucket_sum)
    tl.store(doubles + program, total_all)
    tl.store(doubles + programs + program, square_all)
    tl.store(doubles + 2 * programs + program, largest_all)
    tl.store(longs + program, tl.sum(tl.sum(checksum, 1), 0).to(tl.int64, bitcast=True))
    tl.store(longs + programs + program, nan_all)
    tl.store(longs + 2 * programs + program, inf_all)

    # Whoever takes the last ticket sees the stores of all: barrier, then release and acquire through the ticket.
    tl.debug_barrier()
    if tl.atomic_add(ticket, 1, sem="acq_rel") == programs - 1:
        tl.store(ticket, 0)
        sums = tl.zeros((K,), tl.float64)
        for first in range(0, programs, GATHER):
            member = first + tl.arange(0, GATHER)
            address = scratch + member[:, None] * (9 * K) + 8 * K + lane[None, :]
            part = tl.load(address, mask=(member < programs)[:, None], other=0.0, cache_modifier=".cg")
            sums += tl.sum(part.to(tl.float64), 0)
        tl.store(floats + lane, sums.to(tl.float32))
        member = tl.arange(0, P_CEILING)
        live = member < programs
        total_sum = tl.sum(tl.load(doubles + member, mask=live, other=0.0, cache_modifier=".cg"), 0)
        square_sum = tl.sum(tl.load(doubles + programs + member, mask=live, other=0.0, cache_modifier=".cg"), 0)
        largest_of = tl.max(tl.load(doubles + 2 * programs + member, mask=live, other=0.0, cache_modifier=".cg"), 0)
        tl.store(floats + K, tl.sqrt(square_sum).to(tl.float32))
        tl.store(floats + K + 1, largest_of.to(tl.float32))
        tl.store(floats + K + 2, (total_sum / elements.to(tl.float64)).to(tl.float32))
        for which in tl.static_range(3):
            part_sum = tl.sum(tl.load(longs + which * programs + member, mask=live, other=0, cache_modifier=".cg"), 0)
            tl.store(integers + which, part_sum)


def sketch_kernel_into(tensor: Tensor, floats: Tensor, integers: Tensor) -> None:
    """`parity.trace.sketch.sketch_into` for bf16, fp16 and fp32 on the current CUDA stream.

    A tensor that is not contiguous, not 16-byte aligned or not a multiple of 8 elements is copied on the device first.
    """
    buckets = floats.numel() - FLOAT_STATISTICS
    elements = tensor.numel()
    if elements == 0:
        floats.zero_()
        integers.zero_()
        return
    flat = tensor.contiguous().view(-1)
    if elements % VECTOR or flat.data_ptr() % 16:
        flat = torch.nn.functional.pad(flat, (0, -elements % VECTOR)) if elements % VECTOR else flat.clone()
    vectors = flat.numel() // VECTOR
    rows = max(1, _TILE_VECTORS // buckets)
    programs = min(-(-vectors // (rows * buckets)), _resident_programs(tensor.device))
    scratch = torch.empty(programs * 9 * buckets, dtype=torch.float32, device=tensor.device)
    partial = torch.empty((_DOUBLES + _LONGS) * programs, dtype=torch.int64, device=tensor.device)
    _sketch_kernel[(programs,)](
        flat.view(torch.int32),
        vectors,
        elements,
        scratch,
        partial[: _DOUBLES * programs].view(torch.float64),
        partial[_DOUBLES * programs :],
        _ticket(tensor.device, torch.cuda.current_stream(tensor.device).cuda_stream if tensor.is_cuda else 0),
        floats,
        integers,
        R=rows,
        K=buckets,
        TURN_SHIFT=33 - buckets.bit_length(),
        KIND=_KINDS[tensor.dtype],
        GATHER=max(1, 4096 // buckets),
        P_CEILING=triton.next_power_of_2(programs),
        num_warps=_WARPS,
    )


@lru_cache(maxsize=8)
def _resident_programs(device: torch.device) -> int:
    if device.type != "cuda":
        return 3  # the interpreter
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.multi_processor_count) * _PROGRAMS_PER_MULTIPROCESSOR


@lru_cache(maxsize=64)
def _ticket(device: torch.device, stream: int) -> Tensor:
    """Return the counter of finished programs; kernels that may overlap, on two streams, must not share one."""
    return torch.zeros(1, dtype=torch.int32, device=device)
