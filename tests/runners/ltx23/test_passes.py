"""The passes of a step, with the prompt and the skips of each: worked out by hand."""

import pytest

from runners.ltx23.passes import GuidancePass, pass_names, passes_of_step
from runners.ltx23.transformer import Skips
from runners.request import Guider

FULL = Guider(cfg_scale=3.0, stg_scale=1.0, modality_scale=2.0, stg_blocks=(2, 5))
NONE = Guider(stg_blocks=(7,))  # blocks of a perturbed pass that has no weight


def test_all_four_passes_in_order_with_the_blocks_of_each_modality() -> None:
    audio = Guider(stg_scale=0.5, stg_blocks=(4,))
    assert passes_of_step(0, FULL, audio, negative_disables_skipped_modality=False) == (
        GuidancePass(name="cond"),
        GuidancePass(name="uncond", negative_prompt=True),
        GuidancePass(
            name="perturbed",
            skips=Skips(video_self_attention=frozenset({2, 5}), audio_self_attention=frozenset({4})),
        ),
        GuidancePass(name="isolated", skips=Skips(a2v=True, v2a=True)),
    )


def test_a_modality_that_gives_the_perturbed_pass_no_weight_is_left_whole_in_it() -> None:
    perturbed = passes_of_step(0, NONE, FULL, negative_disables_skipped_modality=False)[2]
    assert perturbed.skips == Skips(audio_self_attention=frozenset({2, 5}))


@pytest.mark.parametrize(
    ("scales", "name"),
    [({"cfg_scale": 2.0}, "uncond"), ({"stg_scale": 1.0}, "perturbed"), ({"modality_scale": 3.0}, "isolated")],
)
def test_a_pass_runs_where_either_modality_gives_it_weight(scales: dict[str, float], name: str) -> None:
    guided = Guider(**scales)  # type: ignore[arg-type]
    assert pass_names(guided, NONE) == pass_names(NONE, guided) == ("cond", name)
    assert pass_names(NONE, NONE) == ("cond",)


@pytest.mark.parametrize("negative_disables", [False, True])
def test_a_skipped_modality_is_off_and_in_the_negative_pass_as_the_release_has_it(negative_disables: bool) -> None:
    video = Guider(cfg_scale=3.0, skip_step=1)  # evaluated at steps 0, 2, 4
    audio = Guider(modality_scale=2.0, skip_step=2)  # evaluated at steps 0, 3
    steps = [passes_of_step(i, video, audio, negative_disables_skipped_modality=negative_disables) for i in range(4)]
    enabled = [{one.name: (one.video_enabled, one.audio_enabled) for one in step} for step in steps]
    both = (True, True)
    assert enabled[0] == {"cond": both, "uncond": both, "isolated": both}
    assert enabled[1] == {}
    off_at_2, off_at_3 = (True, False), (False, True)
    assert enabled[2] == {"cond": off_at_2, "uncond": off_at_2 if negative_disables else both, "isolated": off_at_2}
    assert enabled[3] == {"cond": off_at_3, "uncond": off_at_3 if negative_disables else both, "isolated": off_at_3}
