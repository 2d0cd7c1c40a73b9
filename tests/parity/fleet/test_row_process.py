"""A job in a process of its own: bound to what it got, ended in time, and never done unless it said so."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parity.fleet.row_process import Job, JobEnd, Needs, do_job, end_jobs
from tests.parity.fleet import made_jobs


@pytest.fixture(autouse=True, scope="module")
def ended() -> Iterator[None]:
    yield
    end_jobs()


def job(name: str, request: dict[str, Any] | None = None, **changes: Any) -> Job:
    made = {"program": f"tests.parity.fleet.made_jobs:{name}", "request": request or {}, "needs": Needs(), "threads": 3}
    return Job(**{**made, "limit_s": 20.0, **changes})


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def within(seconds: float, true: Any) -> bool:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        if true():
            return True
        time.sleep(0.01)
    return False


def test_a_job_gets_what_it_is_bound_to_and_leaves_nothing() -> None:
    core = min(os.sched_getaffinity(0))
    end = do_job(job("facts", {"a": [1, None]}, cores=(core,), gpus="5,7", memory_bytes=3 << 30))
    found = end.value
    assert end.state == "done" and found["given"] == {"a": [1, None]} and found["input"] == ""
    assert (found["cores"], found["threads"], found["gpus"]) == ([core], "3", "5,7")
    assert found["data_bytes"] == 3 << 30
    assert found["cwd"] == found["place"] and not Path(found["place"]).exists()


def test_each_job_is_a_process_of_its_own_from_one_that_stays() -> None:
    first, second = do_job(job("facts")).value, do_job(job("facts")).value
    assert first["pid"] != second["pid"] and first["parent"] == second["parent"] != os.getpid()
    assert first["place"] != second["place"] and first["gpus"] == os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("name", "state", "said"),
    [
        ("failing", "failed", f"ValueError: {made_jobs.WORDS}"),
        ("leaving", "failed", "result.json is no file"),
        ("greedy", "out of memory", "MemoryError"),
        ("absent", "failed", "has no attribute 'absent'"),
    ],
)
def test_a_job_that_does_not_come_to_its_end_is_not_done(name: str, state: str, said: str) -> None:
    end = do_job(job(name, memory_bytes=1 << 30))
    assert (end.state, end.value) == (state, None) and said in end.said


def test_a_job_that_is_killed_is_lost(tmp_path: Path) -> None:
    order = job("killed", {"marks": str(tmp_path), "times": 1})
    end = do_job(order)
    assert end.state == "lost" and "signal 9" in end.said
    assert do_job(order).value == {"attempt": 1}


def test_a_job_that_hangs_is_ended_in_time(tmp_path: Path) -> None:
    end = do_job(job("nap", {"seconds": 60, "pids": str(tmp_path)}, limit_s=0.2))
    assert end.state == "hung" and 0.2 <= end.took_s < 10
    [left] = tmp_path.iterdir()
    assert not alive(int(left.name))
    assert do_job(job("facts")).state == "done"


def test_what_cannot_be_imported_is_told_by_its_last_words() -> None:
    end = do_job(Job(program="tests.nowhere:f", request={}, needs=Needs(), threads=1, limit_s=9.0))
    assert end.state == "lost" and "No module named 'tests.nowhere'" in end.said


def test_a_worker_that_is_killed_takes_its_job_along(tmp_path: Path) -> None:
    worker = os.fork()
    if worker == 0:  # its thread has no process of its own to fork jobs from yet
        threading.Thread(target=do_job, args=[job("nap", {"seconds": 60, "pids": str(tmp_path)}, limit_s=90.0)]).start()
        signal.pause()
    try:
        assert within(20, lambda: list(tmp_path.iterdir()))
        [left] = tmp_path.iterdir()
        assert alive(int(left.name))
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
    assert within(5, lambda: not alive(int(left.name)))


def test_an_end_is_plain_data() -> None:
    assert JobEnd(state="hung", said="x") == JobEnd(state="hung", said="x", value=None, took_s=0.0)
