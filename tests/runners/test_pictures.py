"""A case's picture is its own before a shared one, and never one from elsewhere."""

from pathlib import Path

import pytest

from parity.runs.golden import find_case
from runners.case import load_case
from runners.errors import CaseError
from runners.pictures import picture_file
from tests.runners.test_case import TEXT

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a case, with `pictures/` beside it."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "case.toml").write_text(TEXT, encoding="utf-8")
    return tmp_path / "case"


def test_the_cases_own_picture_comes_before_the_shared_one(folder: Path) -> None:
    case, shared = load_case(folder / "case.toml"), folder.parent / "pictures" / "a.png"
    (image,) = case.request.images
    assert picture_file(folder, "a.png") == case.image_place(image) == folder / "a.png"
    shared.write_bytes(b"shared")
    assert case.image_path(image) == picture_file(folder, "a.png") == shared
    assert case.image_place(image) == folder / "a.png"  # where a box that is brought the picture puts it
    (folder / "a.png").write_bytes(b"own")
    assert case.image_path(image) == picture_file(folder, "a.png") == folder / "a.png"


def test_a_shared_picture_is_a_file_of_that_folder_alone(folder: Path) -> None:
    (folder.parent / "secret.png").write_bytes(b"x")
    (folder.parent / "pictures" / "below").mkdir()
    (folder.parent / "pictures" / "below" / "b.png").write_bytes(b"x")
    (folder.parent / "pictures" / "a.png").symlink_to(folder.parent / "secret.png")
    for name in ("a.png", "below/b.png", "../secret.png", "below", ""):
        assert picture_file(folder, name) == folder / name
    with pytest.raises(CaseError, match=r"a\.png.*is not a file in"):
        load_case(folder / "case.toml").image_path(load_case(folder / "case.toml").request.images[0])


def test_what_ships_holds_each_picture_once() -> None:
    images = [(case, image) for case in map(find_case, cases()) for image in case.request.images]
    assert len(images) > 20
    assert {case.image_path(image).parent for case, image in images} == {GOLDEN / "pictures"}
    there = {path.name for path in (GOLDEN / "pictures").iterdir()}
    assert {image.path for _, image in images} == there


def cases() -> list[str]:
    return [path.parent.name for path in GOLDEN.glob("*/case.toml")]
