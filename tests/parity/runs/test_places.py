"""The root of the project's data: a folder with goldens and limits, never with one of them by chance."""

from pathlib import Path

import pytest

import parity
from parity.runs.places import foreign_root, project_root
from runners.errors import RunError

OWN = Path(parity.__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PARITY_ROOT", raising=False)


def test_a_parent_with_goldens_and_limits_is_the_root_and_one_with_half_of_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "golden").mkdir()  # somebody's folder of that name
    monkeypatch.chdir(inner)
    assert project_root() == OWN and foreign_root() is None
    (tmp_path / "thresholds").mkdir()
    assert project_root() == foreign_root() == tmp_path


def test_a_named_root_needs_goldens_alone_and_a_link_to_our_own_is_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path))
    with pytest.raises(RunError, match="which has no folder golden/"):
        project_root()
    (tmp_path / "golden").mkdir()
    assert project_root() == foreign_root() == tmp_path
    (tmp_path / "link").symlink_to(OWN)
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path / "link"))
    assert foreign_root() is None
