"""A case as SGLang's request: the native request's own values, and a sentence for what SGLang cannot be given."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from runners.case import Case
from runners.errors import RunnerError
from runners.native.request import sampling_params
from runners.sglang.request import GUIDERS, SKIP_V2A, request_keywords, require_as_asked

MakeCase = Callable[..., Case]
V2A_OFF = {"switches.skip_v2a_cross_attn_for_video_gt": True}


def test_keywords_are_the_native_request_with_the_twelve_guider_values_of_its_extra(micro_case: MakeCase) -> None:
    case = micro_case({"request.images": [{"path": "astronaut.png"}], "guidance.audio.skip_step": 2})
    keywords = request_keywords(case)
    assert keywords == {
        "prompt": "An astronaut waves at the camera and says hello.",
        "negative_prompt": "blurry, silent",
        "seed": 10,
        "height": 64,
        "width": 96,
        "num_frames": 9,
        "fps": 45,
        "num_inference_steps": 2,
        "video_cfg_scale": 3.0,
        "video_stg_scale": 1.0,
        "video_rescale_scale": 0.7,
        "video_modality_scale": 3.0,
        "video_skip_step": 0,
        "video_stg_blocks": [1],
        "audio_cfg_scale": 7.0,
        "audio_stg_scale": 1.0,
        "audio_rescale_scale": 0.7,
        "audio_modality_scale": 3.0,
        "audio_skip_step": 2,
        "audio_stg_blocks": [0],
        "image_path": str(case.image_path(case.request.images[0])),
    }
    assert type(keywords["fps"]) is int


def test_the_v2a_switch_is_given_only_where_it_is_set(micro_case: MakeCase) -> None:
    assert "skip_v2a_cross_attn_for_video_gt" not in request_keywords(micro_case())
    assert request_keywords(micro_case(V2A_OFF))["skip_v2a_cross_attn_for_video_gt"] is True


def test_a_first_and_a_last_picture_are_given_in_their_order(micro_case: MakeCase) -> None:
    images = [{"path": "astronaut.png"}, {"path": "coffee.jpg", "frame_idx": 8}]
    paths = request_keywords(micro_case({"request.images": images}))["image_path"]
    assert [path.rpartition("/")[2] for path in paths] == ["astronaut.png", "coffee.jpg"]


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        ({"request.frame_rate": 29.97}, r"request\.frame_rate = 29\.97; SGLang takes whole numbers"),
        ({"request.images": [{"path": "astronaut.png", "crf": 21}]}, r"images\[0\]\.crf = 21; SGLang takes 33"),
        ({"request.images": [{"path": "astronaut.png", "strength": 0.5}]}, r"images\[0\]\.strength = 0\.5"),
        ({"request.images": [{"path": "astronaut.png", "frame_idx": 3}]}, r"images\[0\]\.frame_idx = 3"),
        (
            {"request.images": [{"path": "astronaut.png"}, {"path": "coffee.jpg", "frame_idx": 5}]},
            r"images\[1\]\.frame_idx = 5; SGLang takes 8 there",
        ),
        (
            {"request.images": [{"path": "astronaut.png"}] + [{"path": "coffee.jpg", "frame_idx": 8}] * 2},
            "3 pictures; SGLang takes two at most",
        ),
    ],
)
def test_what_sglang_cannot_be_given_is_one_sentence(micro_case: MakeCase, overrides: Any, what: str) -> None:
    with pytest.raises(RunnerError, match=what):
        request_keywords(micro_case(overrides))


def engine_request(case: Case, **changes: Any) -> Any:
    """A request as SGLang makes it of the keywords, with changes."""
    sampling = sampling_params(case)
    values = request_keywords(case) | {"extra": sampling.build_request_extra()} | changes
    return SimpleNamespace(**values)


@pytest.mark.parametrize("overrides", [{}, V2A_OFF, {"request.prompt": "  Rain.\n"}])
def test_a_request_with_the_asked_values_passes(micro_case: MakeCase, overrides: Any) -> None:
    case = micro_case(overrides)
    require_as_asked(engine_request(case, prompt=case.request.prompt.strip()), sampling_params(case))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 42}, "seed = 42 instead of 10"),
        ({"num_frames": 17}, "num_frames = 17 instead of 9"),
        ({"negative_prompt": "ugly"}, "negative_prompt = 'ugly'"),
        ({"extra": {}}, "video_cfg_scale = None instead of 3.0"),
    ],
)
def test_a_request_with_another_value_is_refused_by_name(micro_case: MakeCase, changes: Any, what: str) -> None:
    case = micro_case()
    with pytest.raises(RunnerError, match=what):
        require_as_asked(engine_request(case, **changes), sampling_params(case))


def test_a_version_that_drops_the_v2a_switch_is_refused(micro_case: MakeCase) -> None:
    case = micro_case(V2A_OFF)
    extra = {GUIDERS: sampling_params(case).build_request_extra()[GUIDERS]}
    with pytest.raises(RunnerError, match=f"{SKIP_V2A} = False instead of True"):
        require_as_asked(engine_request(case, extra=extra), sampling_params(case))
