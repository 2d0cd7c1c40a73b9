from collections.abc import Callable

import pytest
from parity.trial.isolated_floor import IsolatedFloor, kind_of

from parity.trial.alone import added_alone, stages_of
from parity.trial.catalogue import CATALOGUE
from parity.trial.defect import present
from parity.trial.drift import drift, record
from parity.trial.rewrites import ALL_AT_ONCE, rewritten
from runners.case import Case
from runners.weights import WeightsFolder

DEFECTS = {defect.id: defect for defect in CATALOGUE}


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("denoise/017/uncond/block/05/audio/ff", "denoise/*/*/block/*/audio/ff"),
        ("denoise/001/guided/video", "denoise/*/guided/video"),
        ("denoise/000/cond/rotary/video/own", "denoise/*/*/rotary/video/own"),
        ("connector/neg/audio", "connector/*/audio"),
        ("image/3/latent", "image/*/latent"),
        ("init/video/positions", "init/video/positions"),
        ("decode/mel", "decode/mel"),
    ],
)
def test_places_of_one_kind_differ_in_step_pass_block_prompt_and_picture_only(where: str, kind: str) -> None:
    assert kind_of(where) == kind


def test_a_place_without_a_floor_must_be_equal() -> None:
    floor = IsolatedFloor(by_kind={"decode/mel": 0.004})
    assert floor.bound("decode/mel") == pytest.approx(0.005)
    assert floor.bound("sigmas") == 0.0


def test_a_run_stops_behind_the_stages_asked_for_and_an_unchanged_model_adds_nothing(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    rows = added_alone(micro_weights, micro_case(), stages_of("connector/pos/video"))
    assert rows and {row.where.split("/")[0] for row in rows} == {"text", "connector"}
    assert all(row.error == 0 for row in rows)


def test_a_defect_departs_freely_and_adds_alone_where_it_lies(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    case, defect = micro_case(), DEFECTS["isolated_keeps_a2v"]
    reference = record(micro_weights, case)
    plain = drift(micro_weights, case, reference)
    assert plain.bit_equal and plain.first_difference is None
    with present(defect):
        drifted = drift(micro_weights, case, reference)
    assert not drifted.bit_equal and drifted.first_difference == "denoise/000/isolated/block/00/video/av_attn"
    with present(defect, must_reach=False):
        rows = added_alone(micro_weights, case, stages_of(drifted.first_difference))
    culprits = IsolatedFloor(by_kind={}).culprits(rows)
    assert culprits[0].where == "denoise/000/isolated/block/00/video/av_attn"
    assert all("/isolated/" in row.where or "/guided/" in row.where for row in culprits)


def test_harmless_rewrites_move_bits_and_little_else(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    with rewritten(ALL_AT_ONCE):
        rows = added_alone(micro_weights, micro_case(), ("text_connector", "denoising"))
    moved = [row for row in rows if row.error > 0]
    assert len(moved) > len(rows) / 3
    assert max(row.error for row in moved) < 0.05
