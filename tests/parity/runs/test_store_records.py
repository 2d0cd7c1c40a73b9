"""Records of a store: small texts under a name, whole, beside the files."""

from pathlib import Path

import pytest

from parity.runs import store as store_module
from parity.runs.store import Store
from runners.errors import OutputError, RunError


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store") if request.param == "folder" else f"memory://{tmp_path.name}")


def test_a_record_is_kept_replaced_and_listed(store: Store) -> None:
    assert store.record("history/m/a") is None and store.record_names("history/m") == ()
    store.put_record("history/m/b", "1")
    store.put_record("history/m/a", "2")
    store.put_record("history/m/b", "é")
    assert store.record("history/m/b") == "é"
    assert store.record_names("history/m") == ("history/m/a", "history/m/b")
    assert Store(store.absolute_url).record("history/m/a") == "2"


@pytest.mark.parametrize(
    "name", ["", "a", "../x/y", "a/../b", "a//b", "/a/b", "a/.hidden", "A/b", "a/b/c/d/e", "a/b\n"]
)
def test_a_name_that_leads_elsewhere_is_refused(name: str, store: Store) -> None:
    for call in (lambda: store.put_record(name, "x"), lambda: store.record(name)):
        with pytest.raises(RunError, match="cannot be the name of a record"):
            call()


def test_what_is_too_large_or_no_text_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_record("rows/a", "123456")
    monkeypatch.setattr(store_module, "MAX_RECORD_BYTES", 5)
    with pytest.raises(RunError, match="no file of at most 5 bytes"):
        store.record("rows/a")


def test_a_link_in_a_folder_is_not_written_through(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.put_record("rows/a", "x")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "store" / "records" / "history").symlink_to(tmp_path / "theirs")
    with pytest.raises(OutputError, match="symbolic link"):
        store.put_record("history/m/a", "x")
    assert not list((tmp_path / "theirs").iterdir())


def test_an_absolute_url_is_one_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store("store").absolute_url == str(tmp_path / "store")
