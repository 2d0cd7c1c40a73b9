"""Writing whole or not at all."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from parity.trace import atomic
from parity.trace.atomic import changing, folder_atomic, plain, write_bytes_atomic, write_json_atomic
from runners.errors import OutputError

MARKER = "run.json"


def is_ours(folder: Path) -> bool:
    return (folder / MARKER).is_file()


def test_bytes_are_written_whole_into_a_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "new/a.bin"
    write_bytes_atomic(path, b"one")
    write_bytes_atomic(path, b"two")
    assert path.read_bytes() == b"two" and path.stat().st_mode & 0o777 == 0o644
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

    monkeypatch.setattr(atomic.Path, "rename", refuse_new)
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
