import importlib
from fnmatch import fnmatchcase

import pytest

from parity.calibrate.limits import facet_of
from parity.calibrate.rewrites import REWRITES, Rewrite
from parity.defects.catalogue import CATALOGUE, OF_GUIDED_PIPELINES, WITNESSES, defects_of
from parity.defects.defect import Defect, Reach
from parity.diff.metric import METRICS
from parity.runs.golden import find_case
from parity.taps.dataflow import Dataflow
from parity.taps.group import drift_group

COMPONENTS = {
    "gemma",
    "text_features",
    "connectors",
    "image",
    "video_encoder",
    "latents",
    "conditioning",
    "rotary",
    "attention",
    "feed_forward",
    "block",
    "transformer",
    "guidance",
    "euler",
    "video_decoder",
    "audio_decoder",
    "audio_vae_layers",
    "antialiased_activation",
    "bandwidth_extension",
    "pipeline_config",
    "upsampler",
    "pipeline",
}


def test_defects_are_many_and_spread_over_every_component() -> None:
    assert len(CATALOGUE) >= 40
    found = {defect.component for defect in CATALOGUE}
    assert found >= COMPONENTS
    stages = {name.removeprefix("stages.") for name in found if name.startswith("stages.")}
    assert stages >= {
        "text_encoding",
        "text_connector",
        "image_conditioning",
        "latent_preparation",
        "denoising",
        "video_decoding",
        "audio_decoding",
    }


def test_every_defect_names_a_module_that_exists_and_places_to_look_at() -> None:
    for defect in CATALOGUE:
        importlib.import_module(f"runners.ltx23.{defect.component}")
        assert defect.description and defect.first_taps and defect.places, defect.id


def test_most_defects_are_visible_ones_and_weak_ones_are_kept_too() -> None:
    weak = [defect.id for defect in CATALOGUE if not defect.shows_in]
    assert 10 <= len(weak) < len(CATALOGUE) / 2


@pytest.mark.parametrize("defect", CATALOGUE, ids=lambda defect: defect.id)
def test_what_a_defect_patches_is_there_and_is_put_back(defect: Defect) -> None:
    with defect.apply(Reach()):
        pass


@pytest.mark.parametrize("rewrite", REWRITES, ids=lambda rewrite: rewrite.id)
def test_what_a_rewrite_patches_is_there(rewrite: Rewrite) -> None:
    with rewrite.apply(Reach()):
        pass


COMMITTED = sorted({defect.variant.name for defect in CATALOGUE if defect.variant.committed})


def test_the_new_cases_have_defects_that_were_made_for_them() -> None:
    assert COMMITTED == [
        "release_1.2.0_tiny_tiles",
        "release_1.2.0_tiny_two_pictures",
        "release_1.2.0_tiny_wide_tiles",
        "tiny_distilled",
        "tiny_keyframes",
        "tiny_text_only",
        "tiny_two_loras",
        "tiny_two_pictures",
        "tiny_two_stage",
        "tiny_two_stage_hq",
        "tiny_unguided_30_steps",
    ]
    assert len(defects_of(find_case("tiny_ti2v"))) > 50


@pytest.mark.parametrize("pipeline", ["distilled", "two_stage"])
@pytest.mark.parametrize("length", ["", "_25f", "_25f_no_v2a"])
def test_only_witnesses_are_measured_on_several_stages_at_full_size(pipeline: str, length: str) -> None:
    """`rescale_dropped` and most others never run where nothing is guided."""
    measured = {defect.id for defect in defects_of(find_case(f"ltx_2.3_{pipeline}_ti2v{length}"))}
    guided = {"sigmas_of_real_token_count", "cfg_scale_one_too_large"}
    assert measured & guided == (guided if pipeline == "two_stage" else set())
    assert measured - guided == WITNESSES - guided | {"picture_not_held"}
    assert "picture_not_held" not in {defect.id for defect in defects_of(find_case(f"tiny_{pipeline}"))}


@pytest.mark.parametrize("name", COMMITTED)
def test_few_defects_are_measured_on_such_a_case_and_every_limit_has_one_to_lie_below(name: str) -> None:
    case = find_case(name)
    measured = defects_of(case)
    witnesses = WITNESSES if case.plans[0].guided else WITNESSES - OF_GUIDED_PIPELINES
    assert {defect.id for defect in measured} >= witnesses and len(measured) <= len(WITNESSES) + 7
    assert [defect.id for defect in measured if defect.variant.name == name] == [
        defect.id for defect in CATALOGUE if defect.variant.name == name
    ]
    facets = {facet for defect in measured for facet in defect.shows_in}
    judged = {
        facet_of(metric) for metric in METRICS if not metric.startswith(("drift.", "isolated.", "taps.", "outputs."))
    }
    assert {facet for facet in judged if facet is not None} <= facets
    flow = Dataflow(case, 4)
    groups = {drift_group(tap, flow.steps) for tap in flow.taps}
    answered = {
        drift_group(tap, flow.steps)
        for tap in flow.taps
        if any(fnmatchcase(tap, pattern) for defect in measured for pattern in defect.first_taps)
    }
    assert {group for group in groups - answered if facet_of(f"drift.{group}") not in facets} == set()
