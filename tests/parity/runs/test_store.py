"""The store: by content, whole, checked on the way back, and no path can leave it."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from parity.runs.store import ENVIRONMENT_VARIABLE, Store, StoreEntry, open_store
from runners.errors import OutputError, RunError
from runners.files import HeldFile


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(range(256)) * 50)
    return path


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store") if request.param == "folder" else f"memory://{tmp_path.name}")


def test_a_file_comes_back_by_its_hash_and_is_stored_once(store: Store, file: Path, tmp_path: Path) -> None:
    stored = store.put(HeldFile(file))
    assert stored.bytes == 12800 and store.has(stored)
    assert store.put(HeldFile(file)) == stored
    store.get(stored, tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == file.read_bytes()


def test_nothing_partial_stays_in_a_folder(file: Path, tmp_path: Path) -> None:
    stored = Store(str(tmp_path / "store")).put(HeldFile(file))
    assert [path.name for path in (tmp_path / "store").rglob("*") if path.is_file()] == [stored.sha256]


@pytest.mark.parametrize("damage", [b"x", b""])
def test_a_damaged_file_is_refused_and_leaves_nothing(file: Path, tmp_path: Path, damage: bytes) -> None:
    store = Store(str(tmp_path / "store"))
    stored = store.put(HeldFile(file))
    lying = tmp_path / "store" / stored.sha256[:2] / stored.sha256
    lying.write_bytes(damage + file.read_bytes()[1:] if damage else b"short")
    with pytest.raises(RunError, match=r"damaged|no file"):
        store.get(stored, tmp_path / "back.bin")
    assert not (tmp_path / "back.bin").exists() and not list(tmp_path.glob(".back.bin*"))


def test_what_is_not_there_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has no file 0000"):
        store.get(StoreEntry(sha256="0" * 64, bytes=5), tmp_path / "back.bin")


@pytest.mark.parametrize(("sha256", "size"), [("../" + "0" * 61, 5), ("0" * 63, 5), ("A" * 64, 5), ("0" * 64, -1)])
def test_a_hash_that_is_none_is_refused(sha256: str, size: int) -> None:
    with pytest.raises(ValueError, match=r"no SHA-256|a file of"):
        StoreEntry(sha256=sha256, bytes=size)


def test_a_url_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(RunError, match="nosuch"):
        Store("nosuch://bucket")


def test_the_environment_names_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "mine"))
    assert open_store().url == str(tmp_path / "mine")
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert open_store().url == str(tmp_path / "ltx-parity" / "store")


@pytest.mark.parametrize("damage", ["other bytes", "shorter", "empty"])
def test_what_lies_there_under_the_right_name_is_read_and_mended(store: Store, file: Path, damage: str) -> None:
    stored = store.put(HeldFile(file))
    files, root = fsspec.url_to_fs(store.url)
    place, good = f"{root}/{stored.sha256[:2]}/{stored.sha256}", file.read_bytes()
    files.pipe_file(place, {"other bytes": b"x" + good[1:], "shorter": good[:-1], "empty": b""}[damage])
    assert store.put(HeldFile(file)) == stored
    assert files.cat_file(place) == good


def test_a_store_that_does_not_keep_what_it_takes_is_named(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "copyfile", lambda source, target: target.write_bytes(b"something else"))
    with pytest.raises(RunError, match=r"does not give [0-9a-f]{64} back as it was stored; that store is damaged"):
        Store(str(tmp_path / "store")).put(HeldFile(file))


@pytest.mark.parametrize("kind", ["pipe", "link", "folder of links"])
def test_only_plain_files_are_a_stores_own(kind: str, file: Path, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    stored = store.put(HeldFile(file))
    lying = tmp_path / "store" / stored.sha256[:2] / stored.sha256
    lying.rename(tmp_path / "theirs")
    (tmp_path / "theirs").write_bytes(b"theirs")
    if kind == "pipe":
        os.mkfifo(lying)
    elif kind == "link":
        lying.symlink_to(tmp_path / "theirs")
    else:
        lying.parent.rmdir()
        (tmp_path / "elsewhere").mkdir()
        lying.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="no regular file" if kind == "pipe" else "is a symbolic link"):
        store.put(HeldFile(file))
    assert (tmp_path / "theirs").read_bytes() == b"theirs" and not list(tmp_path.glob("elsewhere/*"))


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from parity.runs import store
from runners.files import HeldFile

def killed(source, target):
    Path(target).write_bytes(Path(source).read_bytes()[:100])
    os.kill(os.getpid(), signal.SIGKILL)

shutil.copyfile = killed
store.Store(sys.argv[1]).put(HeldFile(Path(sys.argv[2])))
"""


def test_what_a_killed_call_left_in_the_store_goes_with_the_next_one(file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "store"), str(file)]
    for _ in range(2):
        killed = subprocess.run(command, check=False, cwd=Path(__file__).parents[3])
        assert killed.returncode == -signal.SIGKILL
    [left] = (tmp_path / "store").glob("*/*")
    assert left.name.startswith(".") and ".partial-" in left.name
    stored = Store(str(tmp_path / "store")).put(HeldFile(file))
    assert [path.name for path in (tmp_path / "store").glob("*/*")] == [stored.sha256]
    mode = stat.S_IMODE((tmp_path / "store" / stored.sha256[:2] / stored.sha256).stat().st_mode)
    assert mode == stat.S_IMODE(file.stat().st_mode), "what the umask leaves, as of a file written here"
