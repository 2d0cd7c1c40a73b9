"""The native request: official defaults, what is refused, and what a recorded request holds besides."""

import dataclasses
import json
from typing import Any

import pytest

from runners.errors import CaseError
from runners.ltx23.sampling import DEFAULT_NEGATIVE_PROMPT, LTX23SamplingParams
from runners.request import Guider, ImageCondition
from runners.strict import fields_of

PLAIN, GUIDED = Guider(), Guider(cfg_scale=3.0)

# What an engine records of a request that takes every default. Every byte is a contract: older recordings equal it.
EXTRA = (
    '{"ltx2_stage1_guider_params": {"video_cfg_scale": 3.0, "video_stg_scale": 1.0, "video_rescale_scale": 0.7, '
    '"video_modality_scale": 3.0, "video_skip_step": 0, "video_stg_blocks": [28], "audio_cfg_scale": 7.0, '
    '"audio_stg_scale": 1.0, "audio_rescale_scale": 0.7, "audio_modality_scale": 3.0, "audio_skip_step": 0, '
    '"audio_stg_blocks": [28]}}'
)
EXTRA_WITHOUT_V2A = EXTRA.removesuffix("}") + ', "ltx2_skip_v2a_cross_attn_for_video_gt": true}'


def test_the_default_negative_prompt_is_the_official_one() -> None:
    from ltx_pipelines.utils.constants import DEFAULT_NEGATIVE_PROMPT as OFFICIAL

    assert DEFAULT_NEGATIVE_PROMPT == OFFICIAL


def test_the_defaults_are_those_of_the_official_one_stage_pipeline() -> None:
    from ltx_pipelines.utils.args import default_1_stage_arg_parser
    from ltx_pipelines.utils.constants import LTX_2_3_PARAMS

    required = ["--checkpoint-path", "c", "--gemma-root", "g", "--output-path", "o", "--prompt", "p"]
    official = default_1_stage_arg_parser(params=LTX_2_3_PARAMS).parse_args(required)
    params = LTX23SamplingParams(prompt="p")
    for field in dataclasses.fields(params)[:8]:
        assert getattr(params, field.name) == getattr(official, field.name), field.name
    assert params.images == () and official.images == []
    for guider, wanted in (
        (params.video_guidance, LTX_2_3_PARAMS.video_guider_params),
        (params.audio_guidance, LTX_2_3_PARAMS.audio_guider_params),
    ):
        assert fields_of(guider) == {**vars(wanted), "stg_blocks": tuple(wanted.stg_blocks)}
    assert params.skip_v2a_cross_attn_for_video_gt is False
    assert (params.seed, params.height, params.width, params.num_frames) == (10, 512, 768, 121)
    assert (params.frame_rate, params.num_inference_steps) == (24.0, 30)


def test_the_extra_without_the_flag_is_that_of_older_recorded_requests_byte_for_byte() -> None:
    assert json.dumps(LTX23SamplingParams().build_request_extra()) == EXTRA


def test_the_extra_with_the_flag_says_so_at_its_end_byte_for_byte() -> None:
    params = LTX23SamplingParams(skip_v2a_cross_attn_for_video_gt=True)
    assert json.dumps(params.build_request_extra()) == EXTRA_WITHOUT_V2A


def test_every_value_of_both_guiders_has_its_own_name_in_the_extra() -> None:
    video = Guider(cfg_scale=1.5, stg_scale=2.5, rescale_scale=0.25, modality_scale=4.5, skip_step=1, stg_blocks=(2, 3))
    audio = Guider(cfg_scale=5.5, stg_scale=6.5, rescale_scale=0.75, modality_scale=8.5, skip_step=4, stg_blocks=())
    extra = LTX23SamplingParams(video_guidance=video, audio_guidance=audio).build_request_extra()
    assert list(extra) == ["ltx2_stage1_guider_params"]
    assert list(extra["ltx2_stage1_guider_params"].items()) == [
        ("video_cfg_scale", 1.5),
        ("video_stg_scale", 2.5),
        ("video_rescale_scale", 0.25),
        ("video_modality_scale", 4.5),
        ("video_skip_step", 1),
        ("video_stg_blocks", [2, 3]),
        ("audio_cfg_scale", 5.5),
        ("audio_stg_scale", 6.5),
        ("audio_rescale_scale", 0.75),
        ("audio_modality_scale", 8.5),
        ("audio_skip_step", 4),
        ("audio_stg_blocks", []),
    ]


