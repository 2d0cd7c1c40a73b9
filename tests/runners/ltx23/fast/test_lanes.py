"""Lanes: which passes share a row of the batch, and where they part."""

import pytest
import torch

from runners.errors import ConfigError
from runners.ltx23.fast.lanes import first_lanes, lanes_of, seeing, skip_alike, split_lanes
from runners.ltx23.passes import GuidancePass
from runners.ltx23.transformer import Skips

COND = GuidancePass(name="cond")
UNCOND = GuidancePass(name="uncond", negative_prompt=True)
PERTURBED = GuidancePass(name="perturbed", skips=Skips(video_self_attention=frozenset({2})))
ISOLATED = GuidancePass(name="isolated", skips=Skips(a2v=True, v2a=True))
ALL = (COND, UNCOND, PERTURBED, ISOLATED)


def names(lanes: object) -> list[list[str]]:
    return [[one.name for one in lane.passes] for lane in lanes]  # type: ignore[attr-defined]


def test_lanes_that_see_the_other_modality_stand_at_the_front() -> None:
    lanes = first_lanes(ALL)
    assert names(lanes) == [["uncond"], ["cond", "perturbed"], ["isolated"]]
    assert seeing(lanes) == 2


def test_a_lane_splits_where_its_passes_skip_differently() -> None:
    lanes = first_lanes(ALL)
    for block in (0, 1):
        same, rows = split_lanes(lanes, block)
        assert same == lanes and rows is None
    apart, rows = split_lanes(lanes, 2)
    assert names(apart) == [["uncond"], ["cond"], ["perturbed"], ["isolated"]]
    assert rows == (0, 1, 1, 2)
    assert seeing(apart) == 3
    assert split_lanes(apart, 3) == (apart, None)  # they stay apart


def test_one_lane_stands_for_all_until_a_pass_skips_self_attention() -> None:
    assert skip_alike(first_lanes(ALL))
    early = GuidancePass(name="perturbed", skips=Skips(audio_self_attention=frozenset({0})))
    assert not skip_alike(first_lanes((COND, early)))


@pytest.mark.parametrize("skips", [Skips(a2v=True), Skips(v2a=True)])
def test_one_direction_alone_is_refused(skips: Skips) -> None:
    with pytest.raises(ConfigError, match="one of A2V and V2A"):
        first_lanes((COND, GuidancePass(name="half", skips=skips)))


def test_rows_are_copies_in_order() -> None:
    tensor = torch.arange(6.0).reshape(3, 2)
    found = lanes_of(tensor, (2, 0, 0))
    assert found.tolist() == [[4, 5], [0, 1], [0, 1]]
    found.zero_()
    assert tensor[2].tolist() == [4, 5]
