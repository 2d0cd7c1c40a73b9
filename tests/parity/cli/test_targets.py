"""The places that verbs write: refused before any work where they are not free, and nothing there is touched."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from parity.cli.app import app
from parity.runs import golden
from parity.runs.folder import RUN_FILE, read_run
from runners.forge import make, tensors
from runners.forge.tensors import MadeTensors

LeaveRun = Callable[..., Path]
FILES = (  # every verb that writes a file which its command names
    ("gate", "RUN", "--against", "REF", "--junit"),
    ("diff", "REF", "RUN", "--out"),
    ("report", "RUN", "--against", "REF", "--out"),
    ("identify", "RUN", "--weights", "forge:tiny:0", "--out"),
    ("isolate", "tiny_ti2v", "--weights", "forge:tiny:0", "--out"),
    ("admit", "native", "--case", "tiny_ti2v", "--weights", "forge:tiny:0", "--out"),
    ("amplify", "--case", "tiny_ti2v", "--weights", "forge:tiny:0", "--out"),
    ("mutate", "--weights", "nowhere", "--out"),
    ("calibrate", "--weights", "forge:tiny:0", "--case", "tiny_ti2v", "--limits-only", "--samples"),
)


def identity(path: Path) -> tuple[int, ...]:
    """The identity of a path, whatever was read of it: mode, device, inode, bytes and time of the last change."""
    found = path.lstat()
    return found.st_mode, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def invoke(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, " ".join(done.output.split())


@pytest.mark.parametrize("kind", ["pipe", "link", "dangling link", "behind a link", "folder", "/dev/null"])
@pytest.mark.parametrize("verb", FILES, ids=lambda words: words[0])
def test_a_file_is_written_over_a_regular_file_or_nothing(
    verb: tuple[str, ...], kind: str, tmp_path: Path, leave_run: LeaveRun
) -> None:
    runs = {"RUN": leave_run("run", runner="native"), "REF": leave_run("ref")}
    theirs, target = tmp_path / "theirs", tmp_path / "target"
    theirs.mkdir()
    (theirs / "file").write_text("theirs")
    if kind == "pipe":
        os.mkfifo(target)
    elif kind == "folder":
        target.mkdir()
    elif kind == "/dev/null":
        target = Path("/dev/null")
        if os.access("/dev", os.W_OK):  # where a failure of this test would do what it is about
            target = tmp_path / "null"
            target.symlink_to("/dev/null")
    else:
        target.symlink_to({"link": theirs / "file", "dangling link": theirs / "none", "behind a link": theirs}[kind])
    named = target / "file" if kind == "behind a link" else target
    before = identity(target)
    code, said = invoke(*(runs.get(word, word) for word in verb), named)
    assert code == 2 and said.startswith("error: "), said
    assert "symbolic link" in said or "no regular file" in said
    assert identity(target) == before and {path.name for path in theirs.iterdir()} == {"file"}
    assert (theirs / "file").read_text() == "theirs" and not list(tmp_path.glob(".*"))


def test_what_they_write_has_ordinary_permissions_and_keeps_those_it_had(tmp_path: Path, leave_run: LeaveRun) -> None:
    run, reference = leave_run("run", runner="native"), leave_run("ref")
    junit, numbers, page = tmp_path / "gate.xml", tmp_path / "numbers.json", tmp_path / "page.html"
    numbers.write_text("older")
    numbers.chmod(0o660)
    before = os.umask(0o027)
    try:
        assert invoke("gate", run, "--against", reference, "--junit", junit)[0] == 0
        assert invoke("diff", reference, run, "--out", numbers)[0] == 0
        assert invoke("report", run, "--against", reference, "--out", page)[0] == 0
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (junit, numbers, page)] == [0o640, 0o660, 0o640]


def test_a_summary_that_is_no_file_is_not_waited_for(
    tmp_path: Path, leave_run: LeaveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "summary")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    code, said = invoke("gate", leave_run("run", runner="native"), "--against", leave_run("ref"))
    assert code == 2 and "no regular file" in said


def test_a_whole_golden_is_fetched_over_another_run_only_where_that_is_asked_for(
    checkout: Path, leave_run: LeaveRun, tmp_path: Path
) -> None:
    golden.bless(read_run(leave_run("official")), "first", reduced=True)
    mine, theirs = leave_run("mine", runner="native"), tmp_path / "theirs"
    theirs.mkdir()
    (theirs / RUN_FILE).write_text('{"scripts": {}}')
    record = (mine / RUN_FILE).read_bytes()
    code, said = invoke("fetch", "micro", "--out", mine)
    assert code == 2 and "say --replace" in said and (mine / RUN_FILE).read_bytes() == record
    code, said = invoke("fetch", "micro", "--out", theirs, "--replace")
    assert code == 2 and "not one of ours" in said and [path.name for path in theirs.iterdir()] == [RUN_FILE]
    assert invoke("fetch", "micro", "--out", mine, "--replace")[0] == 0
    assert read_run(mine).manifest.runner == "official"
    assert invoke("fetch", "micro", "--out", mine)[0] == 0, "the same run again is no other"


def test_a_made_checkpoint_is_made_anew_only_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "made_model", lambda preset, seed, _=None: MadeTensors({"a": (3, seed + 1)}, seed))
    monkeypatch.setattr(make, "made_gemma", lambda preset, seed: MadeTensors({"b": (2,)}, seed))
    monkeypatch.setattr(tensors, "made_tensor", lambda name, shape, dtype, seed, device: torch.zeros(shape).to(dtype))
    out = tmp_path / "w"
    assert invoke("forge", "--out", out)[0] == 0
    size = (out / make.CHECKPOINT_NAME).stat().st_size
    code, said = invoke("forge", "--out", out, "--seed", 4)
    assert code == 2 and "--replace" in said
    assert invoke("forge", "--out", out, "--seed", 4, "--replace")[0] == 0
    assert (out / make.CHECKPOINT_NAME).stat().st_size == size + 2 * 3 * 4
    (out / "notes").write_text("mine")  # from here on it is somebody's, too
    code, said = invoke("forge", "--out", out, "--replace")
    assert code == 2 and "not an empty folder" in said and (out / "notes").read_text() == "mine"
    (out / "notes").unlink()
    (out / make.CHECKPOINT_NAME).write_bytes((24).to_bytes(8, "little") + b'{"__metadata__":{}}     ')
    assert invoke("forge", "--out", out, "--replace")[0] == 2, "these weights were not made here"
    (tmp_path / "link").symlink_to(out)
    assert invoke("forge", "--out", tmp_path / "link", "--replace")[0] == 2


def test_a_checkpoint_is_quantised_beforehand_in_files_alone(tmp_path: Path) -> None:
    code, said = invoke("forge", "--check", "--quantization", "fp8_scaled_mm")
    assert code == 2 and "makes files; add --out DIR" in said
    code, said = invoke("forge", "--out", tmp_path / "w", "--quantization", "nvfp4")
    assert code == 2 and "wanted fp8_scaled_mm" in said and not (tmp_path / "w").exists()
