"""A case that moves to another release: what held before stays readable under its own name, until told otherwise."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.diff.runs import compare_runs
from parity.runs import golden, reduced
from parity.runs.folder import RUN_FILE, read_run
from parity.runs.store import ENVIRONMENT_VARIABLE
from parity.trace.atomic import write_json_atomic
from parity.trace.file import read_trace
from runners.case import load_case
from runners.errors import CaseError, OutputError, RunError
from runners.files import sha256_of

LeaveRun = Callable[..., Path]
COMMENT = "# why this case\n"


@pytest.fixture
def case(tmp_path: Path, micro_case_text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The case file of a checkout of its own."""
    folder = tmp_path / "golden" / "micro"
    folder.mkdir(parents=True)
    (folder / "case.toml").write_text(COMMENT + micro_case_text.replace("num_inference_steps = 2", STEPS))
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "store"))
    return folder / "case.toml"


STEPS = 'num_inference_steps = 2 # not "reference = 1"'


def bless(run: Path, reference: str | None = None, **options: Any) -> None:
    golden.bless(read_run(run), f"because {run.name}", reference=reference, **options)


def test_a_moved_case_follows_the_new_release_and_keeps_the_old_golden(case: Path, leave_run: LeaveRun) -> None:
    old, new = leave_run("old"), leave_run("new", reference="1.2.0")
    bless(old)
    text = case.read_text()
    (case.parent / "numbers").mkdir()
    (case.parent / "numbers" / "x.json").write_text("{}")
    bless(new, "1.2.0")
    assert load_case(case).reference == "1.2.0" and case.read_text().startswith(COMMENT)
    assert set(case.read_text().splitlines()) - set(text.splitlines()) == {'reference = "1.2.0"'}
    assert golden.golden_of("micro").manifest.reference == "1.2.0"
    assert golden.golden_of("micro", "1.2.0").folder == case.parent / "run"
    kept = golden.golden_of("micro", "1.0.0")
    assert kept.manifest.reference == "1.0.0" and kept.folder == case.parent / "previous/1.0.0/run"
    assert golden.reference_run("golden@1.0.0", "micro").folder == kept.folder
    assert golden.releases_kept("micro") == ("1.0.0",)
    assert (case.parent / "previous/1.0.0/case.toml").read_text() == text
    assert (case.parent / "previous/1.0.0/numbers/x.json").is_file() and not (case.parent / "numbers").exists()
    assert golden.blessing_of("micro").moved_from == "1.0.0"
    with pytest.raises(RunError, match=r"no golden of release '1\.1\.2'; it has 1\.2\.0, 1\.0\.0"):
        golden.golden_of("micro", "1.1.2")


def test_moving_back_replaces_what_was_kept_of_that_release(case: Path, leave_run: LeaveRun) -> None:
    bless(leave_run("old"))
    bless(leave_run("new", reference="1.1.2"), "1.1.2")
    bless(leave_run("back"), "1.0.0")
    assert golden.releases_kept("micro") == ("1.1.2",)
    record = (case.parent / "golden.json").read_text()
    assert [f"because {name}" in record for name in ("old", "new", "back")] == [True] * 3


def test_kept_goldens_go_when_told(case: Path, leave_run: LeaveRun) -> None:
    bless(leave_run("old"))
    new = leave_run("new", reference="1.2.0")
    bless(new, "1.2.0")
    bless(new)
    assert golden.releases_kept("micro") == ("1.0.0",)  # a plain blessing says nothing about them
    bless(new, drop_previous=True)
    assert golden.releases_kept("micro") == () and not (case.parent / "previous").exists()
    bless(leave_run("other"), "1.0.0", drop_previous=True)
    assert golden.releases_kept("micro") == ()


def test_a_kept_golden_is_held_to_its_hashes(case: Path, leave_run: LeaveRun) -> None:
    bless(leave_run("old"))
    bless(leave_run("new", reference="1.2.0"), "1.2.0")
    run = case.parent / "previous/1.0.0/run" / RUN_FILE
    run.write_text(run.read_text().replace('"seed": 10', '"seed": 11'))
    with pytest.raises(RunError, match="was changed without `parity bless`"):
        golden.golden_of("micro", "1.0.0")


