"""Sketches: what a tap is boiled down to. This text is the specification, version 1; the code below is its torch form.

Axes: N element (row-major), V vector of 8 elements, C chunk, K bucket, Q quad of four 32-bit words.

**Elements.** A tensor is read in row-major order. Sums see each element as float32, NaN and infinities as zero; those
are counted apart. The tensor is continued with zeros to whole chunks, which changes no sum.

**Random bits.** `h(n) = mix32((n + SEED) mod 2^32)` is a bijection of the 32-bit integers. A counter-based hash: every
part of a tensor can be sketched alone and in any order.

**Buckets.** Element i lies at place e = i mod 8 of vector v = i div 8, and v at place u = v mod K of chunk c = v div K.

    sign(i)   = -1 if bit 31 - e of h(v) is set, else +1
    turn(c)   = the upper log2(K) bits of c * GOLDEN mod 2^32
    stir(u)   = 64 b + (r + STIR * b) mod 64, where b = u div 64 and r = u mod 64; u itself up to 64 buckets
    bucket(i) = (stir(u) + turn(c) + e * K/8) mod K
    bucket sum k = sum of sign(i) * x(i) over the elements with bucket(i) = k

Each chunk is turned as a whole and by its own amount, in steps of one vector (16 bytes of bf16). So a processor reads
whole vectors, each of its lanes adds to buckets of its own without a conflict, and yet a single channel with huge
activations, which comes back at a fixed place in every token, is spread over all buckets instead of drowning one.
With many buckets a tensor may fill but one chunk or two, and a channel come back in steps that share a large power of
two with K; so places are stirred within blocks of 64, each block by its own odd multiple, or an eighth of the buckets
would take part.

**Why it works.** The sketch is linear: the sketch of a difference d is the difference of the sketches, and

    sum of squared buckets = |d|^2 + sum over pairs i != j in one bucket of sign(i) sign(j) d(i) d(j).

Signs of two elements are uncorrelated, so the expectation is |d|^2 whatever the buckets are: unbiased. Signs that are
independent four at a time give the variance 2 * sum over i != j in one bucket of d(i)^2 d(j)^2: about 2/K |d|^4 where
the buckets are shared evenly, less where few elements dominate. Elements of one vector never share a bucket. Elements i
and j of one chunk share one exactly if stir(u(i)) - stir(u(j)) = (e(j) - e(i)) * K/8 mod K; from chunk to chunk the
turns decide, which are spread as evenly as multiples of the golden ratio. All this is a fixed hash, not fresh random
numbers: the expectation is over where a difference falls, and a tensor built against the hash could deceive it. The
tests measure bias and spread on structured tensors.

**Checksum.** The tensor's bytes, continued with zeros to whole vectors and quads, are cut into little-endian 32-bit
words. With `k_j = h(q) * MULTIPLIERS[j] mod 2^32` the checksum is the sum over all quads q, modulo 2^64, of

    (w0 + k_0)(w1 + k_1) + (w2 + k_2)(w3 + k_3), inner sums modulo 2^32.

A change of one word escapes if the other word of its pair happens to cancel its key, a chance of 2^-32; a change of
many words escapes far more rarely. Keys differ from place to place, so order counts; bits are compared, so signs count
and -0.0 is not 0.0. Sums of integers come out the same on every device and in any order.

**The rest.** l2 and mean over all elements, max_abs the largest magnitude, counts of NaN and of infinities.

CPU and CUDA agree exactly in checksum, max_abs and counts, and to float32 rounding in the sums. Both are deterministic.

Sources: count-sketch, Charikar, Chen and Farach-Colton, "Finding frequent items in data streams" (2002); as an estimate
of norms, Alon, Matias and Szegedy (1996); checksum, NH of Black et al., "UMAC" (1999); mix32, the `lowbias32` function
that Wellons' hash-prospector found.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from runners.errors import ConfigError, ShapeError

SPECIFICATION_VERSION: Final = 1
DEFAULT_BUCKETS: Final = 64
VECTOR: Final = 8  # elements that share one hash
SEED: Final = 0x6A09E667  # fraction of the square root of 2
GOLDEN: Final = 0x9E3779B1  # a prime near 2^32 over the golden ratio: consecutive chunks turn by well-spread amounts
STIR: Final = 29  # of odd numbers below 64, one that left no structured tensor of the tests crowded
STIR_BLOCK: Final = 64
MIX_FIRST: Final = 0x21F0AAAD
MIX_SECOND: Final = 0xD35A2D97
MULTIPLIERS: Final = (1, 0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F)  # odd; the first is the hash itself

FLOAT_STATISTICS: Final = 3  # l2, max_abs, mean, after the buckets of a row
INTEGER_STATISTICS: Final = 3  # checksum, NaN count, Inf count

_MASK = 0xFFFFFFFF
BLOCK_ELEMENTS = 1 << 18  # elements sketched at a time: bounds the scratch memory of the torch form
_MOST_ELEMENTS = 1 << 33  # vectors and quads are numbered by 31 bits
_KERNEL_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class TapSketch:
    """One tap, boiled down. `buckets` is float32 (K,) on the CPU; `checksum` is a signed 64-bit integer."""

    shape: tuple[int, ...]
    dtype: str  # as torch spells it, without "torch."
    checksum: int
    l2: float
    max_abs: float
    mean: float
    nan_count: int
    inf_count: int
    buckets: Tensor

    def same_bits(self, other: "TapSketch") -> bool:
        """True if both tensors were equal bit for bit (false alarms never, a miss with probability about 2^-32)."""
        return (self.shape, self.dtype, self.checksum) == (other.shape, other.dtype, other.checksum)


def require_buckets(buckets: int) -> None:
    """Raise ConfigError unless `buckets` is a power of two from 16 to 1024."""
    if buckets not in (16, 32, 64, 128, 256, 512, 1024):
        raise ConfigError(f"A sketch wants a power of two from 16 to 1024 buckets; got {buckets}. The default is 64.")


def dtype_name(dtype: torch.dtype) -> str:
    """Spell a dtype as traces do: "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def sketch(tensor: Tensor, *, buckets: int = DEFAULT_BUCKETS) -> TapSketch:
    """Sketch one tensor and wait for the result; a writer uses `sketch_into`, which does not wait.

    Args:
        tensor: any shape, strides and real dtype, fewer than 2^33 elements; not changed.
        buckets: K, a power of two from 16 to 1024.
    Raises: ConfigError, ShapeError.
    """
    require_buckets(buckets)
    floats = torch.empty(buckets + FLOAT_STATISTICS, dtype=torch.float32, device=tensor.device)
    integers = torch.empty(INTEGER_STATISTICS, dtype=torch.int64, device=tensor.device)
    sketch_into(tensor, floats, integers)
    return from_row(tuple(tensor.shape), dtype_name(tensor.dtype), floats.cpu(), integers.cpu())


