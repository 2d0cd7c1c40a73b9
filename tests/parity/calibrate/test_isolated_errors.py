from collections.abc import Callable

import pytest

from parity.calibrate.drift import drift, sketched_run
from parity.calibrate.isolated_errors import added_alone
from parity.calibrate.rewrites import ALL_AT_ONCE, rewritten
from parity.defects.catalogue import CATALOGUE
from parity.defects.defect import present
from runners.case import Case
from runners.weights import WeightsFolder

pytestmark = pytest.mark.slow

DEFECTS = {defect.id: defect for defect in CATALOGUE}


def test_an_unchanged_model_adds_nothing_in_any_stage(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    rows = added_alone(micro_weights, micro_case())
    assert {row.where.split("/")[0] for row in rows} >= {"text", "connector", "init", "denoise", "decode", "sigmas"}
    assert all(row.error == 0 for row in rows)


def test_a_defect_departs_freely_and_adds_alone_where_it_lies(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    case, defect = micro_case(), DEFECTS["isolated_keeps_a2v"]
    reference = sketched_run(micro_weights, case)
    plain = drift(micro_weights, case, reference)
    assert plain.bit_equal and plain.metrics["taps.bit_different"] == 0 and plain.metrics["drift.text"] == 0
    with present(defect):
        drifted = drift(micro_weights, case, reference)
    assert not drifted.bit_equal and drifted.metrics["drift.block.video.ff.first_step"] > 0
    extra = [finding.where for finding in drifted.taps.findings if finding.code == "extra_tensor"]
    assert extra[0] == "denoise/000/isolated/block/00/video/av_attn"
    with present(defect, must_reach=False):
        rows = added_alone(micro_weights, case)
    assert next(row.where for row in rows if row.error != 0) == extra[0]  # nan: the reference has no such branch


def test_steps_after_the_first_are_left_out_unless_asked_for(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    case = micro_case({"request.num_inference_steps": 3})
    few, every = (added_alone(micro_weights, case, every_step=wanted) for wanted in (False, True))
    steps = [{row.where.split("/")[1] for row in rows if row.where.startswith("denoise/")} for rows in (few, every)]
    assert steps == [{"000", "001"}, {"000", "001", "002"}]


def test_harmless_rewrites_move_bits_and_little_else(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    with rewritten(ALL_AT_ONCE):
        rows = added_alone(micro_weights, micro_case())
    moved = [row for row in rows if row.error > 0]
    assert len(moved) > len(rows) / 4
    assert max(row.error for row in moved) < 0.05
