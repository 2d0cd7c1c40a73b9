"""The page of the small models is what its measurements say, and each behaves as a trained one where it matters."""

import importlib.util
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "docs/measurements/tiny").glob("*.json"))


def measured() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in FILES]


def test_the_page_is_made_of_its_files() -> None:
    spec = importlib.util.spec_from_file_location("tiny", ROOT / "bench/tiny.py")
    assert spec is not None and spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    assert (ROOT / "docs/tiny.md").read_text() == tiny.page(measured())


def test_every_figure_of_each_model_holds() -> None:
    assert [one["name"] for one in measured()] == ["tiny before", "tiny", "odd"]
    assert [(one["name"], figure["name"]) for one in measured() for figure in one["check"] if not figure["holds"]] == []
