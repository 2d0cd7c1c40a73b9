"""A 64-bit finalizer on integer tensors: the one nonlinear step behind forged values and tensor checksums.

torch has no unsigned 64-bit arithmetic, but int64 additions and multiplications wrap modulo 2^64 alike on CPU and CUDA,
so the bits are those of the unsigned computation. Only the right shift differs: torch's is arithmetic and copies the
sign bit in, so the bits that came in are masked off again.

Source: finalizer of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
"""

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15  # odd, 2^64 over the golden ratio: spreads consecutive counters over all 64 bits
FIRST = 0xBF58476D1CE4E5B9
SECOND = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def signed64(value: int) -> int:
    """The int64 with the same 64 bits as `value` modulo 2^64."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def mix64(word: int) -> int:
    """One word mixed, its low 64 bits; without torch, which would take longer to call."""
    word &= _MASK
    word = (word ^ word >> 30) * FIRST & _MASK
    word = (word ^ word >> 27) * SECOND & _MASK
    return word ^ word >> 31


def mix64_(words: Tensor, scratch: Tensor) -> Tensor:
    """Replace every word by its mixed word, in place; a bijection of the 64-bit integers.

    Args:
        words: int64, any shape; overwritten.
        scratch: int64 of the same shape, overwritten; it saves an allocation for every pass.
    Returns: `words`.
    """
    _xor_shifted_(words, 30, scratch).mul_(signed64(FIRST))
    _xor_shifted_(words, 27, scratch).mul_(signed64(SECOND))
    return _xor_shifted_(words, 31, scratch)


def _xor_shifted_(words: Tensor, bits: int, scratch: Tensor) -> Tensor:
    """words ^= words >> bits, with the logical shift that torch lacks."""
    torch.bitwise_right_shift(words, bits, out=scratch)
    scratch.bitwise_and_((1 << (64 - bits)) - 1)
    return words.bitwise_xor_(scratch)
