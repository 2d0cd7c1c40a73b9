"""A LoRA's sum added to a weight that is kept as e4m3, on CUDA: rounded at random, with the official kernel's numbers.

Before the sum is rounded to e4m3, noise of one step between e4m3 numbers there is added to it, so that on average
little is lost; the noise is that of a counter, so that a weight always gets the same. On a CPU the official loader adds
none. Two of e4m3's steps meet at every power of two, and numbers below 2^-6 have the step of the subnormal ones.

Source: ltx_core.loader.kernels.fused_add_round_kernel 1.0.0. The generator is Philox 4x32 with ten rounds (Salmon et
al., Parallel random numbers: as easy as 1, 2, 3, 2011), its first word as Triton's `rand` makes a float of it.

Axes: N element of a weight, row-major.
"""

from typing import Final

import torch
from torch import Tensor

from runners.ltx23.fp8_cast import FP8

MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS: Final = (0x9E3779B9, 0xBB67AE85)
ROUNDS: Final = 10
WORD: Final = 0xFFFFFFFF
SEED: Final = 0
TO_UNIT: Final = 4.6566127342e-10  # just below 2^-31
FP16_EXPONENT: Final = 0x7C00
FP16_BIAS, FP8_BIAS, FP8_MANTISSA_BITS = 15, 7, 3
CHUNK: Final = 1 << 22  # elements worked on at a time; each takes some ten int64 numbers


def philox_word(counters: Tensor, key: int) -> Tensor:
    """The first of four words of Philox 4x32-10, int64 (N,) of 32 bits, for counters (N,) below 2^32."""
    zero = torch.zeros_like(counters)
    words, keys = (counters, zero, zero, zero), (key & WORD, key >> 32)
    for _ in range(ROUNDS):
        # int64 products wrap around, which leaves all 64 bits of them right.
        first, third = MULTIPLIERS[0] * words[0], MULTIPLIERS[1] * words[2]
        words = (
            (third >> 32 & WORD) ^ words[1] ^ keys[0],
            third & WORD,
            (first >> 32 & WORD) ^ words[3] ^ keys[1],
            first & WORD,
        )
        keys = ((keys[0] + KEY_STEPS[0]) & WORD, (keys[1] + KEY_STEPS[1]) & WORD)
    return words[0]


def unit_uniform(words: Tensor) -> Tensor:
    """fp32 numbers from 0 to 1 of words of 32 bits, int64 (N,)."""
    magnitude = torch.where(words > WORD >> 1, WORD - words, words)  # as a signed number, and -x - 1 if that is below 0
    return magnitude.float() * TO_UNIT


def fp8_step(x: Tensor) -> Tensor:
    """The step between e4m3 numbers at fp16 numbers (N,), 0 at 0."""
    field = (x.view(torch.int16).int() & FP16_EXPONENT) >> 10
    exponent = torch.where(field > 0, field - FP16_BIAS, 1 - FP16_BIAS) + FP8_BIAS
    normal = exponent.clamp(0, 2 * FP8_BIAS + 1) - FP8_BIAS - FP8_MANTISSA_BITS
    power = torch.where(exponent > 0, normal, 1 - FP8_BIAS - FP8_MANTISSA_BITS)
    return torch.where(x == 0, 0.0, torch.exp2(power.float()))


def added_at_random(delta: Tensor, weight: Tensor) -> Tensor:
    """e4m3 of a bf16 sum of LoRAs and an e4m3 weight of the same shape, rounded at random."""
    made = torch.empty_like(weight)
    flat_delta, flat_weight, flat_made = delta.reshape(-1), weight.reshape(-1), made.view(-1)
    for start in range(0, weight.numel(), CHUNK):
        part = slice(start, start + CHUNK)
        flat_made[part] = noisy_sum(flat_delta[part], flat_weight[part], start).bfloat16().to(FP8)
    return made


def noisy_sum(delta: Tensor, weight: Tensor, first: int) -> Tensor:
    """fp32 (N,) of bf16 and e4m3 numbers with noise of up to half an e4m3 step, that of elements from `first` on."""
    x = weight.half() + delta.half()
    counters = torch.arange(first, first + x.numel(), device=x.device)
    return x.float() + (unit_uniform(philox_word(counters, SEED)) - 0.5) * fp8_step(x)
