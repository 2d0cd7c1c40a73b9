"""How strong a verdict is said to be: counts of a saved mutation score, and nothing where there is none."""

import json
from pathlib import Path
from typing import Any

import pytest

from parity.judge.strength import Caught, key, load_strength
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
    assert alone == Caught(levels=("outputs",), count=5, defects=9, limits_of="tiny_ti2v", date="2026-01-02")
    assert both is not None and (both.levels, both.count) == (("outputs", "drift"), 7)
    assert strength.caught_by(["outputs", "isolated"]) is None, "what was not counted is not said"


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
