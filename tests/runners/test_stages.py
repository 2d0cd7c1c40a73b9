"""Pipelines and their stages: what a case gets without saying anything, what it may say, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest

from runners.case import Case, case_document, case_of, case_text, parse_case
from runners.errors import CaseError
from runners.request import Guider
from runners.stages import PIPELINES

MakeCase = Callable[..., Case]
UNGUIDED: dict[str, Any] = {"guidance.video": {}, "guidance.audio": {}}
STEPS_OF_DISTILLED = {"request.num_inference_steps": 8}
LARGE = {"request.height": 128, "request.width": 192}


def test_distilled_takes_eight_steps_at_half_size_and_three_at_full_size(micro_case_text: str, tmp_path: Any) -> None:
    text = micro_case_text.replace('"one_stage"', '"distilled"').replace("num_inference_steps = 2\n", "")
    text = text[: text.index("[guidance.video]")].replace("width = 96", "width = 192")
    case = parse_case(text, tmp_path)
    first, second = case.plans
    assert (first.height, first.width, first.steps, first.scope, first.prefix) == (32, 96, 8, "", "")
    assert (second.height, second.width, second.steps, second.scope, second.prefix) == (64, 192, 3, "stage2", "stage2/")
    assert first.sigmas == (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0)
    assert second.sigmas == (0.909375, 0.725, 0.421875, 0.0)
    assert not first.guided and not second.guided and first.guiders == (Guider(), Guider())
    assert case.request.num_inference_steps == 8 and case.total_steps == 11
    assert parse_case(case_text(case), tmp_path) == case


@pytest.mark.parametrize(("pipeline", "strengths"), [("two_stage", (0.0, 1.0)), ("two_stage_hq", (0.25, 0.5))])
def test_two_stages_are_guided_in_the_first_and_fuse_the_distilled_lora(
    pipeline: str, strengths: tuple[float, float], micro_case: MakeCase
) -> None:
    first, second = micro_case({"pipeline": pipeline, **LARGE}).plans
    assert (first.lora_strength, second.lora_strength) == strengths
    assert first.guided and first.video.cfg_scale == 3.0 and first.sigmas is None and first.steps == 2
    assert not second.guided and second.video == Guider()


def test_one_stage_is_as_ever(micro_case: MakeCase) -> None:
    case = micro_case()
    assert len(case.plans) == 1
    only = case.plans[0]
    assert (only.height, only.width, only.steps, only.prefix) == (64, 96, 2, "") and only.guided
    assert "stages" not in case_document(case)
    assert case_of(case_document(case), case.folder) == case


def test_what_a_case_says_of_its_stages_comes_back(micro_case: MakeCase, tmp_path: Any) -> None:
    said: dict[str, Any] = {"stages.first.sigmas": [1.0, 0.25, 0], "stages.second.lora_strength": 0.5}
    said |= {"stages.first.height": 64, "stages.first.width": 96, "stages.second.width": 192}
    case = micro_case({"pipeline": "keyframes", **LARGE, **said})
    first, second = case.plans
    assert first.sigmas == (1.0, 0.25, 0.0) and second.lora_strength == 0.5
    assert case_of(case_document(case), case.folder) == case
    assert parse_case(case_text(case), tmp_path).stages == case.stages


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"pipeline": "two_stages"}, "no pipeline 'two_stages'; known are one_stage, distilled"),
        ({"pipeline": "two_stage"}, r"width is 96; 'two_stage' begins at half .* multiple of 64. Take 64 or 128"),
        ({"pipeline": "two_stage", "request.width": 32}, "Take 64"),
        (
            {"pipeline": "distilled", **LARGE, **UNGUIDED},
            "num_inference_steps is 2; the first stage of 'distilled' has 8",
        ),
        ({"pipeline": "distilled", **LARGE, "request.num_inference_steps": 8}, "has no guidance; remove"),
        ({"stages.first.sigmas": [1.0, 0.0]}, "'one_stage' has one stage, and no"),
        ({"pipeline": "two_stage", **LARGE, "stages.second.sigmas": [0.5, 0.7, 0]}, "falling noise levels"),
        ({"pipeline": "two_stage", **LARGE, "stages.second.sigmas": [0.5, 0.1]}, "falling noise levels"),
        ({"pipeline": "two_stage", **LARGE, "stages.second.sigmas": [1.5, 0.0]}, "falling noise levels"),
        ({"pipeline": "two_stage", **LARGE, "stages.second.sigmas": [0.0]}, "falling noise levels"),
        ({"pipeline": "two_stage", **LARGE, "stages.first.lora_strength": 1.0}, "in its second stage alone"),
        ({"pipeline": "distilled", **LARGE, "stages.second.lora_strength": 1.0}, "has no distilled LoRA"),
        ({"pipeline": "two_stage", **LARGE, "stages.second.lora_strength": float("nan")}, "wanted a finite number"),
        (
            {"pipeline": "two_stage", **LARGE, "stages.first.height": 128},
            r"stages.first.height is 128; 'two_stage' denoises this stage at half of request.height, which is 64",
        ),
        (
            {"pipeline": "distilled", **LARGE, **STEPS_OF_DISTILLED, "stages.second.width": 96},
            r"stages.second.width is 96; .* at request.width, which is 192",
        ),
        ({"stages.first.width": 96}, "'one_stage' has one stage, and no"),
        ({"pipeline": "two_stage", **LARGE, "stages.third.sigmas": [1.0, 0]}, "unknown field `third`"),
    ],
)
def test_what_no_pipeline_has_is_refused(overrides: dict[str, Any], sentence: str, micro_case: MakeCase) -> None:
    with pytest.raises(CaseError, match=sentence):
        micro_case(overrides)


def test_the_pipelines_are_those_of_the_issue() -> None:
    assert list(PIPELINES) == ["one_stage", "distilled", "two_stage", "two_stage_hq", "keyframes"]
