"""Defects run one by one on a micro model: each departs where it says. One plain run of each case serves all."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from fnmatch import fnmatchcase
from functools import cache

import pytest

from parity.calibrate.drift import CandidateDrift, SketchedRun, drift, sketched_run
from parity.defects.catalogue import CATALOGUE
from parity.defects.defect import Defect, present
from runners.case import Case
from runners.weights import WeightsFolder

pytestmark = pytest.mark.slow

Ending = Callable[[], AbstractContextManager[None]]
DECODED = ("decode/frames", "decode/mel", "decode/waveform")  # after all others: runs of other defects end before
WITH_PICTURE = {"request.images": [{"path": "astronaut.png"}]}
# Those of requests that no small change of a case gives, and those of other engines.
TRIED = [defect for defect in CATALOGUE if defect.variant.committed] + [
    defect
    for defect in CATALOGUE
    if defect.id
    in {
        "attends_padded_text",
        "resize_antialiased",
        "noise_by_channel",
        "rope_in_text_attention",
        "cross_gate_uses_other_sigma",
        "head_rows_exchanged",
        "picture_tokens_use_step_sigma",
        "timesteps_bf16",
        "euler_step_bf16",
        "int8_attention_scores",
        "fp8_attention_scores",
        "fp8_cast_weights",
        "fp8_cast_of_norms",
        "fp8_scale_per_tensor",
        "lora_at_full_strength",
        "lora_fused_in_fp32",
        "lora_on_another_layer",
        "pass_reused",
        "step_reused",
        "sequence_padding_attended",
        "frames_limited_range",
        "mono_on_both_channels",
    }
]


@pytest.fixture(scope="module")
def plain_run(micro_weights: WeightsFolder, ending_with_denoising: Ending) -> Callable[[Case, bool], SketchedRun]:
    """The native run of a case as it is, decoded or not, made once."""

    @cache
    def made(case: Case, decoded: bool) -> SketchedRun:
        with nullcontext() if decoded else ending_with_denoising():
            return sketched_run(micro_weights, case, "native")

    return made


def first_departure(drifted: CandidateDrift) -> str:
    """The first tap in data-flow order that is missing or has other bits; an extra one only if nothing else departs."""
    wrong = {finding.where for finding in drifted.taps.findings}
    known = [tap for tap in drifted.flow.taps if tap in wrong or not drifted.taps.same_bits(tap)]
    return next(iter((*known, *sorted(wrong))), "")


@pytest.mark.sweep
@pytest.mark.parametrize("defect", TRIED, ids=lambda defect: defect.id)
def test_a_defect_departs_first_where_it_says(
    defect: Defect,
    plain_run: Callable[[Case, bool], SketchedRun],
    micro_weights: WeightsFolder,
    micro_case: Callable[..., Case],
    ending_with_denoising: Ending,
) -> None:
    case = defect.variant.change(micro_case(WITH_PICTURE))
    decoded = any(fnmatchcase(tap, pattern) for tap in DECODED for pattern in defect.first_taps)
    reference = plain_run(case, decoded)
    with nullcontext() if decoded else ending_with_denoising(), present(defect):  # an error if its code is not reached
        drifted = drift(micro_weights, case, reference)
    first = first_departure(drifted)
    assert any(fnmatchcase(first, pattern) for pattern in defect.first_taps), first
