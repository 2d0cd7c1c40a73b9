"""A version is known by its files, whatever it calls itself; another one is named."""

import hashlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from runners.errors import RunnerError
from runners.sglang import files
from runners.sglang.files import details, sglang_files


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of two files in the place of SGLang."""
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime/b.py").write_text("two\n")
    (tmp_path / "a.py").write_text("one\n")
    (tmp_path / "notes.txt").write_text("not code\n")
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found if name == "sglang" else None)
    return tmp_path


def test_the_hash_is_over_names_and_contents_of_python_files(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (hashlib.sha256(text).hexdigest() for text in (b"one\n", b"two\n"))
    by_hand = hashlib.sha256(f"{one}  a.py\n{two}  runtime/b.py\n".encode()).hexdigest()
    monkeypatch.setattr(files, "KNOWN", {by_hand: "0.5.23"})
    assert sglang_files().sha256 == by_hand
    assert sglang_files().words == "SGLang 0.5.23"
    (package / "runtime/b.py").rename(package / "runtime/c.py")
    assert sglang_files().known is None


def test_another_version_is_named_with_those_that_are_known(package: Path) -> None:
    found = sglang_files()
    assert found.words == f"SGLang {found.version}, whose files are those of no version known here (0.5.23)"
    assert details(found) == {"sglang_version": found.version, "sglang_sha256": found.sha256, "sglang_known": None}


def test_without_sglang_the_documentation_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RunnerError, match=r"docs/engines\.md"):
        sglang_files()
