"""A case's folder: a run names no path in it, nothing but what is ours goes, and what is refused changes nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from parity.cli.app import app
from parity.runs import golden
from parity.runs.folder import RUN_FILE, read_run
from parity.runs.golden_folder import (
    CASE_FILE,
    GOLDEN_FILE,
    NUMBERS_FOLDER,
    OLD_CASE,
    OLD_RUN,
    PREVIOUS_FOLDER,
    RUN_FOLDER,
    alone_in,
    keep_previous,
    remove_numbers,
    remove_previous,
    require_own,
    undo_interrupted,
)
from runners.errors import CaseError, OutputError, RunError
from runners.files import sha256_of

LeaveRun = Callable[..., Path]


@pytest.fixture
def folder(checkout: Path) -> Path:
    """The micro case's folder in a checkout of its own."""
    return checkout / "golden" / "micro"


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: files by their bytes, folders and links by None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in sorted(folder.rglob("*"))
    }


def rewritten(run: Path, **changes: object) -> None:
    record = json.loads((run / RUN_FILE).read_text())
    (run / RUN_FILE).write_text(json.dumps({**record, **changes}))


@pytest.mark.parametrize("said_by_case", [False, True])
@pytest.mark.parametrize("place", ["", ".", "..", "../../precious", "../../../precious", "absolute", "1.1.2/../.."])
def test_a_run_cannot_name_a_folder_that_its_blessing_deletes(
    place: str, said_by_case: bool, folder: Path, checkout: Path, leave_run: LeaveRun
) -> None:
    precious = checkout / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("ten years")
    golden.bless(read_run(leave_run("old")), "first")
    run = leave_run("evil")
    name = str(precious) if place == "absolute" else place
    record = json.loads((run / RUN_FILE).read_text())
    rewritten(run, reference=name, case={**record["case"], **({"reference": name} if said_by_case else {})})
    before = tree(checkout)
    for options in ([], ["--reference", "1.1.2"], ["--drop-previous"], ["--reference", name]):
        done = CliRunner().invoke(app, ["bless", str(run), "--reason", "it ships", *options])
        assert done.exit_code == 2 and "says that the run follows" in done.output, done.output
        assert tree(checkout) == before
    with pytest.raises(RunError, match="says that the run follows"):
        golden.bless(read_run(run), "it ships")


@pytest.mark.parametrize("place", ["", ".", "..", "../../precious", "../../../precious", "absolute"])
def test_a_golden_that_was_changed_cannot_name_one_either(
    place: str, folder: Path, checkout: Path, leave_run: LeaveRun
) -> None:
    precious = checkout / "precious"
    precious.mkdir()
    (precious / GOLDEN_FILE).write_text("{}")
    golden.bless(read_run(leave_run("old")), "first")
    name = str(precious) if place == "absolute" else place
    rewritten(folder / RUN_FOLDER, reference=name)
    document = json.loads((folder / GOLDEN_FILE).read_text())
    document["history"][-1]["run_sha256"] = sha256_of(folder / RUN_FOLDER / RUN_FILE)
    (folder / GOLDEN_FILE).write_text(json.dumps(document))
    new, before = read_run(leave_run("new")), tree(checkout)
    with pytest.raises(RunError, match="says that the run follows"):
        golden.bless(new, "it ships")
    assert tree(checkout) == before


def test_a_case_file_cannot_name_one_either(folder: Path, checkout: Path, leave_run: LeaveRun) -> None:
    golden.bless(read_run(leave_run("old")), "first")
    new = read_run(leave_run("new", reference="1.2.0"))
    (folder / CASE_FILE).write_text('reference = "../../.."\n' + (folder / CASE_FILE).read_text())
    before = tree(checkout)
    with pytest.raises(CaseError, match=r"follows '\.\./\.\./\.\.', no release that is known"):
        golden.bless(new, "it ships", reference="1.2.0")
    assert tree(checkout) == before


