"""Sampling parameters, and the default negative prompt, whose every letter is part of the numbers."""

import dataclasses

import pytest

from runners.ltx23.guidance import GuidanceParameters
from runners.ltx23.sampling import DEFAULT_NEGATIVE_PROMPT, SamplingParameters

PLAIN, GUIDED = GuidanceParameters(), GuidanceParameters(cfg_scale=3.0)
SAMPLING = SamplingParameters(
    prompt="p",
    negative_prompt="n",
    seed=1,
    height=64,
    width=96,
    num_frames=9,
    frame_rate=24.0,
    num_inference_steps=2,
    images=(),
    video_guidance=PLAIN,
    audio_guidance=PLAIN,
)


def test_the_default_negative_prompt_is_the_official_one() -> None:
    from ltx_pipelines.utils.constants import DEFAULT_NEGATIVE_PROMPT as OFFICIAL

    assert DEFAULT_NEGATIVE_PROMPT == OFFICIAL


@pytest.mark.parametrize(
    ("video", "audio", "needed"),
    [(PLAIN, PLAIN, False), (GUIDED, PLAIN, True), (PLAIN, GUIDED, True), (GUIDED, GUIDED, True)],
)
def test_the_negative_prompt_is_needed_when_either_guider_uses_it(
    video: GuidanceParameters, audio: GuidanceParameters, needed: bool
) -> None:
    sampling = dataclasses.replace(SAMPLING, video_guidance=video, audio_guidance=audio)
    assert sampling.do_classifier_free_guidance is needed