@pytest.mark.parametrize("kind", ["pipe", "device", "nowhere", "folder"])
def test_what_is_no_file_is_no_missing_golden(kind: str, case: Path, leave_run: LeaveRun) -> None:
    assert not golden.has_golden("micro")
    path = case.parent / "golden.json"
    make = {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "nowhere": lambda: path.symlink_to(path.parent / "none"),
        "folder": path.mkdir,
    }
    make[kind]()
    said = "no file that can be read" if kind == "nowhere" else "is not a regular file"
    with pytest.raises(RunError, match=rf"golden.json {said}|golden.json is {said}"):
        golden.golden_of("micro")
    with pytest.raises((RunError, OutputError)):
        bless(leave_run("first"))
    assert os.path.lexists(path)


def test_a_damaged_golden_is_not_set_aside(case: Path, leave_run: LeaveRun) -> None:
    bless(leave_run("old"))
    (case.parent / "run" / "outputs.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="does not have the hash"):
        bless(leave_run("new", reference="1.2.0"), "1.2.0")
    assert load_case(case).reference == "1.0.0" and not (case.parent / "previous").exists()


@pytest.mark.parametrize(
    ("of", "to", "words"),
    [
        ("1.2.0", None, r"at release 1\.0\.0 \(it follows 1\.2\.0\).*say with --reference"),
        ("1.2.0", "1.1.2", r"at release 1\.1\.2 \(it follows 1\.2\.0\)"),
        ("1.0.0", "1.2.0", r"at release 1\.2\.0 \(it follows 1\.0\.0\)"),
    ],
)
def test_run_and_release_must_fit(case: Path, leave_run: LeaveRun, of: str, to: str | None, words: str) -> None:
    bless(leave_run("old"))
    before = sha256_of(case)
    with pytest.raises(RunError, match=words):
        bless(leave_run("new", reference=of), to)
    assert sha256_of(case) == before and golden.golden_of("micro").manifest.reference == "1.0.0"


@pytest.mark.parametrize("line", ['reference = "1.1.2"', "reference='1.1.2'   # for now", '"reference" = "1.1.2"'])
def test_the_release_in_a_case_file_is_one_line(line: str, case: Path) -> None:
    case.write_text(f"{line}\n" + case.read_text())
    if line.startswith('"'):  # TOML that only a parser understands is left to its author
        with pytest.raises(CaseError):
            golden.case_text_at(case, "1.2.0")
        return
    text = golden.case_text_at(case, "1.2.0")
    assert text.splitlines()[0] == 'reference = "1.2.0"' + ("   # for now" if "#" in line else "")
    assert golden.case_text_at(case, "1.1.2") == case.read_text()


def test_goldens_of_one_request_are_found_whatever_their_name(case: Path, leave_run: LeaveRun) -> None:
    bless(leave_run("old"))
    bless(leave_run("new", reference="1.2.0"), "1.2.0")
    found = golden.goldens_of_request(read_run(leave_run("candidate", runner="native", reference="1.1.2")))
    assert [run.manifest.reference for run in found] == ["1.2.0", "1.0.0"]
    assert list(golden.goldens_of_request(read_run(leave_run("other", prompt="a dog")))) == []


def test_a_small_golden_is_reduced_where_that_is_asked_for(case: Path, leave_run: LeaveRun) -> None:
    bless(leave_run("old"), reduced=True)
    recorded = golden.golden_of("micro")
    assert recorded.reduced
    assert golden.whole_golden_of("micro", case.parent.parent.parent / "whole").outputs().frame_rate == 45.0


def test_a_golden_is_thinned_by_blessing_itself_and_keeps_the_bits_of_what_it_had(
    case: Path, leave_run: LeaveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = "text/* connector/* image/* init/* decode/* denoise/*"  # as goldens were: more sketches and no checksums
    official, folder = leave_run("old"), case.parent / "run"
    with monkeypatch.context() as earlier:
        earlier.setattr(reduced, "kept_taps", lambda plans, last_block: once)
        earlier.setattr(reduced, "write_checksums", lambda folder, checksums: None)
        bless(official, reduced=True)
    before, wider = golden.blessing_of("micro"), read_trace(folder)
    golden.bless(read_run(folder), "thinner")
    after, thinner = golden.blessing_of("micro"), read_trace(folder)
    assert (after.whole, after.source_sha256) == (before.whole, before.source_sha256) and after.reason == "thinner"
    assert 0 < len(thinner) < len(wider) == len(thinner.bits) and wider.checksums is None
    assert dict(thinner.bits) == dict(wider.bits) and thinner.pattern_of_bits == once
    same = compare_runs(golden.golden_of("micro"), read_run(official))
    assert {found.code for found in same.findings} == {"frame_too_small", "same_run"}  # small copies of micro frames
    assert same.metrics["taps.bit_different"] == 0.0
    hidden = next(tap for tap in wider if tap not in thinner)
    moved = read_run(leave_run("moved", first=hidden, error=0.25))
    counts = [compare_runs(run, moved).metrics["taps.bit_different"] for run in (read_run(folder), read_run(official))]
    assert counts[0] == counts[1] > 0
    golden.bless(read_run(folder), "again")  # nothing is lost by doing it twice
    assert read_trace(folder).pattern_of_bits == once and dict(read_trace(folder).bits) == dict(wider.bits)
    shutil.copytree(folder, stray := case.parent / "stray")
    bless(official, reduced=True)
    with pytest.raises(RunError, match="is not the golden of 'micro'"):
        golden.bless(read_run(stray), "another golden's")


def test_a_run_of_some_taps_does_not_become_a_reduced_golden(case: Path, leave_run: LeaveRun) -> None:
    kept = reduced.kept_taps(load_case(case).plans, 2)
    with pytest.raises(RunError, match="not a whole trace of all taps"):
        bless(leave_run("some", pattern=kept), reduced=True)
    assert not (case.parent / "run").exists()


CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.copyfile", "shutil.rmtree")  # audit events


def killed_before_change(number: int, run: Path, reference: str | None) -> bool:
    """Bless in a process that is gone the moment it would make that change of a file; whether it came to it."""
    process = os.fork()
    if process == 0:
        left = number

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            left -= event in CHANGES or (event == "open" and str(arguments[1]) in ("w", "wb", "xb"))
            if left == 0:
                os._exit(9)

        sys.addaudithook(watch)
        try:
            bless(run, reference)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_blessing_that_is_killed_at_any_change_leaves_one_golden_or_none_and_the_next_one_works(
    case: Path, leave_run: LeaveRun, tmp_path: Path
) -> None:
    old, new = leave_run("old"), leave_run("new", reference="1.2.0")
    bless(old)
    (case.parent / "numbers").mkdir()
    (case.parent / "numbers/x.json").write_text("{}")
    before = tmp_path / "before"
    shutil.copytree(case.parent, before)
    seen = []
    for number in range(1, 100):
        if not killed_before_change(number, new, "1.2.0"):
            break
        try:
            found = golden.golden_of("micro")
            assert load_case(case).reference == found.manifest.reference == read_run(found.folder).manifest.reference
            seen.append(found.manifest.reference)
        except RunError:
            seen.append("refused")
        else:
            assert golden.golden_of("micro", "1.0.0").outputs()
        golden.undo_interrupted("micro")
        assert golden.golden_of("micro").manifest.reference == ("1.2.0" if seen[-1] == "1.2.0" else "1.0.0")
        assert not list(case.parent.rglob(".*"))
        bless(new, "1.2.0")
        assert (golden.golden_of("micro").manifest.reference, golden.releases_kept("micro")) == ("1.2.0", ("1.0.0",))
        shutil.rmtree(case.parent)
        shutil.copytree(before, case.parent)
    assert sorted(set(seen), key=seen.index) == ["1.0.0", "refused", "1.2.0"]


def test_a_blessing_that_fails_half_way_puts_back_what_stood_there(
    case: Path, leave_run: LeaveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    bless(leave_run("old"))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(golden, "write_json_atomic", full_at(golden.GOLDEN_FILE, full))
    with pytest.raises(OSError, match="No space"):
        bless(leave_run("new", reference="1.2.0"), "1.2.0")
    assert golden.golden_of("micro").manifest.reference == load_case(case).reference == "1.0.0"
    assert not list(case.parent.rglob(".*"))


def full_at(name: str, fail: Callable[..., None]) -> Callable[..., None]:
    """`write_json_atomic`, but for one file."""
    return lambda path, value: fail() if path.name == name else write_json_atomic(path, value)
