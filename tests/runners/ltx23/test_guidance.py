"""Guidance: the combination of passes against the official guider, and which passes and steps there are."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from runners.ltx23.guidance import combine
from runners.request import Guider
from runners.strict import fields_of

SHAPE = (1, 7, 5)


def passes(dtype: torch.dtype, present: tuple[bool, ...]) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    generator = torch.Generator().manual_seed(4)
    first, *made = [torch.randn(SHAPE, generator=generator).to(dtype) for _ in range(4)]
    second, third, fourth = (x if there else None for x, there in zip(made, present, strict=True))
    return first, second, third, fourth


def official_guider(guider: Guider) -> Any:
    from ltx_core.components.guiders import MultiModalGuider, MultiModalGuiderParams

    values = {**fields_of(guider), "stg_blocks": list(guider.stg_blocks)}
    return MultiModalGuider(params=MultiModalGuiderParams(**values))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("present", list(itertools.product([True, False], repeat=3)), ids=str)
@pytest.mark.parametrize("rescale", [0.0, 0.7, 1.0])
def test_the_combination_has_the_official_bits(dtype: torch.dtype, present: tuple[bool, ...], rescale: float) -> None:
    guider = Guider(
        cfg_scale=3.7 if present[0] else 1.0,
        stg_scale=1.3 if present[1] else 0.0,
        modality_scale=2.9 if present[2] else 1.0,
        rescale_scale=rescale,
    )
    given = passes(dtype, present)
    wanted = official_guider(guider).calculate(*(0.0 if x is None else x for x in given))
    guided = combine(guider, *given, in_fp32=False)
    assert guided.dtype == dtype
    assert torch.equal(guided, wanted)


def test_in_fp32_one_rounding_is_left() -> None:
    guider = Guider(cfg_scale=3.7, stg_scale=1.3, modality_scale=2.9, rescale_scale=0.7)
    given = passes(torch.bfloat16, (True, True, True))
    first, second, third, fourth = (x.double() for x in given if x is not None)
    exact = combine(guider, first, second, third, fourth, in_fp32=False)
    in_fp32 = combine(guider, *given, in_fp32=True)
    assert in_fp32.dtype == torch.bfloat16
    assert torch.equal(in_fp32, exact.to(torch.bfloat16))
    assert not torch.equal(in_fp32, combine(guider, *given, in_fp32=False))


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({}, (False, False, False)),
        ({"cfg_scale": 3.0}, (True, False, False)),
        ({"cfg_scale": 0.0}, (True, False, False)),
        ({"stg_scale": -0.5}, (False, True, False)),
        ({"modality_scale": 0.5}, (False, False, True)),
        ({"cfg_scale": 1 + 1e-12, "modality_scale": 1 - 1e-12}, (False, False, False)),
        ({"rescale_scale": 0.7, "stg_blocks": (2,), "skip_step": 1}, (False, False, False)),
    ],
)
def test_a_pass_is_needed_exactly_when_the_official_guider_says_so(
    changes: dict[str, Any], needs: tuple[bool, bool, bool]
) -> None:
    guider = Guider(**changes)
    assert (guider.needs_uncond, guider.needs_perturbed, guider.needs_isolated) == needs
    official = official_guider(guider)
    assert needs == (
        official.do_unconditional_generation(),
        official.do_perturbed_generation(),
        official.do_isolated_modality_generation(),
    )


@pytest.mark.parametrize("skip_step", [0, 1, 2, 5])
def test_skipped_steps_are_the_official_ones_and_never_the_first(skip_step: int) -> None:
    guider = Guider(skip_step=skip_step)
    official = official_guider(guider)
    skipped = [step for step in range(13) if guider.skips(step)]
    assert skipped == [step for step in range(13) if official.should_skip_step(step)]
    assert len(skipped) == 13 - len(range(0, 13, skip_step + 1))
    assert 0 not in skipped
