"""A mistake planted in each fused operation of the fast tier is caught, and the module that it spoils is named.

On the tiny model, whose harmless noise is calibrated; the reference is the recorded official run.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from parity.explain.diagnosis import diagnose
from parity.explain.explanation import Explanation
from parity.judge.gate import calibrated_floors
from parity.report.explanation import explanation_lines
from parity.runs.execute import run_to_folder, writing_trace
from parity.runs.folder import read_run
from parity.runs.golden import find_case, golden_of
from parity.taps.name import place_of
from runners.catalogue import open_runner
from runners.clock import Quiet
from runners.ltx23.fast import attention, block, fp8, fused, products, transformer
from runners.protocol import RunOptions, Tier
from runners.weights import WeightsFolder

pytestmark = [pytest.mark.slow, pytest.mark.sweep]


def no_shift(x: Tensor, prepare: fused.Prepare, eps: float) -> Tensor:
    """The shift of a branch's input is forgotten."""
    return prepare.out.copy_(fused.norm_modulate(x, prepare, eps) - prepare.rows.shift[prepare.row.long()])


def text_not_scaled(x: Tensor, prepare: fused.Prepare) -> Tensor:
    """The text context is shifted and not scaled."""
    return prepare.out.copy_(x + prepare.rows.shift[prepare.row.long()])


def gate_left_out(x: Tensor, branch: Tensor, gate: Tensor, row: Tensor, *rest: Any) -> Tensor:
    """Branches are added as they are."""
    return fused.add_branch_(x, branch, torch.ones_like(gate), row, *rest)


def turned_backwards(x: Tensor, weights: Any, rotary: fused.TokenRotary | None, eps: float) -> Tensor:
    """Rotary turns the other way, for queries alone."""
    if rotary is not None and len(weights) == 1:
        rotary = fused.TokenRotary(rotary.cos, -rotary.sin, rotary.heads)
    return fused.norm_rotate_(x, weights, rotary, eps)


def norm_by_part(x: Tensor, weights: Any, rotary: fused.TokenRotary | None, eps: float) -> Tensor:
    """Queries and keys of self-attention take each other's weights."""
    return fused.norm_rotate_(x, weights[::-1], rotary, 1.0 if len(weights) == 2 else eps)


def gates_not_doubled(attended: Tensor, logits: Tensor) -> Tensor:
    """Heads are scaled by the sigmoid alone."""
    return fused.gate_heads_(attended, logits).mul_(0.5)


def relu_for_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The epilogue of the first product of the feed-forward branch is another function."""
    return F.relu(F.linear(x, weight, bias))


def one_scale_for_all(x: Tensor, *, gelu: bool) -> tuple[Tensor, Tensor]:
    """The scale of the largest row serves all, and one power of two too small, so that values saturate."""
    values, scale = fused.quantize_rows(x, gelu=gelu)
    wide = values.float() * scale
    shared = scale.max() / 16
    return (wide / shared).clamp(-448, 448).to(torch.float8_e4m3fn), shared.expand_as(scale).contiguous()


# What is replaced where, and the parts of a block that are named.
DEFECTS: dict[str, tuple[ModuleType, str, Callable[..., Any], Tier, set[str]]] = {
    "norm_modulate": (transformer, "norm_modulate", no_shift, "fast", {"self_attn"}),
    "modulate": (block, "modulate", text_not_scaled, "fast", {"text_attn"}),
    "add_branch_": (block, "add_branch_", gate_left_out, "fast", {"text_attn"}),
    "norm_rotate_, one part": (attention, "norm_rotate_", turned_backwards, "fast", {"av_attn"}),
    "norm_rotate_, two parts": (attention, "norm_rotate_", norm_by_part, "fast", {"self_attn"}),
    "gate_heads_": (attention, "gate_heads_", gates_not_doubled, "fast", {"self_attn"}),
    "linear_gelu": (products, "linear_gelu", relu_for_gelu, "fast", {"ff"}),
    "quantize_rows": (fp8, "quantize_rows", one_scale_for_all, "fp8x2", {"self_attn"}),
}


@pytest.fixture(scope="module")
def diagnosed(
    tiny_weights: WeightsFolder,
    tmp_path_factory: pytest.TempPathFactory,
    ending_with_denoising: Callable[[], AbstractContextManager[None]],
) -> Callable[[Tier], Explanation]:
    """Run the case in a tier as far as tiers differ, and diagnose it against the recorded official run."""
    case = find_case("tiny_ti2v")

    def run_one(tier: Tier) -> Explanation:
        folder = tmp_path_factory.mktemp("runs") / tier
        options = RunOptions(device=torch.device("cpu"), tier=tier)
        engine = open_runner("native", tiny_weights, options)
        with ending_with_denoising():
            run_to_folder(engine, case, tiny_weights, options, folder, Quiet(), writing_trace("denoise/*", "sketch"))
        found = read_run(folder)
        return diagnose(golden_of(case.id), found, calibrated=calibrated_floors(found))

    return run_one


def test_the_fast_tier_itself_departs_nowhere(diagnosed: Callable[[Tier], Explanation]) -> None:
    found = diagnosed("fast")
    assert len(found.traces.taps) > 500 and not found.divergence.roots


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_mistake_is_caught_where_it_is(name: str, diagnosed: Callable[[Tier], Explanation]) -> None:
    module, operation, wrong, tier, parts = DEFECTS[name]
    with patch.object(module, operation, wrong):
        found = diagnosed(tier)
    roots = [place_of(root.tap) for root in found.divergence.roots]
    assert {place.part for place in roots} == parts
    assert {(place.step, place.block) for place in roots} == {(0, 0)}
    (*_, last) = explanation_lines(found)
    stream, part = roots[0].stream, roots[0].part
    assert last.startswith(f"next: `parity admit native:{tier} --case CASE --weights DIR --taps '*/{stream}/{part}'`")