def test_a_refused_blessing_does_not_even_tidy_up(folder: Path, checkout: Path, leave_run: LeaveRun) -> None:
    golden.bless(read_run(leave_run("old")), "first")
    native, other = leave_run("native", runner="native"), leave_run("other", prompt="a dog")
    good, moved = leave_run("good"), leave_run("moved", reference="1.2.0")
    (folder / RUN_FOLDER).rename(folder / OLD_RUN)  # as a killed blessing leaves it
    before = tree(checkout)
    for run, options, words in (
        (native, [], "only an official run"),
        (other, [], "is not a run of"),
        (good, ["--reason", " "], "needs a reason"),
        (moved, ["--reference", "1.1.2"], "is not a run of"),
    ):
        done = CliRunner().invoke(app, ["bless", str(run), "--reason", "it ships", *options])
        assert done.exit_code == 2 and words in done.output.replace("\n", " "), done.output
        assert tree(checkout) == before
    golden.bless(read_run(good), "second")
    assert not (folder / OLD_RUN).exists() and golden.blessing_of("micro").reason == "second"


def test_a_killed_move_is_undone_by_the_next_blessing_of_a_run_of_the_release_before(
    folder: Path, leave_run: LeaveRun
) -> None:
    """The case file says the new release already, and only its old copy which release holds."""
    golden.bless(read_run(leave_run("old")), "first")
    text = (folder / CASE_FILE).read_text()
    (folder / OLD_CASE).write_text(text)
    (folder / CASE_FILE).write_text('reference = "1.2.0"\n' + text)
    golden.bless(read_run(leave_run("again")), "second")
    assert (folder / CASE_FILE).read_text() == text and not (folder / OLD_CASE).exists()
    assert golden.golden_of("micro").manifest.reference == "1.0.0"


@pytest.mark.parametrize("name", [RUN_FOLDER, NUMBERS_FOLDER, PREVIOUS_FOLDER, OLD_RUN, f"{PREVIOUS_FOLDER}/1.0.0"])
def test_a_link_in_the_folder_is_refused_and_what_it_leads_to_stays(
    name: str, folder: Path, checkout: Path, leave_run: LeaveRun
) -> None:
    golden.bless(read_run(leave_run("old")), "first")
    precious = checkout / "precious"
    precious.mkdir()
    for part in ("x.json", RUN_FILE, GOLDEN_FILE):
        (precious / part).write_bytes((folder / RUN_FOLDER / RUN_FILE).read_bytes())
    if name == RUN_FOLDER:
        (folder / RUN_FOLDER).rename(checkout / "run")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(precious)
    new, before = read_run(leave_run("new", reference="1.2.0")), tree(checkout)
    for drop in (False, True):
        with pytest.raises(OutputError, match=f"{name} is a symbolic link inside"):
            golden.bless(new, "it ships", reference="1.2.0", drop_previous=drop)
        assert tree(checkout) == before
    with pytest.raises(OutputError, match="is a symbolic link inside"):
        undo_interrupted(folder)


def test_a_link_in_the_folders_place_is_refused(folder: Path, checkout: Path, leave_run: LeaveRun) -> None:
    folder.rename(checkout / "elsewhere")
    folder.symlink_to(checkout / "elsewhere")
    before = tree(checkout / "elsewhere")
    with pytest.raises(OutputError, match="micro is a symbolic link inside"):
        golden.bless(read_run(leave_run("old")), "first")
    assert tree(checkout / "elsewhere") == before


def test_what_does_not_say_that_it_is_ours_survives_every_blessing(folder: Path, leave_run: LeaveRun) -> None:
    golden.bless(read_run(leave_run("old")), "first")
    theirs = {
        **{f"{PREVIOUS_FOLDER}/{name}/notes": "x" for name in (".git", "1.1.2", "1.0.0.mine", ".1.0.0.abcdefgh")},
        **{f"{name}/notes": "x" for name in (".run.notes", ".run.abcdefgh", ".run.partial-abcdefgh", NUMBERS_FOLDER)},
        **dict.fromkeys((".case.toml.swp", ".golden.json.mine", f"{NUMBERS_FOLDER}/notes.txt"), "x"),
        OLD_CASE: "no case",
    }
    for name, text in theirs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / NUMBERS_FOLDER / "ours.json").write_text("{}")
    golden.bless(read_run(leave_run("again")), "second")
    golden.bless(read_run(leave_run("dropped")), "third", drop_previous=True)
    golden.undo_interrupted("micro")
    assert {name: (folder / name).read_text() for name in theirs} == theirs


