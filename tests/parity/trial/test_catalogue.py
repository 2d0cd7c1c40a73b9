import importlib

import pytest

from parity.trial.catalogue import CATALOGUE
from parity.trial.defect import Defect, Reach
from parity.trial.rewrites import REWRITES, Rewrite

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
}


def test_defects_are_many_and_spread_over_every_component() -> None:
    assert len(CATALOGUE) >= 40
    found = {defect.component for defect in CATALOGUE}
    assert found >= COMPONENTS
    stages = {name.removeprefix("stages.") for name in found if name.startswith("stages.")}
    assert stages >= {
        "text_encoding",
        "text_connector",
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
