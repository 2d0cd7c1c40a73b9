"""A case as inputs of ComfyUI's nodes, and a sentence for what they cannot be given."""

from collections.abc import Callable
from typing import Any

import pytest

from runners.case import Case
from runners.comfyui.request import guider_values, require_askable
from runners.errors import RunnerError

MakeCase = Callable[..., Case]
SAME_BLOCKS = {"guidance.audio.stg_blocks": [1]}
LAST_FRAME = {"path": "astronaut.png", "frame_idx": 8}


def test_guider_values_are_those_of_the_case(micro_case: MakeCase) -> None:
    values, blocks = guider_values(micro_case({**SAME_BLOCKS, "guidance.audio.skip_step": 2}))
    assert blocks == [1]
    assert values["VIDEO"] == {
        "cfg_scale": 3.0,
        "stg_scale": 1.0,
        "perturb_attn": True,
        "rescale_scale": 0.7,
        "modality_scale": 3.0,
        "skip_step": 0,
        "cross_attn": True,
    }
    assert values["AUDIO"] == {**values["VIDEO"], "cfg_scale": 7.0, "skip_step": 2}


def test_v2a_off_is_the_audio_guiders_own_switch(micro_case: MakeCase) -> None:
    values, _ = guider_values(micro_case({**SAME_BLOCKS, "switches.skip_v2a_cross_attn_for_video_gt": True}))
    assert (values["VIDEO"]["cross_attn"], values["AUDIO"]["cross_attn"]) == (True, False)


def test_a_stream_without_perturbation_has_none_in_the_others_blocks(micro_case: MakeCase) -> None:
    case = micro_case({"guidance.video.stg_scale": 0.0})
    require_askable(case)  # its blocks differ from audio's, and nothing reads them
    values, blocks = guider_values(case)
    assert blocks == [0]
    assert (values["VIDEO"]["perturb_attn"], values["AUDIO"]["perturb_attn"]) == (False, True)


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        ({"request.frame_rate": 29.97}, r"request\.frame_rate = 29\.97; its nodes take whole numbers"),
        ({}, r"guidance\.audio\.stg_blocks = \[0\]; its nodes take video's \[1\]"),
        (
            {**SAME_BLOCKS, "request.images": [{"path": "coffee.jpg"}, {**LAST_FRAME, "strength": 0.5}]},
            r"request\.images\[1\]\.strength = 0\.5; its nodes take 1\.0 behind the first frame",
        ),
    ],
)
def test_what_the_nodes_cannot_be_given_is_one_sentence(micro_case: MakeCase, overrides: Any, what: str) -> None:
    with pytest.raises(RunnerError, match=what):
        require_askable(micro_case(overrides))


def test_pictures_of_any_compression_and_weak_first_ones_can_be_asked_for(micro_case: MakeCase) -> None:
    first = {"path": "coffee.jpg", "strength": 0.5, "crf": 0}
    require_askable(micro_case({**SAME_BLOCKS, "request.images": [first, LAST_FRAME]}))