def test_two_blessings_do_not_undo_each_other(folder: Path, leave_run: LeaveRun) -> None:
    golden.bless(read_run(leave_run("old")), "first")
    before, new = tree(folder), read_run(leave_run("new"))
    with alone_in(folder):
        with pytest.raises(RunError, match="Another call is blessing a run of 'micro'"):
            golden.bless(new, "second")
        with pytest.raises(RunError, match="Another call is blessing a run of 'micro'"):
            golden.undo_interrupted("micro")
        assert tree(folder) == before
    golden.bless(new, "second")
    assert golden.blessing_of("micro").reason == "second"


def test_a_run_folder_that_is_no_run_of_the_case_is_not_replaced(folder: Path, leave_run: LeaveRun) -> None:
    (folder / RUN_FOLDER).mkdir()
    (folder / RUN_FOLDER / "thesis.tex").write_text("x")
    for _ in range(2):
        with pytest.raises(RunError, match=r"run is no run of 'micro' by its run\.json; move it away"):
            golden.bless(read_run(leave_run(f"new{_}")), "first")
        assert tree(folder / RUN_FOLDER) == {"thesis.tex": b"x"}
        leave_run(f"theirs{_}", prompt="another").rename(folder / f"theirs{_}")


def test_kept_goldens_and_numbers_go_one_by_one(folder: Path, leave_run: LeaveRun) -> None:
    golden.bless(read_run(leave_run("old")), "first")
    (folder / NUMBERS_FOLDER).mkdir()
    (folder / NUMBERS_FOLDER / "a.json").write_text("{}")
    keep_previous(folder, "1.0.0")
    keep_previous(folder, "1.0.0")  # in place of the first
    kept = folder / PREVIOUS_FOLDER / "1.0.0"
    assert set(tree(kept)) >= {CASE_FILE, GOLDEN_FILE, f"{RUN_FOLDER}/{RUN_FILE}", f"{NUMBERS_FOLDER}/a.json"}
    remove_previous(folder, "../run")
    remove_previous(folder, "1.1.2")
    assert kept.is_dir() and (folder / RUN_FOLDER / RUN_FILE).is_file()
    remove_previous(folder, "1.0.0")
    remove_numbers(folder)
    assert not (folder / PREVIOUS_FOLDER).exists() and not (folder / NUMBERS_FOLDER).exists()
    kept.mkdir(parents=True)
    (kept / "notes").write_text("x")
    with pytest.raises(OutputError, match="is not one of ours"):
        keep_previous(folder, "1.0.0")
    require_own(folder)
    assert tree(kept) == {"notes": b"x"}


def test_a_run_of_other_weights_does_not_replace_a_golden(checkout: Path, leave_run: LeaveRun) -> None:
    golden.bless(read_run(leave_run("old")), "first")
    run = leave_run("other")
    rewritten(run, weights_hash="cd" * 32)
    before = tree(checkout / "golden")
    done = CliRunner().invoke(app, ["bless", str(run), "--reason", "it ships"])
    assert done.exit_code == 2 and "run both on the same --weights, LoRAs and quantization" in done.output
    assert tree(checkout / "golden") == before


def test_a_golden_is_held_to_the_picture_that_cases_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = Path(__file__).parents[3] / "golden"
    for name in ("tiny_ti2v", "pictures"):
        shutil.copytree(checkout / name, tmp_path / "golden" / name)
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path))
    assert golden.golden_of("tiny_ti2v").case_id == "tiny_ti2v"
    shared = tmp_path / "golden" / "pictures" / "astronaut.png"
    with shared.open("ab") as file:
        file.write(b"x")
    with pytest.raises(RunError, match=r"pictures/astronaut\.png is not the picture that the golden in"):
        golden.golden_of("tiny_ti2v")
    shared.unlink()
    with pytest.raises(RunError, match=r"tiny_ti2v/astronaut\.png is not the picture that the golden in"):
        golden.golden_of("tiny_ti2v")
