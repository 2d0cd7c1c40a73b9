"""Writing whole or not at all."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from parity.trace.atomic import (
    append_text,
    changing,
    file_atomic,
    folder_atomic,
    own_folder,
    plain,
    require_folder,
    require_named_target,
    write_bytes_atomic,
    write_json_atomic,
)
from runners.errors import OutputError

MARKER = "run.json"


def is_ours(folder: Path) -> bool:
    return (folder / MARKER).is_file()


def test_bytes_are_written_whole_into_a_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "new/a.bin"
    write_bytes_atomic(path, b"one")
    write_bytes_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [item.name for item in path.parent.iterdir()] == ["a.bin"]


def test_a_failed_write_leaves_the_older_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def full_disk(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_bytes_atomic(path, b"new")
    assert [(item.name, item.read_bytes()) for item in tmp_path.iterdir()] == [("a.bin", b"old")]


def test_json_holds_no_infinities_and_ends_in_a_newline(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "a.json", {"x": [1.5, float("inf")], "y": {2: float("nan")}, "z": (float("-inf"),)})
    text = (tmp_path / "a.json").read_text()
    assert text.endswith("}\n")
    assert json.loads(text) == {"x": [1.5, "inf"], "y": {"2": "nan"}, "z": ["-inf"]}
    assert plain("inf") == "inf" and plain(None) is None


def test_a_folder_appears_whole_and_replaces_an_older_one_of_ours(tmp_path: Path) -> None:
    out = tmp_path / "runs/first"
    for text in ("one", "two"):
        with folder_atomic(out, is_ours, replace=True) as folder:
            (folder / MARKER).write_text(text)
            (folder / text).touch()
            assert not (out / text).exists()
        assert (out / MARKER).read_text() == text
    assert sorted(item.name for item in out.iterdir()) == [MARKER, "two"]
    assert [item.name for item in out.parent.iterdir()] == ["first"]


def test_an_error_inside_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(ZeroDivisionError), folder_atomic(out, is_ours, replace=True) as folder:
        (folder / MARKER).touch()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    (out / MARKER).write_text("old")
    with pytest.raises(ZeroDivisionError), folder_atomic(out, is_ours, replace=True):
        raise ZeroDivisionError
    assert (out / MARKER).read_text() == "old" and [item.name for item in tmp_path.iterdir()] == ["run"]


def test_somebody_elses_folder_is_never_replaced(tmp_path: Path) -> None:
    out = tmp_path / "home"
    out.mkdir()
    with folder_atomic(out, is_ours, replace=True) as folder:  # an empty one may be
        (folder / MARKER).touch()
    (out / MARKER).rename(out / "thesis.tex")
    with (
        pytest.raises(OutputError, match="home exists and is not one of ours"),
        folder_atomic(out, is_ours, replace=True),
    ):
        pass
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(OutputError, match="file exists and is no folder"),
        folder_atomic(tmp_path / "file", is_ours, replace=True),
    ):
        pass
    assert (out / "thesis.tex").is_file() and (tmp_path / "file").read_text() == "x"


def test_an_older_run_survives_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / MARKER).write_text("old")
    rename = Path.rename

    def refuse_new(self: Path, target: Path) -> Path:
        if Path(target) == out and self.name != "old":
            raise OSError("cannot")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_new)
    with pytest.raises(OSError, match="cannot"), folder_atomic(out, is_ours, replace=True) as folder:
        (folder / MARKER).write_text("new")
    assert (out / MARKER).read_text() == "old" and [item.name for item in tmp_path.iterdir()] == ["run"]


def test_who_changes_a_file_waits_for_who_is_changing_it_already(tmp_path: Path) -> None:
    path, seen = tmp_path / "new" / "a.json", list[str]()
    inside = threading.Event()

    def change(name: str) -> None:
        with changing(path):
            inside.set()
            before = path.read_text() if path.exists() else ""
            time.sleep(0.05)
            write_bytes_atomic(path, (before + name).encode())
            seen.append(name)

    first, second = (threading.Thread(target=change, args=(name,)) for name in "ab")
    first.start()
    inside.wait(5)
    second.start()
    for one in (first, second):
        one.join(5)
    assert path.read_text() == "ab" and seen == ["a", "b"], "the second read what the first had written"


def test_a_finished_folder_is_replaced_only_if_that_is_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir(mode=0o750)
    (out / MARKER).write_text("old")
    with (
        pytest.raises(OutputError, match="run is finished already; say --replace to replace it"),
        folder_atomic(out, is_ours, replace=False),
    ):
        pytest.fail("the place is not free")
    assert (out / MARKER).read_text() == "old"
    with folder_atomic(out, is_ours, replace=True) as folder:
        (folder / MARKER).write_text("new")
    assert (out / MARKER).read_text() == "new" and stat.S_IMODE(out.stat().st_mode) == 0o750


def test_a_run_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="--replace"), folder_atomic(tmp_path / "run", is_ours, replace=False) as new:
        (new / MARKER).write_text("late")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / MARKER).write_text("early")
    assert (tmp_path / "run" / MARKER).read_text() == "early"


def test_a_folder_behind_its_own_name_is_no_place(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for place in (tmp_path / "link", tmp_path / "dangling"):
        if not place.is_symlink():
            place.symlink_to(tmp_path / "nothing")
        with pytest.raises(OutputError, match="is a symbolic link"), folder_atomic(place, is_ours, replace=True):
            pytest.fail("a link is no place")
    with folder_atomic(tmp_path / "link" / "run", is_ours, replace=False) as new:  # the user laid it so
        (new / MARKER).touch()
    assert (tmp_path / "real" / "run" / MARKER).is_file()


def test_a_name_that_can_be_none_is_refused_in_one_sentence(tmp_path: Path) -> None:
    for refuse in (
        lambda path: require_named_target(path),
        lambda path: write_bytes_atomic(path, b"x"),
        lambda path: require_folder(path, is_ours, replace=False),
    ):
        with pytest.raises(OutputError, match="null byte"):
            refuse(tmp_path / "a\0b")


def identity(path: Path) -> tuple[int, ...]:
    """The identity of a path, whatever was read of it: mode, device, inode, bytes and time of the last change."""
    found = path.lstat()
    return found.st_mode, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@pytest.fixture(params=["pipe", "socket", "folder", "link", "dangling link", "link to a device"])
def no_place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Something that is no regular file."""
    path = tmp_path / "target.json"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(path))
    elif request.param == "folder":
        path.mkdir()
    else:
        (tmp_path / "theirs").write_text("theirs")
        places = {"link": tmp_path / "theirs", "dangling link": tmp_path / "none", "link to a device": Path(os.devnull)}
        path.symlink_to(places[request.param])
    return path