def test_an_extra_may_be_changed_without_the_next_one_changing() -> None:
    params = LTX23SamplingParams()
    params.build_request_extra()["ltx2_stage1_guider_params"]["video_stg_blocks"].append(5)
    assert json.dumps(params.build_request_extra()) == EXTRA


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"height": 500}, r"LTX23SamplingParams: height is 500; it must be a multiple of 32.*Take 480 or 512"),
        ({"num_frames": 120}, r"num_frames is 120; it must be 8k \+ 1"),
        ({"frame_rate": float("nan")}, "frame_rate is nan"),
        ({"frame_rate": "24"}, "frame_rate is '24'; wanted float"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0; wanted 1 to 1000"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": True}, "seed is True; wanted int"),
        ({"prompt": None}, "prompt is None; wanted str"),
        ({"negative_prompt": None}, "negative_prompt is None; wanted str"),
        ({"skip_v2a_cross_attn_for_video_gt": "true"}, "skip_v2a_cross_attn_for_video_gt is 'true'; wanted bool"),
        ({"skip_v2a_cross_attn_for_video_gt": 1}, "skip_v2a_cross_attn_for_video_gt is 1; wanted bool"),
        ({"images": [ImageCondition(path="a")]}, "images is .*wanted tuple"),
        ({"images": ("a.png",)}, r"images\[0\] is 'a.png'; wanted ImageCondition"),
        ({"images": (ImageCondition(path="a", strength=1.5),)}, r"images\[0\].strength is 1.5; wanted 0 to 1"),
        ({"images": (ImageCondition(path="a", frame_idx=121),)}, r"images\[0\].frame_idx is 121; wanted 0 to 120"),
        ({"video_guidance": {"cfg_scale": 3.0}}, "video_guidance is .*wanted Guider"),
        ({"video_guidance": Guider(skip_step=-1)}, r"video_guidance.skip_step is -1; wanted 0"),
        ({"audio_guidance": Guider(cfg_scale=float("inf"))}, r"audio_guidance.cfg_scale is inf; wanted a finite"),
        ({"audio_guidance": Guider(stg_scale="1")}, r"audio_guidance.stg_scale is 1; wanted a finite"),  # type: ignore[arg-type]
        ({"audio_guidance": Guider(cfg_scale=10**400)}, r"audio_guidance.cfg_scale is 1000.*wanted a finite"),
        ({"frame_rate": 10**400}, "frame_rate is 1000.*wanted 0 < rate"),
        ({"images": (ImageCondition(path=5),)}, r"images\[0\].path is 5; wanted the name of a picture"),  # type: ignore[arg-type]
        ({"audio_guidance": Guider(stg_blocks=None)}, r"audio_guidance.stg_blocks is None"),  # type: ignore[arg-type]
        ({"audio_guidance": Guider(stg_blocks=[28])}, r"audio_guidance.stg_blocks is \[28\]; wanted a tuple"),  # type: ignore[arg-type]
        ({"audio_guidance": Guider(stg_blocks=("28",))}, r"audio_guidance.stg_blocks is \['28'\]"),  # type: ignore[arg-type]
    ],
)
def test_what_the_model_cannot_run_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CaseError, match=sentence):
        LTX23SamplingParams(**changes)


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LTX23SamplingParams().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("video", "audio", "needed"),
    [(PLAIN, PLAIN, False), (GUIDED, PLAIN, True), (PLAIN, GUIDED, True), (GUIDED, GUIDED, True)],
)
def test_the_negative_prompt_is_needed_when_either_guider_uses_it(video: Guider, audio: Guider, needed: bool) -> None:
    assert LTX23SamplingParams(video_guidance=video, audio_guidance=audio).do_classifier_free_guidance is needed
