"""Folders to work in: gone afterwards, and gone at the next call where a process was killed."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from parity.trace import atomic
from parity.trace.atomic import folder_atomic
from runners import partial_folder as partial_folder_module
from runners.partial_folder import partial_folder, take_place

Interrupting = Callable[[int, ModuleType, ModuleType], AbstractContextManager[list[int]]]
MARKER = "run.json"


def is_ours(folder: Path) -> bool:
    return (folder / MARKER).is_file()


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from parity.trace.atomic import folder_atomic

def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

stop = int(sys.argv[2])
renames = 0
rename = Path.rename

def counted(path, target):
    global renames
    if renames == stop:
        killed()
    renames += 1
    return rename(path, target)

Path.rename = counted
shutil.rmtree = killed
with folder_atomic(Path(sys.argv[1]), lambda folder: (folder / "run.json").is_file(), replace=True) as folder:
    (folder / "run.json").write_text("new")
"""


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A run that is about to be replaced."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / MARKER).write_text("older")
    return folder


def test_it_is_beside_its_folder_and_gone_afterwards(tmp_path: Path) -> None:
    with partial_folder(tmp_path / "deep/out") as new:
        (new / "a").touch()
        assert new.parent.parent == tmp_path / "deep" and new.parent.name.startswith(".out.partial-")
    with pytest.raises(ZeroDivisionError), partial_folder(tmp_path / "deep/out") as new:
        (new / "a").touch()
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
    "name",
    [
        ".out.partial-mine",
        ".out.partial-abcd12345",
        "out.partial-abcd1234",
        ".out.partial-x.partial-abcd1234",
        ".outer.partial-abcd1234",
        ".o-t.partial-abcd1234",
    ],
)
def test_folders_of_other_names_are_nobodys_business(name: str, tmp_path: Path) -> None:
    (tmp_path / name / "old").mkdir(parents=True)
    (tmp_path / name / "new").mkdir()
    for mine in ("out", "o.t"):
        with partial_folder(tmp_path / mine):
            pass
    assert left(tmp_path) == [name] and left(tmp_path / name) == ["new", "old"]


def test_a_link_of_that_name_is_left_with_what_it_leads_to(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / "work" / name).mkdir(parents=True)
    (tmp_path / ".out.partial-abcd1234").symlink_to(tmp_path / "work")
    with partial_folder(tmp_path / "out"):
        pass
    assert left(tmp_path) == [".out.partial-abcd1234", "work"] and left(tmp_path / "work") == ["new", "old"]


def test_without_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: int) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    (tmp_path / ".out.partial-abcd1234").mkdir()
    with partial_folder(tmp_path / "out") as new:
        assert new.is_dir()
    assert left(tmp_path) == [".out.partial-abcd1234"]


@pytest.mark.parametrize(("module", "name"), [(fcntl, "flock"), (os, "open")])
def test_one_that_was_cleared_before_it_was_held_is_made_again(
    module: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared: list[Path] = []
    as_it_is: Callable[..., Any] = getattr(module, name)

    def cleared_once(*arguments: Any) -> Any:
        if not cleared:
            cleared.extend(tmp_path.iterdir())
            cleared[0].rmdir()
        return as_it_is(*arguments)

    monkeypatch.setattr(module, name, cleared_once)
    with partial_folder(tmp_path / "out") as new:
        assert new.is_dir() and new.parent != cleared[0]
        assert left(tmp_path) == [new.parent.name]


@pytest.mark.parametrize(("stop", "kept"), [(0, "older"), (1, "older"), (2, "new")])
def test_a_process_killed_while_it_replaces_a_folder_leaves_the_older_or_the_new_one(
    stop: int, kept: str, out: Path
) -> None:
    command = [sys.executable, "-c", KILLED, str(out), str(stop)]
    killed = subprocess.run(command, check=False, cwd=Path(__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL and len(left(out.parent)) == (1 if stop == 1 else 2)
    with pytest.raises(ZeroDivisionError), folder_atomic(out, is_ours, replace=True):
        assert (out / MARKER).read_text() == kept
        raise ZeroDivisionError
    assert (out / MARKER).read_text() == kept and left(out.parent) == ["out"]


def test_a_run_that_was_replaced_does_not_come_back_when_its_successor_is_deleted(out: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(out), "2"]
    subprocess.run(command, check=False, cwd=Path(__file__).parents[2])
    shutil.rmtree(out)
    with pytest.raises(ZeroDivisionError), folder_atomic(out, is_ours, replace=True):
        raise ZeroDivisionError
    assert left(out.parent) == []


def test_an_interrupt_at_any_line_leaves_the_older_run_or_the_new_one(
    tmp_path: Path, interrupting: Interrupting
) -> None:
    def replaced(folder: Path, line: int) -> int:
        """Replace a run, interrupted at that line of ours; return how many lines were run."""
        folder.mkdir(parents=True)
        (folder / MARKER).write_text("older")
        with (
            interrupting(line, atomic, partial_folder_module) as ran,
            folder_atomic(folder, is_ours, replace=True) as new,
        ):
            (new / MARKER).write_text("new")
        return len(ran)

    lines = replaced(tmp_path / "0/out", 0)
    assert lines > 20 and (tmp_path / "0/out" / MARKER).read_text() == "new"
    for line in range(1, lines + 1):
        out = tmp_path / str(line) / "out"
        with pytest.raises(KeyboardInterrupt):
            replaced(out, line)
        # An interrupt of the clearing up itself leaves it to the next call; pytest still holds what was open then.
        with partial_folder(out):
            pass
        places = [out, *out.parent.glob(".out.partial-*/old")]
        assert any((place / MARKER).is_file() for place in places), line


def test_what_a_killed_process_had_moved_away_is_not_put_over_what_stands_there_now(out: Path) -> None:
    for name in ("old", "new"):
        (out.parent / ".out.partial-abcd1234" / name).mkdir(parents=True)
    (out.parent / ".out.partial-abcd1234" / partial_folder_module.MARKER).touch()
    with partial_folder(out):
        assert left(out) == [MARKER]
    assert left(out.parent) == ["out"]


def test_a_link_to_a_folder_is_put_back(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to("elsewhere")
    with pytest.raises(ZeroDivisionError), partial_folder(tmp_path / "out") as new:
        (tmp_path / "out").rename(new.with_name("old"))
        raise ZeroDivisionError
    assert (tmp_path / "out").is_symlink() and left(tmp_path) == ["elsewhere", "out"]


def test_a_folder_takes_an_empty_ones_place(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with partial_folder(tmp_path / "out") as new:
        (new / "a").touch()
        take_place(new, tmp_path / "out")
    assert left(tmp_path / "out") == ["a"] and left(tmp_path) == ["out"]


def test_no_file_stays_open(tmp_path: Path) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    for _ in range(3):
        (tmp_path / ".out.partial-abcd1234").mkdir()
        with partial_folder(tmp_path / "out"):
            pass
    assert open_files() == before
