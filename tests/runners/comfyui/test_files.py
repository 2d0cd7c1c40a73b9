"""A checkout is known by its files, whatever it calls itself; another one is named, and what is missing, too."""

import hashlib
from pathlib import Path

import pytest

from runners.comfyui import files
from runners.comfyui.files import checkout_in, require_checkout
from runners.errors import RunnerError


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of three files, with one of Lightricks' nodes and things that no run imports."""
    for name, text in {
        "comfyui_version.py": '__version__ = "0.24.1"\n',
        "nodes.py": "one\n",
        "comfy/ldm/b.py": "two\n",
        "comfy/notes.json": "{}\n",
        "custom_nodes/other/c.py": "three\n",
        "models/d.py": "four\n",
        "custom_nodes/ComfyUI-LTXVideo/guiders/__init__.py": "five\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def by_hand(lines: list[tuple[str, bytes]]) -> str:
    text = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in lines)
    return hashlib.sha256(text.encode()).hexdigest()


def test_both_hashes_are_over_names_and_contents_of_the_python_files_that_a_run_can_import(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = b'__version__ = "0.24.1"\n'
    comfyui = by_hand([("comfy/ldm/b.py", b"two\n"), ("comfyui_version.py", version), ("nodes.py", b"one\n")])
    nodes = by_hand([("guiders/__init__.py", b"five\n")])
    monkeypatch.setattr(files, "KNOWN", {comfyui: "0.24.1 at abcdef0"})
    monkeypatch.setattr(files, "KNOWN_NODES", {nodes: "at 1234567"})
    found = checkout_in(checkout)
    assert (found.comfyui.sha256, found.nodes.sha256) == (comfyui, nodes)
    assert found.words == ["ComfyUI 0.24.1 at abcdef0", "ComfyUI-LTXVideo at 1234567"]
    assert found.details()["comfyui_known"] == "0.24.1 at abcdef0"
    (checkout / "comfy/ldm/b.py").rename(checkout / "comfy/b.py")
    assert checkout_in(checkout).comfyui.known is None


def test_another_version_is_named_with_those_that_are_known(checkout: Path) -> None:
    found = checkout_in(checkout)
    assert found.words == [
        "ComfyUI 0.24.1, whose files are those of no version known here (0.25.0 at 0a92ed1)",
        "ComfyUI-LTXVideo of unknown version, whose files are those of no version known here (at aceeae9)",
    ]
    assert found.details() == {
        "comfyui_version": "0.24.1",
        "comfyui_sha256": found.comfyui.sha256,
        "comfyui_known": None,
        "ltxvideo_sha256": found.nodes.sha256,
        "ltxvideo_known": None,
    }


@pytest.mark.parametrize(
    ("lost", "what"),
    [("comfyui_version.py", "no checkout of ComfyUI"), ("guiders", "no checkout of Lightricks' nodes")],
)
def test_a_missing_part_is_named_with_the_documentation(checkout: Path, lost: str, what: str) -> None:
    place = next(checkout.rglob(lost))
    place.rename(place.with_name("elsewhere"))
    with pytest.raises(RunnerError, match=rf"{lost}.*{what}; docs/engines\.md"):
        require_checkout(checkout)
