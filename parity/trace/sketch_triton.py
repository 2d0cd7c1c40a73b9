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

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from parity.trace.sketch import (
    FLOAT_STATISTICS,
    GOLDEN,
    MIX_FIRST,
    MIX_SECOND,
    MULTIPLIERS,
    SEED,
    STIR,
    STIR_BLOCK,
    VECTOR,
)

_SEED = tl.constexpr(SEED)
_GOLDEN = tl.constexpr(GOLDEN)
_STIR = tl.constexpr(STIR)
_STIR_BLOCK = tl.constexpr(STIR_BLOCK)
_MIX_FIRST = tl.constexpr(MIX_FIRST)
_MIX_SECOND = tl.constexpr(MIX_SECOND)
_KEY_1 = tl.constexpr(MULTIPLIERS[1])
_KEY_2 = tl.constexpr(MULTIPLIERS[2])
_KEY_3 = tl.constexpr(MULTIPLIERS[3])
_BFLOAT16 = tl.constexpr(0)
_FLOAT32 = tl.constexpr(2)

_KINDS: Final = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}
# The fastest of some fifty settings on an H100: 50 MB of bf16 in 26.5 us, where torch.sum takes 24.3 us.
_WARPS: Final = 4
_TILE_VECTORS: Final = 128  # one vector for each thread of a program
_STAGES: Final = 4
_PROGRAMS_PER_MULTIPROCESSOR: Final = 4  # as many as fit at once
_GATHER_ELEMENTS: Final = 2048  # partial bucket sums that the last program loads at a time


@triton.jit
def _hash32(index):
    """Return h(index), uint32."""
    x = index.to(tl.uint32) + _SEED
    x = (x ^ (x >> 16)) * _MIX_FIRST
    x = (x ^ (x >> 15)) * _MIX_SECOND
    return x ^ (x >> 15)


@triton.jit
def _load(words, vectors, chunk, R: tl.constexpr, K: tl.constexpr, TURN_SHIFT: tl.constexpr, QUADS: tl.constexpr):
    """Load the turned vectors of R chunks.

    Returns: words, int32 (R, K, 4 * QUADS), zero beyond the end; the number of each vector, int32 (R, K).
    """
    turn = ((chunk.to(tl.uint32) * _GOLDEN) >> TURN_SHIFT).to(tl.int32)
    place = (tl.arange(0, K)[None, :] - turn[:, None]) & (K - 1)
    if K > _STIR_BLOCK:
        block = place // _STIR_BLOCK
        place = block * _STIR_BLOCK + ((place - _STIR * block) & (_STIR_BLOCK - 1))
    vector = chunk[:, None] * K + place
    address = vector.to(tl.int64)[:, :, None] * (4 * QUADS) + tl.arange(0, 4 * QUADS)[None, None, :]
    return tl.load(words + address, mask=(vector < vectors)[:, :, None], other=0), vector


@triton.jit
def _checksum(words, vector, live, R: tl.constexpr, K: tl.constexpr, QUADS: tl.constexpr):
    """Return the checksum terms of each vector, uint64 (R, K); zero for a vector beyond the end."""
    place = tl.arange(0, 4)
    multiplier = tl.where(place == 0, 1, tl.where(place == 1, _KEY_1, tl.where(place == 2, _KEY_2, _KEY_3)))
    quad = vector[:, :, None] * QUADS + tl.arange(0, QUADS)[None, None, :]
    bits = tl.where(live[:, :, None], _hash32(quad), 0).to(tl.uint32)  # zero words under zero keys add nothing
    keys = bits[:, :, :, None] * multiplier.to(tl.uint32)[None, None, None, :]
    keyed = tl.reshape(words.to(tl.uint32, bitcast=True), (R, K, QUADS, 4)) + keys
    first, second = tl.split(tl.reshape(keyed, (R, K, 2 * QUADS, 2)))
    return tl.sum(first.to(tl.uint64) * second.to(tl.uint64), 2)


