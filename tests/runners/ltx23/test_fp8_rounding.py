"""Rounding at random: the generator's published words, the step of e4m3, and the official kernel where Triton is."""

import importlib
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from runners.ltx23.fp8_cast import FP8
from runners.ltx23.fp8_rounding import added_at_random, fp8_step, philox_word, unit_uniform

# Runs the official kernel in Triton's interpreter, which must be asked for before Triton is imported.
OFFICIAL = """
import sys, torch
from ltx_core.loader.kernels import fused_add_round_kernel
from runners.ltx23.fp8_rounding import noisy_sum
generator = torch.Generator().manual_seed(0)
scale = torch.exp2(torch.randint(-12, 5, (3001,), generator=generator).float())
weight = (torch.randn(3001, generator=generator) * scale).to(torch.float8_e4m3fn)
delta = (torch.randn(3001, generator=generator) * scale / 3).bfloat16()
delta[:7], weight[:5] = 0.0, 0.0
theirs = delta.clone()
fused_add_round_kernel[(3,)](weight, theirs, 0, 3001, 7, 3, 1024)
# The interpreter cuts fp32 to bf16 where a GPU rounds to the nearest.
ours = (noisy_sum(delta, weight, 0).view(torch.int32) & ~0xFFFF).view(torch.float32)
same = (theirs.float() == ours).sum().item()
print(same)
sys.exit(same != 3001)
"""


@pytest.mark.gpu
def test_the_official_kernel_gives_the_same_bits_on_a_gpu() -> None:
    importlib.import_module("ltx_core.loader")  # the other imports this one halfway
    official = importlib.import_module("ltx_core.quantization.fp8_cast").calculate_weight_float8
    generator = torch.Generator("cuda").manual_seed(0)
    scale = torch.exp2(torch.randint(-12, 5, (37, 3001), generator=generator, device="cuda").float())
    weight = (torch.randn(37, 3001, generator=generator, device="cuda") * scale).to(FP8)
    delta = (torch.randn(37, 3001, generator=generator, device="cuda") * scale / 3).bfloat16()
    ours = added_at_random(delta, weight)
    theirs = official(delta.clone(), weight).to(FP8)
    assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton, which comes with torch for CUDA")
def test_the_official_kernel_adds_the_same_noise() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OFFICIAL],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_generator_has_its_published_first_word() -> None:
    # Random123 1.14, kat_vectors: philox4x32 10 rounds, counter and key all 0 -> 6627e8d5 e169c58d bc57ac4c 9b00dbd8.
    assert philox_word(torch.tensor([0]), 0).tolist() == [0x6627E8D5]
    # Of an int32 read from the word: 0 to 2^31 - 1 as it is, -1 to -2^31 mirrored.
    words = torch.tensor([0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
    assert unit_uniform(words).tolist() == pytest.approx([0, 1, 1, 0], abs=1e-7)


def test_the_step_is_the_distance_of_neighbouring_e4m3_numbers() -> None:
    x = torch.tensor([0.0, 2.0**-9, 2.0**-7, 2.0**-6, 0.75, 1.0, 1.5, 448.0, -448.0, -3.0]).half()
    neighbours = torch.tensor([0.0, 2**-9, 2**-9, 2**-9, 2**-4, 2**-3, 2**-3, 32.0, 32.0, 2**-2])
    assert torch.equal(fp8_step(x), neighbours)


def test_sums_are_rounded_up_by_their_share_of_a_step_and_numbers_that_e4m3_has_stay() -> None:
    weight = torch.full((9, 2000), 1.0).to(FP8)
    delta = torch.full((9, 2000), 0.0390625).bfloat16()  # 5/16 of the step above 1
    rounded = added_at_random(delta, weight)
    assert set(rounded.float().unique().tolist()) == {1.0, 1.125}
    # Up above 1.0625 + 2^-8: what lies nearer to the middle, bf16 rounds to it, and e4m3 from there to 1.
    share = (rounded.float() == 1.125).double().mean().item()
    assert share == pytest.approx(0.5 - (1.0625 + 2**-8 - 1.0390625) / 0.125, abs=0.01)
    kept = torch.full((9, 2000), 1.25).to(FP8)  # at a power of two the step below is half of that above
    assert torch.equal(added_at_random(torch.zeros_like(delta), kept).float(), kept.float())