def test_nothing_but_a_regular_file_is_written_over(no_place: Path) -> None:
    before = identity(no_place)
    for write in (
        lambda: write_bytes_atomic(no_place, b"x"),
        lambda: write_json_atomic(no_place, {}),
        lambda: append_text(no_place, "x"),
        lambda: require_named_target(no_place),
    ):
        with pytest.raises(OutputError, match=r"is a symbolic link|no regular file"):
            write()
    assert identity(no_place) == before
    theirs = no_place.parent / "theirs"
    assert not theirs.exists() or theirs.read_text() == "theirs"
    assert not (no_place.parent / "none").exists() and not list(no_place.parent.glob(".*"))


def test_a_lock_is_not_taken_through_a_link(no_place: Path) -> None:
    (no_place.parent / ".registry.json.lock").symlink_to(no_place)
    with pytest.raises(OutputError, match="lock is a symbolic link"), changing(no_place.parent / "registry.json"):
        pytest.fail("somebody else's file would be the lock")


@pytest.mark.parametrize("device", ["/dev/null", "/dev/stdout", "/dev/full", "/dev/fd/1"])
def test_devices_are_no_target(device: str) -> None:
    with pytest.raises(OutputError, match=r"no regular file|symbolic link|cannot be written"):
        require_named_target(Path(device))