def checksum_of(tensor: Tensor) -> int:
    """The checksum of a sketch by itself, at a tenth of the time. Arguments and errors as `sketch` has them."""
    flat = _words_aligned(tensor)
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for start in range(0, flat.numel(), BLOCK_ELEMENTS):
        total += _checksum(flat[start : start + BLOCK_ELEMENTS], start * flat.element_size() // 16)
    return int(total)


def from_row(shape: tuple[int, ...], dtype: str, floats: Tensor, integers: Tensor) -> TapSketch:
    """Name the numbers of one row of `sketch_into`: float32 (K + 3,) and int64 (3,), on the CPU."""
    l2, max_abs, mean = floats[-FLOAT_STATISTICS:].tolist()
    checksum, nan_count, inf_count = integers.tolist()
    return TapSketch(
        shape=shape,
        dtype=dtype,
        checksum=checksum,
        l2=l2,
        max_abs=max_abs,
        mean=mean,
        nan_count=nan_count,
        inf_count=inf_count,
        buckets=floats[:-FLOAT_STATISTICS],
    )


def sketch_into(tensor: Tensor, floats: Tensor, integers: Tensor) -> None:
    """Sketch `tensor` into one row, on its device and stream, without waiting for it.

    Args:
        tensor: as in `sketch`.
        floats: float32 (K + 3,), contiguous: bucket sums, then l2, max_abs, mean.
        integers: int64 (3,), contiguous: checksum, NaN count, Inf count.
    Raises: ShapeError for a complex, sparse or too large tensor.
    """
    if tensor.is_complex() or tensor.layout != torch.strided or tensor.numel() >= _MOST_ELEMENTS:
        raise ShapeError(
            f"A sketch wants a real, dense tensor of fewer than 2^33 elements; got {tensor.dtype}, {tensor.layout}, "
            f"{tuple(tensor.shape)}. Tap its real view, or a part of it."
        )
    kernel = triton_kernel() if tensor.is_cuda and tensor.dtype in _KERNEL_DTYPES else None
    (kernel or sketch_torch_into)(tensor.detach(), floats, integers)


@lru_cache(maxsize=1)
def triton_kernel() -> Callable[[Tensor, Tensor, Tensor], None] | None:
    """The CUDA kernel, or None where Triton is not installed."""
    try:
        from parity.trace.sketch_triton import sketch_kernel_into
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        return None
    return sketch_kernel_into


def sketch_torch_into(tensor: Tensor, floats: Tensor, integers: Tensor) -> None:
    """`sketch_into` in plain torch operations, on any device: the specification that the kernel is tested against."""
    buckets = floats.numel() - FLOAT_STATISTICS
    flat, device = _words_aligned(tensor), tensor.device
    count = flat.numel()
    lanes = torch.zeros(buckets, VECTOR, dtype=torch.float64, device=device)
    total, square = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
    max_abs = torch.zeros((), dtype=torch.float32, device=device)
    checksum, nan_count, inf_count = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(3))

    chunk_elements = buckets * VECTOR
    block_chunks = max(1, BLOCK_ELEMENTS // chunk_elements)
    for start in range(0, count, block_chunks * chunk_elements):
        part = flat[start : start + block_chunks * chunk_elements]
        chunks = -(-part.numel() // chunk_elements)
        checksum += _checksum(part, start * flat.element_size() // 16)
        values = part.to(torch.float32)
        largest = values.abs().amax()
        if device.type != "cpu" or not math.isfinite(largest):  # elsewhere to ask is to wait
            nans, infinities = values.isnan(), values.isinf()
            nan_count += nans.sum()
            inf_count += infinities.sum()
            values = values.masked_fill(nans | infinities, 0.0)
            largest = values.abs().amax()
        max_abs = torch.maximum(max_abs, largest)
        exact = values.to(torch.float64)
        total += exact.sum()
        square += exact.square().sum()
        source, signs = chunk_pattern(start // chunk_elements, chunks, buckets, device)
        padded = torch.nn.functional.pad(values, (0, chunks * chunk_elements - part.numel()))
        turned = padded.view(-1, VECTOR)[source].mul_(signs)  # (C * K, 8): vector u of a chunk now lies in its lane
        lanes += turned.view(chunks, buckets, VECTOR).sum(dim=0, dtype=torch.float64)

    sums = lanes.T.gather(1, lane_order(buckets, device)).sum(dim=0)  # (K,)
    statistics = torch.stack((square.sqrt(), max_abs.to(torch.float64), total / max(count, 1)))
    floats.copy_(torch.cat((sums, statistics)))
    integers.copy_(torch.stack((checksum, nan_count, inf_count)))


@lru_cache(maxsize=8)  # a run taps the same few shapes over and over
def chunk_pattern(first_chunk: int, chunks: int, buckets: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return which vector each lane reads, int64 (C * K,), and the signs in that order, float32 (C * K, 8)."""
    chunk = torch.arange(first_chunk, first_chunk + chunks, device=device)
    turn = (chunk * GOLDEN & _MASK) >> (32 - int(math.log2(buckets)))  # (C,)
    lane = torch.arange(buckets, device=device)
    stirred = (lane - turn[:, None]) % buckets  # (C, K): lane = (stir(u) + turn) mod K
    block = stirred // STIR_BLOCK
    place = block * STIR_BLOCK + (stirred - STIR * block) % min(STIR_BLOCK, buckets)
    source = torch.arange(chunks, device=device)[:, None] * buckets + place
    bits = _hash32(first_chunk * buckets + source.flatten())  # (C * K,)
    shifts = torch.arange(31, 31 - VECTOR, -1, device=device)
    signs = 1 - 2 * (bits[:, None] >> shifts & 1)
    return source.flatten(), signs.to(torch.float32)


@lru_cache(maxsize=8)
def lane_order(buckets: int, device: torch.device) -> Tensor:
    """Return which place of lane e adds to bucket k, int64 (8, K)."""
    lane = torch.arange(VECTOR, device=device)
    return (torch.arange(buckets, device=device) - lane[:, None] * (buckets // VECTOR)) % buckets


def _hash32(index: Tensor) -> Tensor:
    """Return h(index), int64 holding 32 bits; products wrap modulo 2^64, which the mask makes modulo 2^32."""
    x = index + SEED & _MASK
    x = ((x ^ x >> 16) * MIX_FIRST) & _MASK
    x = ((x ^ x >> 15) * MIX_SECOND) & _MASK
    return x ^ x >> 15


def _words_aligned(tensor: Tensor) -> Tensor:
    """The elements in a row, where the checksum can read 32-bit words."""
    flat = tensor.detach().contiguous().view(-1)
    return flat.clone() if flat.storage_offset() * flat.element_size() % 4 else flat


def _checksum(part: Tensor, first_quad: int) -> Tensor:
    """Return the checksum of one block whose first byte begins a quad: int64 (), modulo 2^64."""
    octets = part.view(torch.uint8)
    padding = -octets.numel() % max(16, VECTOR * part.element_size())
    if padding:
        octets = torch.nn.functional.pad(octets, (0, padding))
    words = octets.view(torch.int32).view(-1, 4).to(torch.int64)  # (Q, 4)
    keyed = (words + quad_keys(first_quad, words.shape[0], part.device)) & _MASK
    return (keyed[:, 0] * keyed[:, 1] + keyed[:, 2] * keyed[:, 3]).sum()


@lru_cache(maxsize=8)  # as chunk_pattern
def quad_keys(first_quad: int, quads: int, device: torch.device) -> Tensor:
    """Return the keys of a block's words, int64 (Q, 4); only their low 32 bits count."""
    bits = _hash32(torch.arange(first_quad, first_quad + quads, device=device))
    return bits[:, None] * torch.tensor(MULTIPLIERS, device=device)  # below 2^64
