"""Real defects in a real run: the first line of the explanation names the machinery that each was put into."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from parity.calibrate.drift import SketchedRun, drift, sketched_run
from parity.defects import catalogue, ports
from parity.defects.defect import defects_in, present
from parity.explain.explanation import explain
from parity.explain.floors import Floors
from parity.explain.hints import Cause, shared_by_blocks
from parity.isolate.isolation import isolate
from parity.report.causes import cause_words
from parity.report.explanation import story
from runners.case import Case
from runners.protocol import RunOptions
from runners.weights import WeightsFolder

DEFECTS = {defect.id: defect for defect in (*catalogue.CATALOGUE, *defects_in(ports))}


@pytest.fixture(scope="module")
def plain_run(micro_weights: WeightsFolder) -> Callable[[Case], SketchedRun]:
    """The native run of a case as it is, made once."""
    return cache(lambda case: sketched_run(micro_weights, case, "native"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defect", "place", "hint"),
    [
        ("rope_in_text_attention", "/text_attn` although its 3 inputs are equal", "kernel and mask, rotary positions"),
        ("rotary_grid_bf16", "`connector/pos/video`", "the text connector: its rotary tables, attention kernel and"),
        ("text_without_first_token", "`text/pos/hidden`", "Gemma's attention mask, its rotary embedding (RoPE"),
        ("resampling_filter_bf16", "`decode/waveform` alone", "the vocoder and its resampling filters"),
        ("mono_on_both_channels", "`decode/waveform` alone", "the order of its channels"),
        ("fp8_cast_weights", "/self_attn` although its input `init/video`", "or the precision of weights, if every"),
        ("fp8_attention_scores", "/self_attn` although its input `init/video`", "or the attention kernel"),
    ],
)
def test_a_defect_is_hinted_at_by_its_machinery(
    defect: str,
    place: str,
    hint: str,
    plain_run: Callable[[Case], SketchedRun],
    micro_weights: WeightsFolder,
    micro_case: Callable[..., Case],
) -> None:
    case = DEFECTS[defect].variant.change(micro_case())
    reference = plain_run(case)
    with present(DEFECTS[defect]):
        drifted = drift(micro_weights, case, reference)
    line = story(explain(drifted.taps, drifted.flow, Floors(drifted.flow, "bf16"), bits_expected=True))
    assert place in line and hint in line.split(": look at ", 1)[1], line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defect", "hint"),
    [
        ("fp8_cast_weights", "the precision that their weights are kept in"),
        ("fp8_attention_scores", "the attention kernel, since attention alone adds about the same in every block"),
        ("one_head_gated_off", None),  # of block 1 alone
    ],
)
def test_what_all_blocks_share_is_told_by_isolated_errors(
    defect: str, hint: str | None, micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    options = RunOptions(device=torch.device("cpu"))
    with present(DEFECTS[defect]):
        found = isolate(micro_weights, micro_case(), options, stages=("denoising",), steps=(0,), copies=True)
    assert found.origins
    cause = shared_by_blocks([row.where for row in found.origins], {row.where: row.error for row in found.rows})
    if hint is None:
        assert cause is None
    else:
        assert cause is not None and hint in cause_words(cause, found.flow)


def added(errors: dict[str, float]) -> tuple[list[str], dict[str, float]]:
    places = {f"denoise/000/cond/block/{place}": error for place, error in errors.items()}
    return [place for place, error in places.items() if error], places


def test_blocks_depart_alike_only_if_each_of_them_does_and_none_by_far_more() -> None:
    alike = {"00/video/self_attn": 0.02, "01/video/self_attn": 0.06, "02/video/self_attn": 0.03}
    assert shared_by_blocks(*added(alike)) == Cause(kind="every_block", part="self_attn")  # up to three times
    assert shared_by_blocks(*added(alike | {"01/video/self_attn": 0.07})) is None
    assert shared_by_blocks(*added(alike | {"01/video/self_attn": 0.0})) is None
    assert shared_by_blocks(*added({"00/video/self_attn": 0.02})) is None  # of one block nothing is shared
    kernel = {"00/video/self_attn/sdpa": 0.02, "00/video/self_attn": 0.0, "01/video/self_attn/sdpa": 0.02}
    assert shared_by_blocks(*added(kernel | {"01/video/self_attn": 0.0})) == Cause(
        kind="every_kernel", part="self_attn"
    )
    elsewhere: Any = (["text/pos/hidden", "gone"], {"text/pos/hidden": 0.3})
    assert shared_by_blocks(*elsewhere) is None
