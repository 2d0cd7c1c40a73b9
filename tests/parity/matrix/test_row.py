"""A row on its box: the micro model, official code and engines, through a store, in this process."""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from parity.calibrate.harmless import positions_in_bf16
from parity.fleet.row import Row, RowResult, result_of
from parity.matrix.brought import bring_weights
from parity.matrix.engine_run import make_run
from parity.matrix.plan import plan_matrix
from parity.matrix.row import RowOrder, record_name, run_row
from parity.runs.folder import read_run
from parity.runs.in_memory import run_in_memory
from parity.runs.store import Store, StoreEntry
from parity.suite.suite import compare_line
from runners.errors import CheckpointError, RunError
from runners.weights import WeightsFolder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
MATRIX = """
name = "micro"
weights = "{weights}"
cases = ["*.toml"]
[[devices]]
name = "cpu"
"""
GREY = "grey.py:Grey"  # takes no time


class Place:
    """A folder with a matrix file in it, a store, and a box."""

    def __init__(self, folder: Path, weights: Path, case_text: str) -> None:
        self.folder, self.store = folder, Store(str(folder / "store"))
        self.text = MATRIX.format(weights=weights)
        (folder / "cases").mkdir()
        (folder / "cases" / "case.toml").write_text(case_text)
        self.boxes = 0

    def row(self, more: str = "", *, head: str = "", runner: str = "native") -> Row:
        path = self.folder / "cases" / "matrix"
        path.write_text(head + self.text + f'[[runners]]\nrunner = "{runner}"\nname = "first"\n' + more)
        [row] = plan_matrix(path, self.store).rows
        return row

    def run(self, row: Row) -> RowResult:
        self.boxes += 1
        box = self.folder / f"box{self.boxes}"
        box.mkdir()
        request = msgspec.to_builtins(RowOrder(row=row, key=row.key, store=self.store.url, run="f00d"))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(box)
            return result_of(run_row(request, box), row)

    def brought(self, files: dict[str, StoreEntry], name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        for file, entry in files.items():
            self.store.get(entry, folder / file)
        return folder


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, micro_weights: WeightsFolder, micro_case_text: str
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("matrix")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield Place(folder, micro_weights.folder, micro_case_text)


@pytest.fixture(scope="module")
def first(place: Place) -> RowResult:
    return place.run(place.row())


@pytest.fixture
def grey(place: Place) -> Path:
    """The engine that docs/runners.md shows, and one beside it that raises."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/runners.md").read_text(), re.DOTALL)
    (code,) = (block for block in blocks if "class Grey" in block)
    raises = '\n\nclass Broken(Grey):\n    def run(self, case, progress):\n        raise ValueError("no such kernel")\n'
    path = place.folder / "cases" / "grey.py"
    path.write_text(code + raises)
    return path


def test_native_is_held_to_an_official_run_of_this_box(place: Place, first: RowResult) -> None:
    [cell] = first.cells
    assert first.code == cell.code == 0 and cell.profile == "exact"
    assert cell.taps_equal == cell.taps_compared > 50 and not cell.first_tap
    assert first.reference is not None and not first.reference.reused and first.reference.release == "1.0.0"
    assert cell.speed_ratio == pytest.approx(first.reference.times_s[0] / cell.times_s[0])
    official = read_run(place.brought(first.reference.files, "official"))
    native = read_run(place.brought(cell.files, "native"))
    assert (official.manifest.runner, native.manifest.runner) == ("official", "native")
    assert compare_line("as the row says", official, native).code == 0
    assert cell.report is not None and cell.numbers is not None
    place.store.get(cell.report, place.folder / "page.html")
    assert (place.folder / "page.html").read_text().startswith("<!DOCTYPE html>")


def test_a_ladder_holds_every_engine_to_native_in_fp32(place: Place, micro_weights: WeightsFolder) -> None:
    result = place.run(place.row('[[runners]]\nrunner = "native:fast"\n', head="oracle = true\n"))
    exact, fast = (cell.rung for cell in result.cells)
    assert exact is not None and fast is not None and result.reference is not None
    assert exact.by_bits and exact.frames_equal and exact.sound_equal and exact.held == exact.judged
    assert (exact.video_from_fp32, exact.audio_from_fp32) == (1.0, 1.0), "its latents are the official ones"
    assert (fast.by_bits, fast.judged, fast.frames_equal) == (False, 0, False), "the micro case has no limits"
    assert fast.frames_psnr_db is not None and fast.frames_psnr_db > 20
    case = read_run(place.brought(result.cells[0].files, "exact_of_ladder")).case
    with positions_in_bf16():
        truth = run_in_memory("native", micro_weights, case, torch.float32)
    official = read_run(place.brought(result.reference.files, "official_of_ladder")).outputs()
    its = read_run(place.brought(result.cells[1].files, "fast_of_ladder")).outputs()
    for name, multiple in (("video_latent", fast.video_from_fp32), ("audio_latent", fast.audio_from_fp32)):
        to_truth = [(getattr(one, name).double() - getattr(truth, name).double()).norm() for one in (its, official)]
        assert multiple is not None and 0 < multiple < 3
        assert multiple == pytest.approx(float(to_truth[0] / to_truth[1]))


def test_its_result_lies_in_the_store_for_a_driver_that_was_not_there(place: Place, first: RowResult) -> None:
    text = place.store.record(record_name("f00d", first.key))
    assert text is not None and msgspec.json.decode(text, type=RowResult, strict=True) == first


def test_an_official_run_of_this_environment_is_not_made_twice(
    place: Place, first: RowResult, grey: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def noting(row: Row, engine: Any, *rest: Any, **named: Any) -> Any:
        made.append(engine.label)
        return make_run(row, engine, *rest, **named)

    monkeypatch.setattr("parity.matrix.row.make_run", noting)
    again = place.run(place.row(runner=GREY))
    assert first.reference is not None and again.reference is not None
    assert again.reference.reused and again.reference.files == first.reference.files
    assert made == ["first"] and again.state == "done"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # another environment
    try:
        other = place.run(place.row(runner=GREY))
    finally:
        torch.set_float32_matmul_precision(before)
    assert other.reference is not None and not other.reference.reused
    assert made == ["first", "official", "first"]


@pytest.mark.parametrize(
    "damage",
    ["record", pytest.param("file", marks=pytest.mark.sweep), pytest.param("another run", marks=pytest.mark.sweep)],
)
def test_an_official_run_that_is_damaged_in_the_store_is_made_again(
    damage: str, place: Place, first: RowResult, grey: Path
) -> None:
    root = Path(place.store.absolute_url)
    for path in (root / "records" / "official").iterdir():
        if damage == "record":
            path.write_text('{"files": {}')
        elif damage == "another run":  # native's, under the official key
            files = msgspec.to_builtins(first.cells[0].files)
            path.write_bytes(msgspec.json.encode({"files": files, "times_s": [1.0]}))
        elif '"run.json"' in path.read_text():  # not damaged before
            sha256 = msgspec.json.decode(path.read_bytes())["files"]["outputs.safetensors"]["sha256"]
            lying = root / sha256[:2] / sha256
            lying.write_bytes(lying.read_bytes()[:-1] + b"x")
    again = place.run(place.row(runner=GREY))
    assert again.reference is not None and not again.reference.reused
    if damage == "record":
        assert place.run(place.row(runner=GREY)).reference == msgspec.structs.replace(again.reference, reused=True)


def test_engines_do_not_hinder_each_other(place: Place, first: RowResult, grey: Path) -> None:
    more = (
        '[[runners]]\nrunner = "grey.py:Broken"\nname = "broken"\n[[runners]]\nrunner = "grey.py:Grey"\nname = "grey"\n'
    )
    row = place.row(more, head="repeats = 2\n", runner=GREY)
    found = place.run(row)
    before, broken, other = found.cells
    assert [cell.engine for cell in found.cells] == ["first", "broken", "grey"]
    assert (before.code, broken.code, other.code, found.code) == (1, 2, 1, 2)
    assert "ValueError: no such kernel" in broken.why and broken.report is None and not broken.files
    assert len(before.times_s) == 2 and before.same_bits_again is True
    assert other.first_tap.startswith("init/") and other.why
    grey.write_text(grey.read_text() + "\n# another engine\n")
    with pytest.raises(RunError, match="another file than on the driver"):
        raise RunError(place.run(row).cells[1].why)
    assert place.row(more, head="repeats = 2\n", runner=GREY).key != row.key, (
        "an engine that was changed is another row"
    )


@pytest.mark.sweep
def test_times_are_of_runs_without_taps_and_want_a_baseline(place: Place, first: RowResult, grey: Path) -> None:
    found = place.run(place.row(head="perf = true\nrepeats = 2\n", runner=GREY))
    [cell] = found.cells
    assert found.reference is not None and len(found.reference.untapped_s) == 2 == len(cell.times_s)
    assert cell.code == 1 and cell.perf.startswith("No baseline of micro / grey"), "known to fail, whatever its speed"
    middle = sum(found.reference.untapped_s) / 2 / (sum(cell.times_s) / 2)
    assert cell.speed_ratio == pytest.approx(middle)
    again = place.run(place.row(head="perf = true\nrepeats = 2\n", runner=GREY))
    assert again.reference == msgspec.structs.replace(found.reference, reused=True), "its times are there, too"


def test_a_full_store_is_no_verdict(
    place: Place, first: RowResult, grey: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = place.row(head="reports = 'failing'\n", runner=GREY)  # a row that no other test has run

    def full(source: Any, target: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    copy, puts = shutil.copyfile, Store.put_record
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(RunError, match="No space left on device"):
        place.run(quick)
    monkeypatch.setattr(shutil, "copyfile", copy)

    def full_for_records(self: Store, name: str, text: str) -> None:
        if name.startswith("rows/"):
            raise RunError("No space left on device")
        puts(self, name, text)

    monkeypatch.setattr(Store, "put_record", full_for_records)
    with pytest.raises(RunError, match="No space left on device"):
        place.run(quick)
    assert place.store.record(record_name("f00d", quick.key)) is None
    monkeypatch.setattr(Store, "put_record", puts)
    assert place.run(quick).state == "done"


@pytest.mark.sweep
def test_parts_are_judged_alone_and_pages_drawn_where_that_is_wanted(
    place: Place, first: RowResult, grey: Path
) -> None:
    more = f'[[runners]]\nrunner = "{GREY}"\nname = "grey"\n'
    native, other = place.run(place.row(more, head="reports = 'failing'\nisolate = true\n")).cells
    assert (native.code, native.report, other.code) == (0, None, 1) and other.report is not None
    measured = []
    for cell in (*first.cells, native, other):  # what other engines add by themselves, native cannot tell
        assert cell.numbers is not None
        place.store.get(cell.numbers, place.folder / "numbers.json")
        numbers = json.loads((place.folder / "numbers.json").read_text())
        measured.append(numbers["levels"]["isolated"]["measured"])
        (place.folder / "numbers.json").unlink()
    assert measured == [False, True, False]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"code": "0" * 64}, RunError, "another version of parity"),
        (
            {"weights_files": {}, "weights": "{weights}", "weights_hash": "0" * 64},
            CheckpointError,
            "wanted 000000000000",
        ),
    ],
)
def test_a_box_that_is_another_than_the_driver_thinks_is_refused(
    change: dict[str, Any], error: type[Exception], said: str, place: Place, micro_weights: WeightsFolder
) -> None:
    given = {name: str(micro_weights.folder) if value == "{weights}" else value for name, value in change.items()}
    with pytest.raises(error, match=said):
        place.run(msgspec.structs.replace(place.row(), **given))


def test_weights_are_brought_to_a_box_once_and_hashed_again_where_they_were_written_to(
    place: Place, first: RowResult, micro_weights: WeightsFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, known = place.row(), micro_weights.hash
    cpu = torch.device("cpu")
    gets: list[StoreEntry] = []
    monkeypatch.setattr(Store, "get", lambda self, entry, target: gets.append(entry))
    found = bring_weights(row, place.store, cpu)
    assert isinstance(found, WeightsFolder) and found.hash == known and not gets
    path = found.gemma_folder / "config.json"
    taken: list[WeightsFolder] = []

    def hashed(weights: WeightsFolder) -> str:
        taken.append(weights)
        return "ab" * 32

    monkeypatch.setattr(WeightsFolder, "hash", property(hashed))
    assert bring_weights(row, place.store, cpu).hash == known and not taken
    os.utime(path)
    assert bring_weights(row, place.store, cpu).hash == "ab" * 32 and len(taken) == 1
    os.utime(path, ns=(1, 1))
    monkeypatch.undo()
    assert bring_weights(row, place.store, cpu).hash == known


def test_weights_that_lie_on_every_box_are_held_to_their_hash(
    place: Place, grey: Path, micro_weights: WeightsFolder
) -> None:
    row = place.row(head=f'weights_hash = "{micro_weights.hash}"\n', runner=GREY)
    assert not row.weights_files and row.weights == str(micro_weights.folder)
    assert place.run(row).state == "done"