def test_permissions_stay_and_new_files_have_what_the_umask_leaves(tmp_path: Path) -> None:
    modes = {}
    for umask in (0o022, 0o077, 0o007):
        before = os.umask(umask)
        try:
            path = tmp_path / f"{umask:o}.json"
            write_json_atomic(path, {})
            modes[umask] = stat.S_IMODE(path.stat().st_mode)
            path.chmod(0o604)
            write_bytes_atomic(path, b"again")
            assert stat.S_IMODE(path.stat().st_mode) == 0o604 and path.read_bytes() == b"again"
        finally:
            os.umask(before)
    assert modes == {0o022: 0o644, 0o077: 0o600, 0o007: 0o660}


def test_a_write_protected_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("mine")
    path.chmod(0o444)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(OutputError, match="write-protected"):
        write_bytes_atomic(path, b"x")
    assert path.read_text() == "mine"


def test_a_named_file_lies_behind_no_link_but_those_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for target in ("link/a.xml", "link/below/a.xml", "link/../a.xml"):
        with pytest.raises(OutputError, match=rf"lies behind the symbolic link {tmp_path}/link"):
            require_named_target(tmp_path / target)
    require_named_target(tmp_path / "real" / "new" / "a.xml")
    require_named_target(None)
    for name in ("HOME", "PWD"):
        with monkeypatch.context() as account:
            account.setenv(name, str(tmp_path / "link" / "below"))
            require_named_target(tmp_path / "link" / "below" / "a.xml")
            require_named_target(tmp_path / "link" / "a.xml")
    with monkeypatch.context() as account:
        account.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "link"))
        require_named_target(tmp_path / "link" / "a.xml")
    write_bytes_atomic(tmp_path / "link" / "a.bin", b"x")  # of our own, wherever the user keeps them
    assert (tmp_path / "real" / "a.bin").read_bytes() == b"x"


def test_inside_a_folder_of_ours_nothing_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "case").symlink_to(tmp_path / "elsewhere")
    assert own_folder(tmp_path / "ours", "other", "native") == tmp_path / "ours" / "other" / "native"
    with pytest.raises(OutputError, match="case is a symbolic link inside"):
        own_folder(tmp_path / "ours", "case", "native")


KILLED = """
import os, signal, sys
from pathlib import Path
from parity.trace.atomic import write_bytes_atomic

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "renamed":
    Path.replace = killed
else:
    os.fsync = killed
write_bytes_atomic(Path(sys.argv[1]), b"new")
"""


@pytest.mark.parametrize("when", ["written", "renamed"])
def test_what_a_killed_writer_left_goes_with_the_next_one_and_nothing_else(when: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    theirs = [".a.json.abcdefgh", ".a.json.partial-notours", ".b.json.partial-abcdefgh", ".a.json.partial-abcdefgh"]
    for name in theirs:
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes").write_text("x")
    command = [sys.executable, "-c", KILLED, str(path), when]
    killed = subprocess.run(command, check=False, cwd=Path(__file__).parents[3])
    assert killed.returncode == -signal.SIGKILL and path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 6
    write_bytes_atomic(path, b"newer")
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted(["a.json", *theirs])
    assert path.read_bytes() == b"newer" and all((tmp_path / name / "notes").is_file() for name in theirs)


def test_what_a_living_writer_holds_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with file_atomic(path) as first:
        first.write_bytes(b"first")
        write_bytes_atomic(path, b"second")
        assert first.read_bytes() == b"first"
    assert path.read_bytes() == b"first" and [item.name for item in tmp_path.iterdir()] == ["a.json"]
