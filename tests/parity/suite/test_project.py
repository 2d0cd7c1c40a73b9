"""A project of one's own: what `parity init` writes, what it leaves alone, and that it is then found."""

from pathlib import Path

import pytest

from parity.runs.places import case_folder, project_root
from parity.suite.project import begin_project, copy_case
from runners.case import load_case
from runners.errors import CaseError, ConfigError


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PARITY_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)


def test_an_empty_folder_gets_a_folder_parity_that_says_what_it_is(tmp_path: Path) -> None:
    written = begin_project(tmp_path)
    assert written == tuple(tmp_path / "parity" / name for name in ("parity.toml", "golden", "thresholds"))
    assert project_root() == tmp_path / "parity"
    with pytest.raises(ConfigError, match="is a project already"):
        begin_project(tmp_path)


def test_a_pyproject_gets_a_table_and_keeps_what_it_had(tmp_path: Path) -> None:
    before = '[project]\nname = "engine"'  # without an end of its last line
    (tmp_path / "pyproject.toml").write_text(before)
    begin_project(tmp_path, "tests/parity")
    text = (tmp_path / "pyproject.toml").read_text()
    assert text.startswith(before) and text.endswith('\n[tool.parity]\nroot = "tests/parity"\n')
    assert project_root() == tmp_path / "tests" / "parity"
    with pytest.raises(ConfigError, match="is a project already"):
        begin_project(tmp_path)


def test_a_project_may_lie_in_another_but_no_root_outside_of_its_own(tmp_path: Path) -> None:
    begin_project(tmp_path)
    inner = tmp_path / "engines" / "one"
    inner.mkdir(parents=True)
    (inner / "pyproject.toml").write_text("")
    begin_project(inner)
    for root in ("../x", "/x", "."):
        with pytest.raises(ConfigError, match="no folder below"):
            begin_project(inner, root)


def test_a_case_that_ships_is_copied_with_its_picture_and_is_ones_own_from_then_on(tmp_path: Path) -> None:
    shipped = load_case(case_folder("tiny_ti2v") / "case.toml")
    begin_project(tmp_path)
    folder = copy_case("tiny_ti2v")
    assert folder == tmp_path / "parity" / "golden" / "tiny_ti2v" == case_folder("tiny_ti2v")
    assert sorted(path.name for path in folder.iterdir()) == ["astronaut.png", "case.toml"]  # and no golden
    own = load_case(folder / "case.toml")
    assert own.request == shipped.request and own.folder != shipped.folder
    with pytest.raises(CaseError, match="one of this project already"):
        copy_case("tiny_ti2v")
