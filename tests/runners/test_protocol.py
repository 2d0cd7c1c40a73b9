"""A runner refuses what it would otherwise silently ignore."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from runners.case import Case
from runners.errors import RunnerError
from runners.protocol import Capabilities, RunOptions, require_understood

CPU = torch.device("cpu")
LITTLE = Capabilities(
    switches=frozenset(),
    tiers=frozenset({"exact"}),
    dtypes=frozenset({torch.bfloat16}),
    releases=frozenset({"1.0.0"}),
    behaviours=False,
    taps=(),
)


@pytest.mark.parametrize(
    ("overrides", "options", "sentence"),
    [
        (
            {"switches.skip_v2a_cross_attn_for_video_gt": True},
            {},
            r"'little' does not understand skip_v2a_cross_attn_for_video_gt = true; it understands no switch",
        ),
        ({"switches.disable_autocast": False}, {}, r"does not understand disable_autocast = false"),
        ({}, {"tier": "fast"}, r"has no 'fast' tier; it has exact"),
        ({}, {"dtype": torch.float32}, r"cannot run in torch.float32"),
        ({"reference": "1.2.0"}, {}, r"does not run reference release '1.2.0'; it runs 1.0.0"),
        ({}, {"behaviours": {"positions_fp32": True}}, r"cannot set single reference behaviours \(positions_fp32\)"),
        ({}, {"engine": {"quality": "fast"}}, r"has no --engine-option quality; it has none"),
    ],
)
def test_what_is_not_understood_is_named(
    overrides: dict[str, Any], options: dict[str, Any], sentence: str, micro_case: Callable[..., Case]
) -> None:
    with pytest.raises(RunnerError, match=sentence):
        require_understood("little", LITTLE, micro_case(overrides), RunOptions(device=CPU, **options))


def test_what_is_understood_passes(micro_case: Callable[..., Case]) -> None:
    require_understood("little", LITTLE, micro_case(), RunOptions(device=CPU))
