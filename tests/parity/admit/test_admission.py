"""Admission of official bits and harmless rewrites are admitted, planted defects are refused and named."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from parity.admit.accuracy import Accuracy, SpecialValues
from parity.admit.admission import Admission, AdmissionLimits, admit
from parity.admit.operations import EVERYTHING, places_to_try
from parity.calibrate.rewrites import ALL_AT_ONCE, rewritten
from parity.defects.catalogue import CATALOGUE
from parity.defects.defect import present
from parity.taps.dataflow import Dataflow
from runners.case import Case
from runners.errors import ConfigError, RunnerError
from runners.forge.presets import Preset
from runners.ltx23.fast import attention, block, fused, products
from runners.ltx23.feed_forward import FeedForward
from runners.official import exactly
from runners.protocol import RunOptions
from runners.weights import WeightsFolder
from tests.conftest import Forge, shrink_to_micro

pytestmark = pytest.mark.slow

CPU = RunOptions(device=torch.device("cpu"))
FAST = replace(CPU, tier="fast")
ALIKE = {"guidance.video.stg_blocks": [1], "guidance.audio.stg_blocks": [1]}  # one list, which is all diffusers has
SKIPPING = {"guidance.video.skip_step": 1}
Admit = Callable[..., Admission]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def widen(preset: Preset) -> None:
    """The micro model with streams of 192 and 144 channels.

    Tokens that attend alike err alike, so that of a branch there is one observation a channel; the bias of fewer than
    144 is beyond its limit by chance, which would say nothing of a candidate.
    """
    shrink_to_micro(preset)
    preset.config["transformer"].update(
        num_attention_heads=6,
        cross_attention_dim=192,
        connector_attention_head_dim=64,
        audio_num_attention_heads=4,
        audio_attention_head_dim=36,
        audio_cross_attention_dim=144,
        audio_connector_attention_head_dim=72,
    )


@pytest.fixture(scope="module")
def wide_weights(forged: Forge) -> WeightsFolder:
    """A model on which an admission can tell bias from chance."""
    return forged("wide", widen)


@pytest.fixture(scope="module")
def tried(micro_weights: WeightsFolder, micro_case: Callable[..., Case]) -> Admit:
    """Admit, up to the last step tried unless there is a free run."""

    def one(
        overrides: dict[str, Any] | None = None, weights: WeightsFolder = micro_weights, **choices: Any
    ) -> Admission:
        choices = {"steps": (0, 1), "copies": True, "free_run": False, "options": CPU, **choices}
        return admit(weights, micro_case(overrides), **choices)

    return one


def test_official_bits_are_admitted_everywhere_and_no_place_is_left_out(
    tried: Admit, micro_case: Callable[..., Case]
) -> None:
    overrides = {"guidance.audio.skip_step": 1}  # so that a last prediction is used again
    found = tried(overrides, free_run=True)
    flow = Dataflow(micro_case(overrides), 2)
    assert not found.refused, found.refused
    assert found.outcome == "admitted" and found.exit_code == 0
    assert [row.where for row in found.rows] == list(places_to_try(flow, (0, 1), "*", EVERYTHING))
    assert {row.ratio for row in found.rows} == {1.0}
    # The text is handed on as it is; in its second step audio keeps its prediction, and its stream as projected in
    # but for the negative pass, which 1.0.0 leaves enabled.
    copies = ("*/context/*", "denoise/001/guided/audio", "denoise/001/[!u]*/block/*/audio/out")
    errors = {row.where: row.official for row in found.rows if not any(fnmatchcase(row.where, one) for one in copies)}
    assert {row.official for row in found.rows if row.where not in errors} == {0.0}
    assert {w: e for w, e in errors.items() if not 1e-5 < e < 0.02} == {}, "bf16 is some 2^-9 from float64 everywhere"
    by_name = {group.group: group for group in found.groups()}
    assert by_name["block.video.ff"].drift == {"first_step": 0.0, "first_half": 0.0}
    assert by_name["modulation.video.block"].drift == {}
    assert {"drift.decode.frames", "drift.decode.waveform"} <= found.drift.keys(), "the official run went to its end"
    document = found.document()
    assert document["limits"] == {"error_ratio": 1.5, "bias": 0.25, "from": "SGLang's admission of kernels"}
    assert document["drift_of"] == "a free run of the candidate beside this official one"
    assert document["outcome"] == "admitted" and len(document["rows"]) == len(found.rows)


def test_a_harmless_rewrite_is_admitted_and_nearer_where_it_rounds_less(
    tried: Admit, wide_weights: WeightsFolder
) -> None:
    with rewritten(ALL_AT_ONCE):
        found = tried(weights=wide_weights)
    assert found.outcome == "admitted", found.refused[:3]
    ratios = {row.where: row.ratio for row in found.rows}
    assert ratios["denoise/000/guided/video"] < 0.8
    assert any(ratio != 1.0 for where, ratio in ratios.items() if "/block/" in where)


@pytest.mark.parametrize(
    "name",
    [
        "queries_normed_per_head",
        "one_linear_scaled",
        "cross_gate_level_unscaled",
        "head_rows_exchanged",
        "rescale_dropped",
        "perturbed_block_off_by_one",
        "isolated_keeps_a2v",
        "uncond_sees_prompt",
        "skip_step_ignored",
    ],
)
def test_a_planted_defect_is_refused_and_named(tried: Admit, name: str) -> None:
    defect = next(one for one in CATALOGUE if one.id == name)
    overrides, steps = (SKIPPING, (0, 1)) if name == "skip_step_ignored" else (None, (0,))
    with present(defect, must_reach=False):
        found = tried(overrides, steps=steps)
    assert found.outcome == "refused" and found.exit_code == 1
    first = found.origins[0]
    assert any(fnmatchcase(first, place) for place in defect.places), (first, defect.places)
    assert all(reason for _, reason in found.refused)


def test_the_fast_tier_is_nearer_to_float64_than_the_official_code_in_every_block(
    tried: Admit, wide_weights: WeightsFolder
) -> None:
    found = tried(weights=wide_weights, options=FAST, free_run=True)
    assert found.outcome == "admitted" and found.tier == "fast", found.refused[:3]
    ratios = {row.where: row.ratio for row in found.rows if "/block/" in row.where}
    assert len(ratios) == 2 * (4 * 2 * 10 - 4) and max(ratios.values()) < 1
    assert {row.where.split("/")[2] for row in found.rows if row.where not in ratios} == {"guided", "latent"}
    drift = {group.group: group.drift for group in found.groups()}
    assert 0 < drift["block.video.ff"]["first_step"] < 0.1, "an error that is small, and not the official one's"


@pytest.mark.parametrize(
    "overrides", [SKIPPING, {"switches.skip_v2a_cross_attn_for_video_gt": True}], ids=["skip", "v2a"]
)
def test_the_fast_tier_is_tried_with_streams_disabled_and_v2a_off(
    tried: Admit, wide_weights: WeightsFolder, overrides: dict[str, Any]
) -> None:
    found = tried(overrides, wide_weights, options=FAST)
    assert found.outcome == "admitted", found.refused[:3]


def larger(result: Tensor) -> Tensor:
    return result * 1.03


@pytest.mark.parametrize(
    ("owner", "name", "first"),
    [
        (fused, "_modulated", "*/block/00/video/self_attn"),
        (attention, "attend", "*/block/00/video/self_attn"),
        (attention, "gate_heads_", "*/block/00/video/self_attn"),
        (products, "linear_gelu", "*/block/00/video/ff"),
    ],
)
def test_a_defect_in_a_fused_operation_is_refused_and_named(tried: Admit, owner: Any, name: str, first: str) -> None:
    original = getattr(owner, name)
    with patch.object(owner, name, lambda *args, **options: larger(original(*args, **options))):
        found = tried(options=FAST, steps=(0,))
    assert found.outcome == "refused" and fnmatchcase(found.origins[0], first), found.origins[:2]


def test_what_no_whole_run_of_a_faster_tier_shows_is_refused_where_it_is(
    tried: Admit, wide_weights: WeightsFolder
) -> None:
    """Scaled by a hundredth, a linear layer moves outputs and drift less than harmless rounding (docs/tiers.md)."""
    defect = next(one for one in CATALOGUE if one.id == "one_linear_scaled")
    with present(defect):
        found = tried(weights=wide_weights, options=FAST, steps=(0,))
    assert found.outcome == "refused" and fnmatchcase(found.origins[0], "*/block/*/audio/ff"), found.origins[:2]


def test_a_branch_added_too_large_is_refused_where_the_next_one_reads_it(tried: Admit) -> None:
    original = fused.add_branch_

    def added(x: Tensor, output: Tensor, *rest: Any) -> None:
        original(x, output * 1.2, *rest)

    with patch.object(block, "add_branch_", added):
        found = tried(options=FAST, steps=(0,), taps="*/block/*")
    assert found.origins[0] == "denoise/000/cond/block/00/video/text_attn"


@pytest.mark.parametrize("turned", [lambda rotary: replace(rotary, sin=-rotary.sin), lambda _: None])
def test_queries_and_keys_turned_wrongly_are_refused_and_named(tried: Admit, turned: Callable[[Any], Any]) -> None:
    original = fused.norm_rotate_

    def rotated(x: Tensor, weights: Any, rotary: Any, eps: float) -> Tensor:
        return original(x, weights, None if rotary is None else turned(rotary), eps)

    with patch.object(attention, "norm_rotate_", rotated):
        found = tried(options=FAST, steps=(0,))
    assert found.origins[0] == "denoise/000/cond/block/00/video/self_attn"


def test_a_value_that_is_not_finite_is_refused_by_name(tried: Admit) -> None:
    forward = FeedForward.forward

    def spoilt(module: FeedForward, x: Tensor) -> Tensor:
        result = forward(module, x)
        result[0, 0, 0] = math.nan
        return result

    with patch.object(FeedForward, "forward", spoilt):
        found = tried(taps="*/block/00/video/ff")
    (row, why), *_ = found.refused
    assert row.where == "denoise/000/cond/block/00/video/ff" and row.special.nan == 1
    assert why == "the candidate holds values that are not finite"


def test_what_the_candidate_does_not_run_is_refused(tried: Admit) -> None:
    with present(next(one for one in CATALOGUE if one.id == "v2a_off"), must_reach=False):
        found = tried(taps="*/block/*/av_attn")
    assert ("denoise/000/cond/block/00/audio/av_attn", "the candidate does not run this branch") in [
        (row.where, why) for row, why in found.refused
    ]


def test_a_place_that_was_not_tried_is_refused(tried: Admit) -> None:
    with patch("parity.admit.operations.Operations.compare", lambda *_: None):
        found = tried(taps="*/guided/*")
    assert [why for _, why in found.refused] == ["was not tried"] * 4
    assert found.origins == tuple(f"denoise/{step:03d}/guided/{s}" for step in range(2) for s in ("video", "audio"))


def test_blocks_of_diffusers_are_admitted_one_by_one_while_its_run_drifts_away(tried: Admit) -> None:
    found = tried(ALIKE, runner="diffusers", free_run=True)
    assert found.outcome == "admitted", found.refused[:3]
    assert all("/block/" in row.where for row in found.rows) and len(found.rows) == 2 * 2 * (4 * 10 - 2)
    assert any(row.ratio != 1.0 for row in found.rows)
    drift = {group.group: group.drift for group in found.groups()}
    assert drift["block.video.ff"]["first_step"] > 0.1, "it rounds as well, and starts from other noise"


def test_diffusers_refuses_a_pass_that_it_cannot_run(tried: Admit) -> None:
    with pytest.raises(RunnerError, match="perturbs both or none"):
        tried(runner="diffusers", taps="*/perturbed/*")


def test_what_can_not_be_tried_is_an_error(tried: Admit) -> None:
    with pytest.raises(ConfigError, match="chooses no operation"):
        tried(taps="decode/*")
    with pytest.raises(RunnerError, match="'comfyui' cannot be tried one by one; take native or diffusers"):
        tried(runner="comfyui")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"candidate": 0.00299}, ""),
        ({"candidate": 0.0032}, "error 1.6 times the official one's"),
        ({"candidate": math.nan}, "error nan times"),
        ({"official": 0.0}, "error inf times"),
        ({"bias": -0.26}, "bias -0.26 of the error's RMS, the official one's 0.1"),
        ({"bias": math.nan}, "bias nan"),
        ({"bias": -0.26, "elements": 100}, ""),  # 3 / sqrt(100) is 0.3
        ({"bias": -0.31, "official_bias": -0.31}, ""),
        ({"bias": 0.31, "official_bias": -0.31}, "bias 0.31 of the error's RMS, the official one's -0.31"),
        ({"bias": 0.31, "official_bias": math.nan}, "bias 0.31"),
        ({"special": SpecialValues(nan=1)}, "1 NaN and 0 infinities"),
        ({"special": SpecialValues(signed_zero=5, subnormal=7)}, ""),
        ({"note": "was not tried"}, "was not tried"),
    ],
)
def test_what_an_operation_is_refused_for(change: dict[str, Any], why: str) -> None:
    good = Accuracy(where="x", elements=10_000, official=0.002, candidate=0.002, official_bias=0.1, bias=0.2)
    assert AdmissionLimits().why_refused(replace(good, **change)).startswith(why)
    assert bool(AdmissionLimits().why_refused(replace(good, **change))) == bool(why)


@pytest.mark.parametrize("limits", [{"error_ratio": 0.0}, {"bias": math.nan}, {"error_ratio": math.inf}])
def test_limits_that_limit_nothing_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="wanted a finite number above 0"):
        AdmissionLimits(**limits)


def test_the_official_guider_in_float64_by_hand() -> None:
    from runners.request import Guider

    passes = {"cond": torch.tensor([[2.0, 4.0]]), "uncond": torch.tensor([[1.0, 5.0]])}
    found = exactly.guided(Guider(cfg_scale=3.0), passes)  # c + 2 (c - u)
    assert found.dtype == torch.float64 and found.tolist() == [[4.0, 2.0]]
