"""Strength of a verdict: counts of a saved mutation score, and nothing where there is none."""

import json
from pathlib import Path
from typing import Any

import pytest

from parity.judge.strength import KIND_OF_FORM, CatchCount, key, load_strength
from runners.errors import RegistryError

SAVED: dict[str, Any] = {
    "kind": "mutation",
    "limits_of": "tiny_ti2v",
    "date": "2026-01-02",
    "defects": 9,
    "killed": 8,
    "killed_by_levels": {"outputs": 5, "outputs+drift": 7},
    "rows": [],
}


def write(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**SAVED, **changes}))
    return path


def test_levels_are_worth_what_they_caught_together(tmp_path: Path) -> None:
    strength = load_strength(write(tmp_path / "score.json"))
    assert strength is not None
    alone, both = strength.caught_by(["outputs"]), strength.caught_by(["outputs", "drift"])
    assert alone == CatchCount(levels=("outputs",), count=5, defects=9, limits_of="tiny_ti2v", date="2026-01-02")
    assert both is not None and (both.levels, both.count) == (("outputs", "drift"), 7)
    assert strength.caught_by(["outputs", "isolated"]) is None, "what was not counted is not said"


def test_outputs_without_latents_are_worth_what_other_metrics_caught(tmp_path: Path) -> None:
    rows = [
        {"metrics": ["video_latent.cosine", "frames.mad.max"]},
        {"metrics": ["video_latent.cosine", "drift.text"]},
        {"metrics": ["audio.level_db.max_abs"]},
        {"metrics": ["frames.mad.max"], "equivalent": True},
        {"metrics": []},
    ]
    strength = load_strength(write(tmp_path / "score.json", rows=rows))
    assert strength is not None
    found = strength.caught_by(["outputs"], {"video_latent.cosine"})
    assert found is not None and (found.count, found.defects, found.seen) == (2, 9, "without latents")
    assert strength.caught_by(["outputs", "drift"], {"video_latent.cosine"}) is None


def test_a_form_counts_outputs_without_latents_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path / "score.json", kind=KIND_OF_FORM, form="png_aac-64k")
    strength = load_strength(path, KIND_OF_FORM)
    assert strength is not None and strength.caught_by(["outputs"]) is None, "with latents more would be caught"
    found = strength.caught_by(["outputs"], {"video_latent.cosine"})
    assert found is not None and (found.count, found.seen) == (5, "through png_aac-64k")
    with pytest.raises(RegistryError, match="kind 'form'"):
        load_strength(path)


def test_no_file_says_nothing_and_a_strange_one_is_refused(tmp_path: Path) -> None:
    assert load_strength(tmp_path / "none.json") is None
    for changes in ({"kind": "suite"}, {"defects": "many"}, {"killed_by_levels": 3}):
        with pytest.raises(RegistryError, match="mutation"):
            load_strength(write(tmp_path / "score.json", **changes))
    (tmp_path / "score.json").write_text("[")
    with pytest.raises(RegistryError, match="a mutation score comes from"):
        load_strength(tmp_path / "score.json")


def test_levels_have_a_key_in_the_file() -> None:
    assert key(["outputs", "drift"]) == "outputs+drift"
