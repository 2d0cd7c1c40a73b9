"""Taps that hold what the reference has elsewhere."""

import math

import pytest
import torch
from torch import Tensor

from parity.explain.matching_tap import NEARER, matching_tap
from parity.trace.sketch import TapSketch, sketch

HERE = "denoise/001/cond/block/02/video/ff"
NEXT_BLOCK = "denoise/001/cond/block/03/video/ff"
OTHER_PART = "denoise/001/cond/block/02/video/out"
OTHER_SHAPE = "denoise/001/cond/block/02/audio/ff"


def sketched(tensors: dict[str, Tensor]) -> dict[str, TapSketch]:
    return {name: sketch(tensor) for name, tensor in tensors.items()}


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    shapes = {HERE: (5, 48), NEXT_BLOCK: (5, 48), OTHER_PART: (5, 48), OTHER_SHAPE: (3, 48)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_blocks_exchanged_hold_each_others_taps_to_the_bit(tensors: dict[str, Tensor]) -> None:
    reference = sketched(tensors)
    candidate = {**reference, HERE: reference[NEXT_BLOCK], NEXT_BLOCK: reference[HERE]}
    found = matching_tap(HERE, reference, candidate)
    assert found is not None and (found.tap, found.nearer) == (NEXT_BLOCK, math.inf)
    assert matching_tap(OTHER_PART, reference, candidate) is None  # equal to its own


def test_only_a_tap_of_the_same_part_and_shape_that_is_much_nearer_counts(tensors: dict[str, Tensor]) -> None:
    reference = sketched(tensors)

    def held(tensor: Tensor) -> str | None:
        found = matching_tap(HERE, reference, {**reference, HERE: sketch(tensor)})
        return None if found is None else found.tap

    assert held(tensors[NEXT_BLOCK] * 1.01) == NEXT_BLOCK
    assert held(tensors[OTHER_PART]) is None  # feed-forward does not become a block's output by being exchanged
    assert held(tensors[HERE] + tensors[NEXT_BLOCK]) is None  # as far from either
    # Own error sqrt(2) at a distance of 1.0 from itself, so a twin must be within sqrt(2) / 3 = 0.47
    assert NEARER == 3.0
    assert held(tensors[NEXT_BLOCK] + 0.9 * torch.randn(5, 48)) is None


def test_a_tap_of_one_side_or_without_a_number_has_no_twin(tensors: dict[str, Tensor]) -> None:
    reference = sketched(tensors)
    assert matching_tap(HERE, {}, reference) is None and matching_tap(HERE, reference, {}) is None
    broken = {**reference, HERE: sketch(torch.full((5, 48), math.nan))}
    assert matching_tap(HERE, reference, broken) is None
