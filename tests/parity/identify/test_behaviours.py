"""The switches that can be told: complete, placed, and idle only where nothing they act on is there."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from parity.identify.behaviours import (
    BATCHING,
    BEHAVIOURS,
    SITES,
    first_skipping_step,
    nearest_release,
    reference_at,
    setting_of,
)
from runners.case import Case
from runners.releases import RELEASES, ReleaseBehaviours

MakeCase = Callable[..., Case]
SOFT = [{"path": "coffee.jpg", "strength": 0.5}]
KEYFRAME = [{"path": "coffee.jpg", "frame_idx": 3}]


def test_every_behaviour_is_a_switch_with_the_release_it_came_with() -> None:
    assert {field.name for field in fields(ReleaseBehaviours)} == set(BEHAVIOURS) - set(BATCHING)
    assert BEHAVIOURS["vocoder_fp32"].since == "1.1.2" and BEHAVIOURS["guidance_fp32"].since == "1.2.0"
    assert all(BEHAVIOURS[name].since is None for name in BATCHING)
    assert all(switch.sites and set(switch.sites) <= set(SITES) for switch in BEHAVIOURS.values())
    assert [reference_at(setting_of(release)) for release in RELEASES] == list(RELEASES.values())
    assert reference_at(frozenset(BATCHING)) == ReleaseBehaviours()


def test_the_nearest_release_counts_only_what_was_told() -> None:
    later = setting_of("1.2.0")
    assert nearest_release(later - {"guidance_fp32"}, BEHAVIOURS, "1.0.0") == "1.2.0"
    assert nearest_release(frozenset({"guidance_fp32"}), BEHAVIOURS, "1.2.0") == "1.0.0"
    # Of one switch that both later releases have, either would do: the preferred one is named, else the earliest.
    assert nearest_release(later, ["vocoder_fp32"], "1.2.0") == "1.2.0"
    assert nearest_release(later, ["vocoder_fp32"], "1.0.0") == "1.1.2"


@pytest.mark.parametrize(
    ("name", "idle", "alive"),
    [
        ("more_negative_phrases", {"request.negative_prompt": "blurry"}, {"request.negative_prompt": None}),
        ("pictures_as_displayed", {"request.images": []}, {"request.images": SOFT}),
        ("noise_lerp_fp32", {"request.images": KEYFRAME}, {"request.images": SOFT}),
        ("keyframe_spans_one_frame", {"request.images": SOFT}, {"request.images": KEYFRAME}),
        (
            "negative_disables_skipped_modality",
            {"guidance.video.skip_step": 1, "request.num_inference_steps": 1},
            {"guidance.video.skip_step": 1},
        ),
        (
            "negative_disables_skipped_modality",
            {"guidance.video.skip_step": 1, "guidance.audio.skip_step": 1},
            {"guidance.audio.skip_step": 1},
        ),
        ("lora_accumulated", {}, {"loras": [{"path": "style.safetensors"}]}),
        ("decode_auto_tiled", {"request.num_frames": 73}, {"request.num_frames": 81}),
        ("decode_auto_tiled", {"request.width": 768}, {"request.width": 800}),
        ("connectors_share_mask", {"guidance.video.cfg_scale": 1.0, "guidance.audio.cfg_scale": 1.0}, {}),
    ],
)
def test_a_switch_is_idle_where_nothing_it_acts_on_is_there(
    name: str, idle: dict[str, Any], alive: dict[str, Any], micro_case: MakeCase
) -> None:
    assert BEHAVIOURS[name].idle(micro_case(idle), "bf16")
    assert BEHAVIOURS[name].idle(micro_case({"request.negative_prompt": None, **alive}), "bf16") is None


def test_precision_is_idle_in_fp32(micro_case: MakeCase) -> None:
    for name in ("positions_fp32", "guidance_fp32", "vocoder_fp32"):
        assert BEHAVIOURS[name].idle(micro_case(), "fp32") and BEHAVIOURS[name].idle(micro_case(), "bf16") is None


def test_the_first_step_that_skips_one_modality(micro_case: MakeCase) -> None:
    assert first_skipping_step(micro_case()) is None
    steps = {"request.num_inference_steps": 5}
    assert first_skipping_step(micro_case({**steps, "guidance.audio.skip_step": 1})) == 1
    both = {**steps, "guidance.audio.skip_step": 1, "guidance.video.skip_step": 2}  # steps 1, 3 and 1, 2, 4
    assert first_skipping_step(micro_case(both)) == 2
