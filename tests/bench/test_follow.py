"""A reader reads a function once, goes to its file and comes back to the caller's, and lists what he passed."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench.follow import Walk, follow, handed_any

THREE = "def stop(number): pass"
TWO = """
def go(run, stop):
    stop(run.number)
    aside()

def aside(): sum(one for one in range(2))
"""
ONE = """
def begin(run, go, stop):
    go(run, stop)
    go(run, stop)
    stop(7)
"""


class Run:
    """The thing that is followed."""

    number = 5


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """A call through three files, each read by its own path below the root."""
    monkeypatch.setattr("bench.follow.ROOT", tmp_path)
    (tmp_path / "parity").mkdir()

    def module(name: str, text: str) -> ModuleType:
        path = tmp_path / "parity" / name
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
        return made

    one, two, three = module("one.py", ONE), module("two.py", TWO), module("three.py", THREE)
    return lambda: one.begin(Run(), two.go, three.stop)


def passed(walk: Walk) -> dict[str, list[str]]:
    return {Path(file).stem: functions for file, functions in walk.files.items()}


def test_each_function_is_read_once_and_every_way_back_into_another_file_counts(begin: Callable[[], Any]) -> None:
    walk = follow(begin)
    assert passed(walk) == {"one": ["begin"], "two": ["go", "aside"], "three": ["stop"]}
    assert walk.returns == 2  # from three to two, and from two to one; what was read already is not opened again


def test_who_follows_one_thing_reads_what_it_is_handed_to(begin: Callable[[], Any]) -> None:
    walk = follow(begin, handed_any(Run))
    assert passed(walk) == {"one": ["begin"], "two": ["go"]} and walk.returns == 1


def test_texts_are_followed_too(begin: Callable[[], Any]) -> None:
    assert follow(begin, handed_any(texts=("elsewhere",))).files == {}
