"""A matrix from its file to its grid, with rows that are answered as they are handed out."""

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import pytest

from parity.fleet.history import History
from parity.fleet.row import Cell, Reference, Row, RowResult
from parity.fleet.row_process import JobEnd
from parity.matrix.matrix import run_matrix
from parity.runs.store import Store
from runners.files import HeldFile

CASES = ("tiny_ti2v", "tiny_ti2v_no_v2a", "tiny_text_only")
TEXT = """
name = "m"
weights = "forge:tiny:0"
cases = ["tiny_ti2v", "tiny_ti2v_no_v2a", "tiny_text_only"]
limit_minutes = 2.0
[[devices]]
name = "cpu"
num_cpus = 2
memory_gib = 0.5
[[runners]]
runner = "native"
"""


class Boxes:
    """Answers each row by the code of its case; an exception in place of one is raised."""

    def __init__(self, store: Store, **codes: Any) -> None:
        self.codes, self.jobs = codes, list[Any]()
        page = Path(store.absolute_url).parent / "page.html"
        page.write_text("<!DOCTYPE html>")
        self.page = store.put(HeldFile(page))

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[JobEnd]":
        [job] = args
        self.jobs.append(job)
        row = msgspec.convert(job.request["row"], Row)
        code = self.codes.get(row.case_id, 0)
        if isinstance(code, BaseException):
            raise code
        reference = Reference(files={}, reused=False, times_s=(2.0,), release="1.0.0")
        cell = Cell(engine="native", code=code, report=self.page, speed_ratio=1.25)
        result = RowResult(
            key=row.key, case=row.case_id, device="cpu", state="done", took_s=9.0, reference=reference, cells=(cell,)
        )
        future: Future[JobEnd] = Future()
        future.set_result(JobEnd(state="done", value=msgspec.to_builtins(result)))
        return future


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "m.toml").write_text(TEXT)
    return tmp_path / "m.toml"


def names(boxes: Boxes) -> list[str]:
    return [job.request["row"]["case"]["id"] for job in boxes.jobs]


def test_the_longest_row_by_the_last_call_goes_first_within_its_limit(file: Path, store: Store, tmp_path: Path) -> None:
    took_s = {"tiny_ti2v@cpu": 70.0, "tiny_text_only@cpu": 400.0}
    store.put_record("history/m/20200101T000000-a", json.dumps(msgspec.to_builtins(History(took_s=took_s))))
    boxes = Boxes(store)
    grid = run_matrix(file, tmp_path / "out", lambda: boxes, store)
    assert grid.code == 0 and [row.case for row in grid.rows] == list(CASES), "the grid is in the order of the file"
    # Nothing was recorded of the second, and baselines say 30 + 3 * (2.3 + 2.5) at most: the slowest machine's medians.
    assert names(boxes) == ["tiny_text_only", "tiny_ti2v", "tiny_ti2v_no_v2a"]
    assert [job.limit_s for job in boxes.jobs] == [2400.0, 420.0, 300.0]
    [needs] = {job.needs for job in boxes.jobs}
    assert (needs.num_cpus, needs.num_gpus, needs.memory_bytes) == (2, 0, 1 << 29)
    [newest] = [name for name in store.record_names("history/m") if "20200101" not in name]
    kept = json.loads(store.record(newest) or "")
    assert kept["took_s"] == dict.fromkeys((f"{case}@cpu" for case in CASES), 9.0)


def test_what_is_done_is_not_handed_out_again_and_everything_is_written_anew(
    file: Path, store: Store, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_matrix(file, out, lambda: Boxes(store, tiny_ti2v_no_v2a=KeyboardInterrupt()), store)
    assert not (out / "matrix.json").exists()
    boxes = Boxes(store, tiny_ti2v_no_v2a=1)
    grid = run_matrix(file, out, lambda: boxes, store)
    assert grid.code == 1 and "tiny_ti2v_no_v2a" in names(boxes) and len(names(boxes)) < 3
    document = json.loads((out / "matrix.json").read_text())
    assert [row["exit_code"] for row in document["rows"]] == [0, 1, 0]
    assert (out / "matrix.html").read_text().count('<a href="reports/') == 3
    assert len(list((out / "reports").iterdir())) == 3 and (out / "matrix.xml").is_file()
    (out / "matrix.md").unlink()
    again = run_matrix(file, out, lambda: pytest.fail("there is nothing to run"), store)
    assert again == grid and (out / "matrix.md").is_file()
    assert len(store.record_names("history/m")) == 1, "one call, however often it was gone on with"


def test_a_cell_differs_since_the_first_call_that_saw_it(file: Path, store: Store, tmp_path: Path) -> None:
    earlier = '{"cells": {"tiny_ti2v@cpu/native": {"code": 2, "since": "2020-01-01T00:00:00+00:00"}}}'
    store.put_record("history/m/20200102T000000-a", earlier)
    grid = run_matrix(file, tmp_path / "out", lambda: Boxes(store, tiny_ti2v=1, tiny_text_only=1), store)
    since = {row.case: row.since[0] for row in grid.rows}
    assert since["tiny_ti2v"].startswith("2020-01-01") and since["tiny_ti2v_no_v2a"] == ""
    assert since["tiny_text_only"] == grid.created_utc


def test_a_page_that_the_store_has_lost_is_told_and_hides_no_verdict(file: Path, store: Store, tmp_path: Path) -> None:
    boxes = Boxes(store)
    lying = Path(store.absolute_url) / boxes.page.sha256[:2] / boxes.page.sha256
    lying.unlink()
    said: list[str] = []
    grid = run_matrix(file, tmp_path / "out", lambda: boxes, store, say=said.append)
    assert grid.code == 0 and len(said) == 3 and "has no file" in said[0]
    assert "<a href" not in (tmp_path / "out" / "matrix.html").read_text()
