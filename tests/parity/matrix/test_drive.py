"""The driver: every row once, whatever is lost, whoever is killed, and no verdict of what did not end."""

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from parity.fleet.grid import grid_of
from parity.fleet.history import History, after
from parity.fleet.ledger import held_ledger
from parity.fleet.local import LocalExecutor
from parity.fleet.row import Row
from parity.fleet.row_process import JobEnd, end_jobs
from parity.matrix.drive import ATTEMPTS, MatrixDrive
from runners.errors import RunnerError

MakeRows = Callable[..., list[Row]]
MakeDrive = Callable[..., MatrixDrive]
CORES = sorted(os.sched_getaffinity(0))[:2]


@pytest.fixture
def here() -> Iterator[LocalExecutor]:
    executor = LocalExecutor(CORES)
    yield executor
    executor.shutdown(cancel_futures=True)


class Answers:
    """An executor whose futures end at once, as it is told."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.jobs: list[Any] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
        self.jobs.append(args[0])
        answer = self.answers.pop(0)
        if isinstance(answer, RunnerError):
            raise answer
        future: Future[Any] = Future()
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
        return future


def done(row: Row, code: int = 0) -> JobEnd:
    cells = [{"engine": "instant", "code": code}]
    value = {"key": row.key, "case": row.case_id, "device": "cpu", "state": "done", "cells": cells}
    return JobEnd(state="done", value=value, took_s=1.5)


def test_rows_are_done_each_once_and_not_again_by_the_next_call(
    rows: MakeRows, drive: MakeDrive, here: LocalExecutor, tmp_path: Path, heard: Any
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    made = rows(7, {"marks": str(marks)})
    for _ in range(2):
        with held_ledger(tmp_path / "out", "m", replace=False) as ledger:
            drive(made, ledger, here, heard).run()
            assert [result.code for result in ledger.results()] == [0] * 7
    assert sorted(path.name for path in marks.iterdir()) == sorted(f"{row.key}.0" for row in made)
    assert len(heard.results) == 14 and len(heard.out) == 7
    with held_ledger(tmp_path / "out", "m", replace=True) as ledger:
        assert not list(ledger.results())


def test_a_row_whose_process_is_killed_is_tried_again_and_then_could_not_be_judged(
    rows: MakeRows, drive: MakeDrive, here: LocalExecutor, tmp_path: Path, heard: Any
) -> None:
    made = rows(3, {"killed": "case1"})
    with held_ledger(tmp_path / "out", "m", replace=False) as ledger:
        drive(made, ledger, here, heard).run()
        found = {result.case: result for result in ledger.results()}
    assert Counter(case for case, _ in heard.out) == {"case0": 1, "case1": ATTEMPTS, "case2": 1}
    assert [found[f"case{number}"].code for number in range(3)] == [0, 2, 0]
    assert found["case1"].state == "lost" and "signal 9" in found["case1"].reason


def test_a_row_that_hangs_is_ended_and_not_tried_again(
    rows: MakeRows, drive: MakeDrive, here: LocalExecutor, tmp_path: Path, heard: Any
) -> None:
    made = rows(1, {"seconds": "60"})
    with held_ledger(tmp_path / "out", "m", replace=False) as ledger:
        matrix = drive(made, ledger, here, heard)
        matrix.limits_s = {made[0].key: 0.3}
        matrix.run()
        [found] = ledger.results()
    assert (found.state, found.code, len(heard.out)) == ("hung", 2, 1) and found.took_s >= 0.3


def test_what_an_executor_raises_is_a_lost_row(rows: MakeRows, drive: MakeDrive, tmp_path: Path, heard: Any) -> None:
    [row] = rows(1)
    with held_ledger(tmp_path / "out", "m", replace=False) as ledger:
        drive([row], ledger, Answers(OSError("box gone"), JobEnd(state="lost"), done(row, 1)), heard).run()
        assert [result.code for result in ledger.results()] == [1]
    assert [attempt for _, attempt in heard.out] == [1, 2, 3]
    with held_ledger(tmp_path / "other", "m", replace=False) as ledger:
        drive([row], ledger, Answers(*[OSError("box gone")] * ATTEMPTS)).run()
        [found] = ledger.results()
    assert (found.state, found.code, found.reason) == ("lost", 2, "OSError: box gone")


def test_a_row_that_fits_nowhere_could_not_be_judged(rows: MakeRows, drive: MakeDrive, tmp_path: Path) -> None:
    first, second = rows(2)
    with held_ledger(tmp_path / "out", "m", replace=False) as ledger:
        drive([first, second], ledger, Answers(RunnerError("wants 8 GPUs"), done(second))).run()
        assert [(result.state, result.code) for result in ledger.results()] == [("nowhere", 2), ("done", 0)]


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(key="another"),
        lambda value: value.update(cells=[]),
        lambda value: value["cells"][0].update(engine="other"),
        lambda value: value["cells"][0].update(code=3),
        lambda value: value.update(more=1),
        lambda value: value.pop("case"),
    ],
)
def test_a_result_that_is_not_of_its_row_is_none(
    change: Callable[[Any], Any], rows: MakeRows, drive: MakeDrive, tmp_path: Path
) -> None:
    [row] = rows(1)
    end = done(row)
    change(end.value)
    with held_ledger(tmp_path / "out", "m", replace=False) as ledger:
        drive([row], ledger, Answers(end)).run()
        [found] = ledger.results()
    assert (found.state, found.code) == ("failed", 2)


def test_few_rows_are_out_at_a_time_in_the_order_given(rows: MakeRows, drive: MakeDrive, tmp_path: Path) -> None:
    made = rows(9)
    most = 0

    class Counts(Answers):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
            nonlocal most
            future = super().submit(fn, *args, **kwargs)
            most = max(most, matrix.handed_out)
            return future

    counts = Counts(*map(done, made))
    with held_ledger(tmp_path / "out", "m", replace=False) as ledger:
        matrix = drive(made, ledger, counts, in_flight=4)
        matrix.run()
    assert most == 3, "those before the one that is handed out"
    assert [job.request["row"]["case"]["id"] for job in counts.jobs] == [f"case{number}" for number in range(9)]


def test_an_executor_whose_futures_only_have_done_and_result_will_do(
    rows: MakeRows, drive: MakeDrive, tmp_path: Path
) -> None:
    [row] = rows(1)

    class Job:
        asked = 0

        def done(self) -> bool:
            self.asked += 1
            return self.asked > 1

        def result(self) -> JobEnd:
            return done(row)

        def cancel(self) -> bool:
            return False

    class Slurm:
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Job:
            return Job()

    with held_ledger(tmp_path / "out", "m", replace=False) as ledger:
        drive([row], ledger, Slurm()).run()
        assert [result.code for result in ledger.results()] == [0]


def test_a_result_that_came_while_no_driver_was_there_is_found_in_the_store(
    rows: MakeRows, drive: MakeDrive, tmp_path: Path, heard: Any
) -> None:
    made = rows(2)
    with held_ledger(tmp_path / "out", "m", replace=False) as ledger:
        matrix = drive(made, ledger, Answers(), heard)
        text = json.dumps(done(made[0], 1).value)
        matrix.store.put_record(f"rows/{ledger.head.run}/{made[0].key}", text)
        matrix.store.put_record(f"rows/{ledger.head.run}/{made[1].key}", "{half")
    with held_ledger(tmp_path / "out", "m", replace=False) as ledger:
        drive(made, ledger, Answers(done(made[1])), heard).run()
        assert [result.code for result in ledger.results()] == [1, 0]
    assert heard.out == [("case1", 1)]


def driven(folder: Path, matrix: Callable[[Any, Any], MatrixDrive]) -> None:
    """Drive a matrix in this process, which is a fork, until it is killed or has ended."""
    code = 3
    try:
        with held_ledger(folder, "m", replace=False) as ledger:
            matrix(ledger, LocalExecutor(CORES)).run()
        code = 0
    finally:
        os._exit(code)


@pytest.mark.sweep
def test_a_driver_killed_at_twenty_moments_loses_nothing_and_counts_nothing_twice(
    rows: MakeRows, drive: MakeDrive, tmp_path: Path
) -> None:
    marks, out = tmp_path / "marks", tmp_path / "out"
    marks.mkdir()
    made = rows(200, {"marks": str(marks), "seconds": "0.02"})
    draw = random.Random(22)
    history, codes = History(), set()
    kills = 0
    while kills < 20:
        driver = os.fork()
        if driver == 0:
            driven(out, lambda ledger, executor: drive(made, ledger, executor))
        time.sleep(draw.uniform(0.05, 0.4))
        os.kill(driver, signal.SIGKILL)
        _, status = os.waitpid(driver, 0)
        assert os.WIFSIGNALED(status), "it had ended before the 20 kills: take more rows"
        kills += 1
        if not (out / "ledger.jsonl").is_file():
            continue
        with held_ledger(out, "m", replace=False) as ledger:
            results = list(ledger.results())
            grid = grid_of("m", made, results, after(history, ledger.head, results))
            codes.add(grid.code)
            assert len({result.key for result in results}) == len(results)
            assert grid.count(0) == len(results) and grid.count(2) == len(made) - len(results)
    assert codes == {2}, "what had not ended was counted as a pass"
    driver = os.fork()
    if driver == 0:
        driven(out, lambda ledger, executor: drive(made, ledger, executor))
    assert os.waitpid(driver, 0)[1] == 0
    with held_ledger(out, "m", replace=False) as ledger:
        results = list(ledger.results())
        whole = [line for line in (out / "ledger.jsonl").read_text().splitlines() if line.endswith("}")]
    assert sorted(result.key for result in results) == sorted(row.key for row in made)
    assert grid_of("m", made, results, history).code == 0
    assert len(whole) == len(made) + 1, "a row that had its line was run or written down again"
    begun = Counter(path.name.split(".")[0] for path in marks.iterdir())
    assert set(begun) == {row.key for row in made}
    assert sum(begun.values()) - len(made) <= len(CORES) * 21, "more than what was under way at a kill was run again"


def test_threads_of_the_standard_library_will_do(rows: MakeRows, drive: MakeDrive, tmp_path: Path) -> None:
    made = rows(3)
    with ThreadPoolExecutor(1) as pool, held_ledger(tmp_path / "out", "m", replace=False) as ledger:
        drive(made, ledger, pool).run()
        pool.submit(end_jobs).result()
        assert [result.code for result in ledger.results()] == [0, 0, 0]
