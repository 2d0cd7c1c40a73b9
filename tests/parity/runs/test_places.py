"""Places of reading and writing: a project found upward by what says so itself, then what ships; nothing by chance."""

from pathlib import Path

import pytest

import parity
from parity.runs import places
from parity.runs.places import case_file, case_folder, case_folders, data_roots, foreign_root, project_root
from runners.errors import CaseError, ConfigError, RunError

OWN = Path(parity.__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PARITY_ROOT", raising=False)
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")


def lay_case(root: Path, name: str) -> Path:
    """A folder that holds a case of that id, as far as its place goes."""
    folder = root / "golden" / name
    folder.mkdir(parents=True)
    (folder / "case.toml").write_text("")
    return folder


def test_folders_that_are_called_golden_and_thresholds_make_no_project(tmp_path: Path) -> None:
    (tmp_path / "golden").mkdir()  # somebody's folders of these names
    (tmp_path / "thresholds").mkdir()
    assert project_root() == OWN and data_roots() == (OWN,) and foreign_root(OWN) is None


@pytest.mark.parametrize(
    ("file", "text", "root"),
    [
        ("pyproject.toml", '[project]\nname = "engine"\n[tool.parity]\nroot = "tests/parity"\n', "tests/parity"),
        ("pyproject.toml", "[tool.parity]\n", "parity"),
        ("pyproject.toml", "[ tool . parity ]\nroot='.'\n", "."),
        ("parity/parity.toml", 'root = "."\n', "parity"),
        ("parity/parity.toml", "", "parity"),
    ],
)
def test_a_project_is_found_upward_and_stands_before_what_ships(
    tmp_path: Path, file: str, text: str, root: str
) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    own = tmp_path / root
    assert project_root() == own and data_roots() == (own, OWN)
    assert foreign_root(own) == own and foreign_root(OWN) is None
    mine, taken = lay_case(own, "mine"), lay_case(own, "tiny_ti2v")
    assert case_folder("mine") == mine and case_folder("tiny_ti2v") == taken
    assert case_folder("tiny_text_only") == OWN / "golden" / "tiny_text_only"
    names = [folder.name for folder in case_folders()]
    assert names == sorted(names) and {"mine", "tiny_text_only"} <= set(names) and names.count("tiny_ti2v") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[tool.parity]\nroto = "x"\n', "has the keys roto"),
        ("[tool.parity]\nroot = 3\n", "has no root that is a text"),
        ("[tool]\nparity = 3 # tool.parity\n", "has no root that is a text"),
        ('[tool.parity]\nroot = "../elsewhere"\n', "outside of its folder"),
        ('[tool.parity]\nroot = "/etc"\n', "outside of its folder"),
        ("[tool.parity\n", "is not valid TOML"),
    ],
)
def test_a_project_file_that_says_something_else_is_refused_by_its_name(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ConfigError, match=said) as refused:
        project_root()
    assert str(tmp_path / "pyproject.toml") in str(refused.value)


def test_the_file_of_another_tool_may_be_as_it_likes(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.black\n")
    assert project_root() == OWN


def test_a_named_root_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path))
    with pytest.raises(RunError, match="which has no folder golden/"):
        project_root()
    (tmp_path / "golden").mkdir()
    assert project_root() == tmp_path and data_roots() == (tmp_path,) and foreign_root(tmp_path) == tmp_path
    (tmp_path / "link").symlink_to(OWN)
    assert foreign_root(tmp_path / "link") is None


def test_without_a_checkout_data_is_read_from_the_package_and_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "parity"
    lay_case(package / "shipped", "tiny_ti2v")
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(parity, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(places, "files", lambda name: package if name == "parity" else None)
    assert data_roots() == (package / "shipped",) and foreign_root(package / "shipped") is None
    assert case_file("tiny_ti2v") == package / "shipped" / "golden" / "tiny_ti2v" / "case.toml"
    with pytest.raises(RunError, match="parity init"):
        project_root()
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.parity]\n")
    with pytest.raises(RunError, match="parity init --case tiny_ti2v"):
        places.own_case_folder("tiny_ti2v")


def test_a_mistyped_case_is_told_what_it_is_near_to() -> None:
    with pytest.raises(CaseError, match=r"There is no case 'tiny_tiv'.*Did you mean 'tiny_ti2v'\?"):
        case_file("tiny_tiv")
    with pytest.raises(CaseError, match="neither a TOML file nor an id"):
        case_file("golden/tiny_ti2v")
    assert case_file("x.toml") == Path("x.toml")