@triton.jit
def _values(words, R: tl.constexpr, K: tl.constexpr, KIND: tl.constexpr):
    """Return the elements of each vector, float32 (R, K, 8)."""
    if KIND == _FLOAT32:
        values = words.to(tl.float32, bitcast=True)
    elif KIND == _BFLOAT16:
        low = (words << 16).to(tl.float32, bitcast=True)
        high = (words & -65536).to(tl.float32, bitcast=True)
        values = tl.reshape(tl.join(low, high), (R, K, 8))
    else:
        low = words.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        high = (words >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        values = tl.reshape(tl.join(low, high), (R, K, 8))
    return values


@triton.jit
def _signed(x, bits):
    """Return (R, K, 8) elements, their signs flipped where bit 31 - e of the (R, K) hash is set."""
    flip = (bits[:, :, None] << tl.arange(0, 8).to(tl.uint32)[None, None, :]) & 0x80000000
    return (x.to(tl.uint32, bitcast=True) ^ flip).to(tl.float32, bitcast=True)


@triton.jit
def _merge4(total_a, square_a, largest_a, checksum_a, total_b, square_b, largest_b, checksum_b):
    """Add two sets of partial statistics of finite elements."""
    return total_a + total_b, square_a + square_b, tl.maximum(largest_a, largest_b), checksum_a + checksum_b


@triton.jit
def _merge5(total_a, square_a, largest_a, nan_a, inf_a, total_b, square_b, largest_b, nan_b, inf_b):
    """Add two sets of partial statistics, but for the checksum."""
    return total_a + total_b, square_a + square_b, tl.maximum(largest_a, largest_b), nan_a + nan_b, inf_a + inf_b


@triton.jit
def _merge6(
    total_a, square_a, largest_a, checksum_a, nan_a, inf_a, total_b, square_b, largest_b, checksum_b, nan_b, inf_b
):
    """Add two sets of partial statistics."""
    largest = tl.maximum(largest_a, largest_b)
    return total_a + total_b, square_a + square_b, largest, checksum_a + checksum_b, nan_a + nan_b, inf_a + inf_b


# One compilation for tensors of all sizes and rows at all addresses.
@triton.jit(do_not_specialize=["vectors", "elements"], do_not_specialize_on_alignment=["floats", "integers"])
def _sketch_kernel(
    tensor,  # of any 16 or 32-bit type, 16-byte aligned, vectors * 8 elements
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
    GATHER: tl.constexpr,  # programs whose bucket sums are loaded at a time
    P_CEILING: tl.constexpr,  # power of two, at least P
    STAGES: tl.constexpr,  # tiles under way at a time: one is worked on while the others come from memory
):
    QUADS: tl.constexpr = 2 if KIND == _FLOAT32 else 1
    words = tensor.to(tl.pointer_type(tl.int32))
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    row = tl.arange(0, R)
    chunks = tl.cdiv(vectors, K)
    stride = programs * R

    sums = tl.zeros((R, K, 8), tl.float32)
    total = tl.zeros((R, K), tl.float32)
    square = tl.zeros((R, K), tl.float32)
    largest = tl.zeros((R, K), tl.float32)
    checksum = tl.zeros((R, K), tl.uint64)
    for start in tl.range(program * R, chunks, stride, num_stages=STAGES):
        now, vector = _load(words, vectors, start + row, R, K, TURN_SHIFT, QUADS)
        checksum += _checksum(now, vector, vector < vectors, R, K, QUADS)
        x = _values(now, R, K, KIND)
        sums += _signed(x, _hash32(vector))
        total += tl.sum(x, 2)
        square += tl.sum(x * x, 2)
        largest = tl.maximum(largest, tl.max(tl.abs(x), 2))

    total_fast, square_fast, largest_all, checksum_all = tl.reduce(
        (tl.ravel(total), tl.ravel(square), tl.ravel(largest), tl.ravel(checksum.to(tl.int64, bitcast=True))),
        0,
        _merge4,
    )
    total_all = total_fast.to(tl.float64)
    square_all = square_fast.to(tl.float64)
    nan_all = tl.full((), 0, tl.int64)
    inf_all = tl.full((), 0, tl.int64)
    if (square_fast < float("inf")) == 0:
        # NaN, an infinity, or squares beyond float32: take this part again, with care.
        sums = tl.zeros((R, K, 8), tl.float32)
        total_exact = tl.zeros((R, K), tl.float64)
        square_exact = tl.zeros((R, K), tl.float64)
        largest = tl.zeros((R, K), tl.float32)
        nans = tl.zeros((R, K), tl.int64)
        infinities = tl.zeros((R, K), tl.int64)
        for start in range(program * R, chunks, stride):
            now, vector = _load(words, vectors, start + row, R, K, TURN_SHIFT, QUADS)
            x = _values(now, R, K, KIND)
            nans += tl.sum((x != x).to(tl.int64), 2)
            infinities += tl.sum((tl.abs(x) == float("inf")).to(tl.int64), 2)
            x = tl.where(tl.abs(x) < float("inf"), x, 0.0)
            sums += _signed(x, _hash32(vector))
            exact = x.to(tl.float64)
            total_exact += tl.sum(exact, 2)
            square_exact += tl.sum(exact * exact, 2)
            largest = tl.maximum(largest, tl.max(tl.abs(x), 2))
        total_all, square_all, largest_all, nan_all, inf_all = tl.reduce(
            (tl.ravel(total_exact), tl.ravel(square_exact), tl.ravel(largest), tl.ravel(nans), tl.ravel(infinities)),
            0,
            _merge5,
        )

    # The lanes' sums become bucket sums: bucket = lane + e * K/8, a move between lanes, so by way of scratch memory.
    lane = tl.arange(0, K)
    e = tl.arange(0, 8)
    mine = scratch + program * (9 * K)
    tl.store(mine + lane[:, None] * 8 + e[None, :], tl.sum(sums, 0))
    tl.debug_barrier()
    turned = tl.load(mine + ((lane[:, None] - e[None, :] * (K // 8)) & (K - 1)) * 8 + e[None, :])
    tl.store(mine + 8 * K + lane, tl.sum(turned, 1))
    tl.store(doubles + program, total_all)
    tl.store(doubles + programs + program, square_all)
    tl.store(doubles + 2 * programs + program, largest_all.to(tl.float64))
    tl.store(longs + program, checksum_all)
    tl.store(longs + programs + program, nan_all)
    tl.store(longs + 2 * programs + program, inf_all)

    # Whoever takes the last ticket sees the stores of all: barrier, then release and acquire through the ticket.
    tl.debug_barrier()
    if tl.atomic_add(ticket, 1, sem="acq_rel") == programs - 1:
        tl.store(ticket, 0)
        bucket_sums = tl.zeros((GATHER, K), tl.float32)
        for first in tl.range(0, programs, GATHER, num_stages=STAGES):
            member = first + tl.arange(0, GATHER)
            address = scratch + member[:, None] * (9 * K) + 8 * K + lane[None, :]
            bucket_sums += tl.load(address, mask=(member < programs)[:, None], other=0.0, cache_modifier=".cg")
        tl.store(floats + lane, tl.sum(bucket_sums, 0))
        member = tl.arange(0, P_CEILING)
        live = member < programs
        total_all, square_all, largest_double, checksum_all, nan_all, inf_all = tl.reduce(
            (
                tl.load(doubles + member, mask=live, other=0.0, cache_modifier=".cg"),
                tl.load(doubles + programs + member, mask=live, other=0.0, cache_modifier=".cg"),
                tl.load(doubles + 2 * programs + member, mask=live, other=0.0, cache_modifier=".cg"),
                tl.load(longs + member, mask=live, other=0, cache_modifier=".cg"),
                tl.load(longs + programs + member, mask=live, other=0, cache_modifier=".cg"),
                tl.load(longs + 2 * programs + member, mask=live, other=0, cache_modifier=".cg"),
            ),
            0,
            _merge6,
        )
        tl.store(floats + K, tl.sqrt(square_all).to(tl.float32))
        tl.store(floats + K + 1, largest_double.to(tl.float32))
        tl.store(floats + K + 2, (total_all / elements).to(tl.float32))
        tl.store(integers, checksum_all)
        tl.store(integers + 1, nan_all)
        tl.store(integers + 2, inf_all)


def sketch_kernel_into(tensor: Tensor, floats: Tensor, integers: Tensor) -> None:
    """`parity.trace.sketch.sketch_into` for bf16, fp16 and fp32 on the current CUDA stream.

    A tensor that is not contiguous, not 16-byte aligned or not a multiple of 8 elements is copied on the device first.
    """
    if tensor.is_cuda and tensor.device.index != torch.cuda.current_device():  # Triton launches on the current one
        with torch.cuda.device(tensor.device):
            sketch_kernel_into(tensor, floats, integers)
        return
    buckets = floats.numel() - FLOAT_STATISTICS
    elements = tensor.numel()
    if elements == 0:
        floats.zero_()
        integers.zero_()
        return
    if not tensor.is_contiguous():
        tensor = tensor.contiguous()
    if elements % VECTOR:
        tensor = torch.nn.functional.pad(tensor.view(-1), (0, -elements % VECTOR))
    elif tensor.data_ptr() % 16:
        tensor = tensor.clone()
    vectors = tensor.numel() // VECTOR
    rows = max(1, _TILE_VECTORS // buckets)
    stream = torch.cuda.current_stream(tensor.device).cuda_stream if tensor.is_cuda else 0
    room = _workspace(tensor.device, stream, buckets)
    programs = min(-(-vectors // (rows * buckets)), room.programs)
    arguments = (
        tensor,
        vectors,
        elements,
        room.scratch,
        room.doubles,
        room.longs,
        room.ticket,
        floats,
        integers,
        rows,  # R
        buckets,  # K
        33 - buckets.bit_length(),  # TURN_SHIFT
        _KINDS[tensor.dtype],  # KIND
        max(1, _GATHER_ELEMENTS // buckets),  # GATHER
        room.programs_ceiling,  # P_CEILING
        _STAGES,  # STAGES
    )
    # What Triton asks of the arguments at each launch, to find what it compiled, costs the host more than the launch.
    # With the device and the buckets of the workspace, a compilation depends on nothing else.
    key = tensor.dtype, elements >= 1 << 31, vectors >= 1 << 31
    if (compiled := room.compiled.get(key)) is not None:
        compiled[(programs, 1, 1)](*arguments)
    elif (compiled := _sketch_kernel[(programs,)](*arguments, num_warps=_WARPS)) is not None:  # None: the interpreter
        room.compiled[key] = compiled


@dataclass(frozen=True, kw_only=True)
class _Workspace:
    """Scratch memory of one stream: kernels that may overlap, on two streams, must not share it."""

    programs: int  # P at most: as many as run at once
    programs_ceiling: int
    scratch: Tensor
    doubles: Tensor
    longs: Tensor
    ticket: Tensor
    compiled: dict[tuple[torch.dtype, bool, bool], Any]  # by element and by how wide the two counts are passed


@lru_cache(maxsize=64)
def _workspace(device: torch.device, stream: int, buckets: int) -> _Workspace:
    programs = 3  # for the interpreter
    if device.type == "cuda":
        properties: Any = torch.cuda.get_device_properties(device)
        programs = int(properties.multi_processor_count) * _PROGRAMS_PER_MULTIPROCESSOR
    return _Workspace(
        programs=programs,
        programs_ceiling=triton.next_power_of_2(programs),
        scratch=torch.empty(programs * 9 * buckets, dtype=torch.float32, device=device),
        doubles=torch.empty(3 * programs, dtype=torch.float64, device=device),
        longs=torch.empty(3 * programs, dtype=torch.int64, device=device),
        ticket=torch.zeros(1, dtype=torch.int32, device=device),
        compiled={},
    )
