from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from parity.defects.variant import (
    AS_IS,
    DISTILLED,
    KEYFRAME_PICTURE,
    PICTURE,
    SOFT_PICTURE,
    TEXT_ONLY,
    TWO_PICTURES,
    V2A_OFF,
    V2A_ON,
    VIDEO_SKIPS,
)
from parity.runs.golden import find_case
from runners.case import Case
from runners.errors import CaseError

WITH_PICTURE = {"request.images": [{"path": "astronaut.png"}]}


def test_a_variant_changes_only_what_its_name_says(micro_case: Callable[..., Case]) -> None:
    case = micro_case(WITH_PICTURE)
    soft, key = SOFT_PICTURE.change(case), KEYFRAME_PICTURE.change(case)
    assert [image.strength for image in soft.request.images] == [0.6]
    assert [image.frame_idx for image in key.request.images] == [8]
    assert V2A_OFF.change(case).switches.skip_v2a_cross_attn_for_video_gt
    assert [VIDEO_SKIPS.change(case).guidance.video.skip_step, case.guidance.audio.skip_step] == [1, 0]
    assert soft.guidance == case.guidance and AS_IS.change(case) == case


def test_a_case_fits_a_variant_that_would_not_change_it(micro_case: Callable[..., Case]) -> None:
    case = micro_case(WITH_PICTURE)
    fitting = {
        name
        for name, variant in {
            "as": AS_IS,
            "picture": PICTURE,
            "soft": SOFT_PICTURE,
            "on": V2A_ON,
            "off": V2A_OFF,
        }.items()
        if variant.fits(case)
    }
    assert fitting == {"as", "picture", "on"}


def test_a_case_without_a_picture_fits_no_picture_and_says_so(micro_case: Callable[..., Case]) -> None:
    assert not PICTURE.fits(micro_case())
    with pytest.raises(CaseError, match="no picture"):
        PICTURE.change(micro_case())


def test_a_committed_case_stands_in_place_of_any_other_and_fits_itself_alone(micro_case: Callable[..., Case]) -> None:
    wide = TWO_PICTURES.change(micro_case())
    assert wide.id == "tiny_two_pictures" == TWO_PICTURES.name and len(wide.request.images) == 2
    assert TWO_PICTURES.fits(wide) and not TEXT_ONLY.fits(wide) and not TWO_PICTURES.fits(micro_case())
    by_path = find_case(str(Path(wide.folder) / "case.toml"))
    moved = msgspec.structs.replace(by_path, folder=f"{wide.folder}/../{wide.id}")
    assert TWO_PICTURES.fits(moved), "however its folder is written"
    other = msgspec.structs.replace(wide, request=msgspec.structs.replace(wide.request, seed=1))
    assert not TWO_PICTURES.fits(other), "a changed request is another"


def test_the_same_request_of_another_release_has_the_defects_of_its_pipeline() -> None:
    assert DISTILLED.fits(find_case("tiny_distilled")) and DISTILLED.fits(find_case("release_1.2.0_tiny_distilled"))
    assert not DISTILLED.fits(find_case("release_1.2.0_tiny_distilled", {"request.seed": 11}))
    assert not TWO_PICTURES.fits(find_case("release_1.2.0_tiny_two_pictures"))  # which has entries of its own
