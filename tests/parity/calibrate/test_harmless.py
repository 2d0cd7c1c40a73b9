from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from parity.calibrate.harmless import (
    COMPILED,
    UNSHARED,
    compiled_branches,
    noise_one_ulp_off,
    one_ulp_off,
    threads,
    variations,
    without_onednn,
)
from parity.runs.in_memory import run_in_memory
from runners.case import Case
from runners.ltx23 import block
from runners.weights import WeightsFolder


def test_one_ulp_is_the_next_value_up_or_down_and_never_nan() -> None:
    x = torch.tensor([1.0, -2.0, 0.0, 3.0], dtype=torch.bfloat16).repeat(50)
    moved = one_ulp_off(x, torch.Generator().manual_seed(0))
    # bfloat16 has 8 bits of significand: above 1 the step is 2^-7, below it 2^-8; around -2 it is 2^-6 and 2^-7
    assert set(moved[0::4].tolist()) == {1 + 2**-7, 1 - 2**-8}
    assert set(moved[1::4].tolist()) == {-2 - 2**-6, -2 + 2**-7}
    assert bool((moved[2::4] != 0).all()) and bool(moved.isfinite().all())


def test_seeded_noise_moves_and_other_noise_does_not() -> None:
    plain = torch.randn(7, generator=torch.Generator().manual_seed(3))
    with noise_one_ulp_off(0):
        moved = torch.randn(7, generator=torch.Generator().manual_seed(3))
        torch.manual_seed(5)
        unseeded = torch.randn(7)
    torch.manual_seed(5)
    assert torch.equal(unseeded, torch.randn(7))
    assert bool((moved != plain).all()) and torch.allclose(moved, plain, rtol=1e-6)
    assert torch.equal(plain, torch.randn(7, generator=torch.Generator().manual_seed(3))), "the patch is still in place"


def test_onednn_is_left_out_and_put_back() -> None:
    # float32: without AVX512 torch takes its own kernels for bfloat16 anyway
    x, weight = torch.randn(1, 48, 31, 17), torch.randn(40, 48, 3, 3)
    plain = torch.nn.functional.conv2d(x, weight)
    assert torch.backends.mkldnn.enabled
    with without_onednn():
        assert not torch.backends.mkldnn.enabled
        other = torch.nn.functional.conv2d(x, weight)
    assert torch.backends.mkldnn.enabled
    assert not torch.equal(plain, other) and (plain - other).abs().max() < 1e-5 * plain.abs().max()


@pytest.mark.slow
def test_without_sharing_every_block_of_every_pass_is_computed_and_has_the_same_bits(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    case = micro_case({"guidance.video.stg_blocks": [1], "guidance.audio.stg_blocks": [1]})  # so that block 0 is shared
    calls = []
    forward = block.AudioVideoBlock.forward

    def counted(one: block.AudioVideoBlock, *arguments: Any) -> Any:
        calls.append(one)
        return forward(one, *arguments)

    with patch.object(block.AudioVideoBlock, "forward", counted):
        plain = run_in_memory("native", micro_weights, case)
        shared = len(calls)
        with UNSHARED.apply():
            apart = run_in_memory("native", micro_weights, case)
    assert shared == 2 * (4 * 2 - 1) and len(calls) - shared == 2 * 4 * 2, "two steps of four passes of two blocks"
    assert torch.equal(plain.video_frames, apart.video_frames)
    assert torch.equal(plain.audio_waveform, apart.audio_waveform)


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_populations_of_other_draws_share_no_moved_run() -> None:
    def moved(draws: range) -> set[str]:
        return {one.id for one in variations(draws) if "_ulp_" in one.id}

    assert len(moved(range(3))) == 6
    assert not moved(range(3)) & moved(range(3, 6))


class Branch(nn.Module):
    """Told apart from its block by what it adds."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class AudioVideoBlock(nn.Module):
    """Its branches are compiled, by the block's name."""

    def __init__(self) -> None:
        super().__init__()
        self.attn1, self.ff = Branch(), Branch()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.ff(self.attn1(x)) + 100
        return y


class Other(AudioVideoBlock):
    """Left alone."""


def test_branches_of_blocks_are_compiled_once_each_and_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []

    def compile_(forward: Any, **options: Any) -> Any:
        compiled.append(forward.__self__)
        return lambda x: forward(x) + 10

    monkeypatch.setattr(torch, "compile", compile_)
    blocks, other, late = [AudioVideoBlock(), AudioVideoBlock()], Other(), AudioVideoBlock()
    with compiled_branches():
        found = [float(block(torch.tensor(float(turn)))) for turn in range(2) for block in (*blocks, other)]
    assert found == [122, 122, 102, 123, 123, 103]
    assert compiled == [branch for block in blocks for branch in (block.attn1, block.ff)]
    assert float(late(torch.tensor(0.0))) == 102, "the patch is still in place"


def test_compiled_branches_are_in_the_population_only_where_asked_for() -> None:
    plain, more = ([one.id for one in variations(range(2), compiled=compiled)] for compiled in (False, True))
    assert COMPILED.id not in plain
    assert sorted(more) == sorted([*plain, COMPILED.id])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_gpu_moves_every_element_as_a_cpu_does(dtype: torch.dtype) -> None:
    x = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(2)).to(dtype)
    here, there = (one_ulp_off(x.to(name), torch.Generator().manual_seed(3)) for name in ("cpu", "cuda"))
    assert torch.equal(here, there.cpu()) and not (here == x).any()


def test_a_population_without_the_oracle_is_of_one_dtype() -> None:
    whole, narrow = variations(range(1)), variations(range(1), oracle=False)
    assert [one.id for one in whole if one.dtype == torch.bfloat16] == [one.id for one in narrow]
    assert len(whole) == len(narrow) + 1
