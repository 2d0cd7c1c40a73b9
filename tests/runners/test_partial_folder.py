"""Folders to work in: gone afterwards, and gone at the next call where a process was killed."""

import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from parity.trace.atomic import folder_atomic
from runners.partial_folder import OLD, partial_folder

MARKER = "run.json"
KILLED = """
import os, signal, sys
from pathlib import Path
from parity.trace.atomic import folder_atomic

stop = int(sys.argv[2])
renames = 0
rename = Path.rename

def counted(path, target):
    global renames
    if renames == stop:
        os.kill(os.getpid(), signal.SIGKILL)
    renames += 1
    return rename(path, target)

Path.rename = counted
with folder_atomic(Path(sys.argv[1]), "run.json") as folder:
    (folder / "run.json").write_text("new")
os.kill(os.getpid(), signal.SIGKILL)
"""


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_is_beside_its_folder_and_gone_afterwards(tmp_path: Path) -> None:
    with partial_folder(tmp_path / "deep/out") as work:
        (work / "a").touch()
        assert work.parent == tmp_path / "deep" and work.name.startswith(".out.partial-")
    with pytest.raises(ZeroDivisionError), partial_folder(tmp_path / "deep/out") as work:
        (work / "a").touch()
        raise ZeroDivisionError
    assert left(tmp_path / "deep") == []


def test_what_a_living_process_holds_stays(tmp_path: Path) -> None:
    with partial_folder(tmp_path / "out") as first, partial_folder(tmp_path / "out") as second:
        assert first.is_dir() and second.is_dir() and first != second
    abandoned = tmp_path / ".out.partial-abcd_123"
    abandoned.mkdir()
    with partial_folder(tmp_path / "out"):
        assert not abandoned.exists()


@pytest.mark.parametrize(
    "name", [".out.partial-mine", "out.partial-abcd1234", ".out.partial-x.partial-abcd1234", ".outer.partial-abcd1234"]
)
def test_folders_of_other_names_are_nobodys_business(name: str, tmp_path: Path) -> None:
    (tmp_path / name / OLD).mkdir(parents=True)
    with partial_folder(tmp_path / "out"):
        pass
    assert left(tmp_path) == [name]


def test_a_link_of_that_name_is_left_with_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / ".out.partial-abcd1234").symlink_to(tmp_path / "work")
    with partial_folder(tmp_path / "out"):
        pass
    assert left(tmp_path) == [".out.partial-abcd1234", "work"]


def test_without_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: int) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    (tmp_path / ".out.partial-abcd1234").mkdir()
    with partial_folder(tmp_path / "out") as work:
        assert work.is_dir()
    assert left(tmp_path) == [".out.partial-abcd1234"]


def test_one_that_was_cleared_before_it_was_held_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, cleared = fcntl.flock, []

    def cleared_once(holder: int, operation: int) -> None:
        if not cleared:
            cleared.extend(tmp_path.iterdir())
            cleared[0].rmdir()
        lock(holder, operation)

    monkeypatch.setattr(fcntl, "flock", cleared_once)
    with partial_folder(tmp_path / "out") as work:
        assert work.is_dir() and work != cleared[0]
        assert left(tmp_path) == [work.name]


@pytest.mark.parametrize(("stop", "kept"), [(0, "older"), (1, "older"), (2, "new")])
def test_a_process_killed_while_it_replaces_a_folder_leaves_the_older_or_the_new_one(
    stop: int, kept: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / MARKER).write_text("older")
    command = [sys.executable, "-c", KILLED, str(out), str(stop)]
    killed = subprocess.run(command, check=False, cwd=Path(__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(ZeroDivisionError), folder_atomic(out, MARKER):
        assert (out / MARKER).read_text() == kept
        raise ZeroDivisionError
    assert (out / MARKER).read_text() == kept and left(tmp_path) == ["out"]


def test_no_file_stays_open(tmp_path: Path) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    for _ in range(3):
        (tmp_path / ".out.partial-abcd1234").mkdir()
        with partial_folder(tmp_path / "out"):
            pass
    assert open_files() == before
