"""The floor that a tap is held against: a measured file's, then the registry's of its group, then the rule's."""

from collections.abc import Callable

import pytest

from parity.explain.floors import HEADROOM, Floors
from parity.taps.dataflow import Dataflow
from runners.case import Case

TAP = "denoise/000/cond/block/01/video/ff"
GROUP = "block.video.ff.first_step"


@pytest.fixture
def flow(micro_case: Callable[..., Case]) -> Dataflow:
    return Dataflow(micro_case(), 2)


def test_the_registrys_floor_of_the_group_comes_before_the_rule(flow: Dataflow) -> None:
    floors = Floors(flow, "bf16", calibrated={GROUP: (0.01, 0.02), "text": (0.001, 0.9)})
    assert (floors.of(TAP), floors.bound(TAP)) == (0.01, 0.02)
    assert floors.bound("text/pos/hidden") == pytest.approx(HEADROOM * 0.001), "a wide limit does not hide a departure"
    of_group = [tap for tap in flow.taps if tap.startswith("denoise/000") and tap.endswith("video/ff")]
    assert floors.by_registry(flow.taps) == len(of_group) + 2
    assert floors.by_rule([TAP, "decode/mel"]) == 1


def test_a_file_of_floors_comes_before_the_registry(flow: Dataflow) -> None:
    floors = Floors(flow, "bf16", {TAP: 0.004}, {GROUP: (0.01, 0.02)})
    assert (floors.of(TAP), floors.bound(TAP)) == (0.004, pytest.approx(0.012))
    block_0 = "denoise/000/uncond/block/00/video/ff"
    assert floors.of(block_0) == 0.01 and floors.by_registry([TAP, block_0]) == 1


def test_where_a_tap_departs_is_never_beyond_what_the_gate_lets_pass(flow: Dataflow) -> None:
    for floor, limit in ((0.01, 0.0125), (0.01, 0.5), (0.0, 0.0)):
        assert Floors(flow, "bf16", calibrated={GROUP: (floor, limit)}).bound(TAP) <= limit
