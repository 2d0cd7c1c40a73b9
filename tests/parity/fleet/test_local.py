"""The executor of this machine: slots that share nothing, in order, none starved."""

import os
import threading
import time
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from parity.fleet.local import OVERTAKEN, LocalExecutor, gpu_names, this_machine
from parity.fleet.row_process import Job, Needs
from runners.errors import RunnerError


def job(number: int = 0, num_cpus: int = 1, num_gpus: int = 0, **needs: Any) -> Job:
    wanted = Needs(num_cpus=num_cpus, num_gpus=num_gpus, **needs)
    return Job(program="none:none", request={"number": number}, needs=wanted, threads=1, limit_s=1.0)


class Stage:
    """A stage for jobs: each says that it began, and ends when it is let."""

    def __init__(self) -> None:
        self.began: list[Job] = []
        self.changed = threading.Condition()
        self.let: set[int] = set()

    def __call__(self, given: Job) -> int:
        number: int = given.request["number"]
        with self.changed:
            self.began.append(given)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: number in self.let, 20)
        if number == 99:
            raise ValueError("99")
        return number

    def wait_for(self, *numbers: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: [one.request["number"] for one in self.began] == list(numbers), 20)

    def end(self, *numbers: int) -> None:
        with self.changed:
            self.let.update(numbers)
            self.changed.notify_all()


def test_it_is_an_executor_whose_slots_share_neither_core_nor_gpu() -> None:
    stage = Stage()
    with LocalExecutor([3, 4, 5], ["0", "2"], memory_bytes=3000) as executor:
        assert isinstance(executor, Executor)
        futures = [
            executor.submit(stage, job(0, 2, 1)),
            executor.submit(stage, job(1, 1, 1)),
            executor.submit(stage, job(2)),
        ]
        stage.wait_for(0, 1)
        first, second = stage.began
        assert (first.cores, first.gpus, first.memory_bytes) == ((3, 4), "0", 1800)  # 2 of 3 shares, a tenth kept free
        assert (second.cores, second.gpus, second.memory_bytes) == ((5,), "2", 900)
        stage.end(1, 2)
        stage.wait_for(0, 1, 2)
        assert (stage.began[2].cores, stage.began[2].gpus) == ((5,), "")
        stage.end(0)
        assert [future.result(20) for future in futures] == [0, 1, 2]


def test_a_job_may_ask_for_its_memory() -> None:
    stage = Stage()
    stage.end(0)
    with LocalExecutor([0], memory_bytes=1000) as executor:
        executor.submit(stage, job(0, memory_bytes=77)).result(20)
    assert stage.began[0].memory_bytes == 77


def test_what_a_job_raises_is_its_futures() -> None:
    stage = Stage()
    stage.end(99)
    with LocalExecutor([0]) as executor, pytest.raises(ValueError, match="99"):
        executor.submit(stage, job(99)).result(20)


@pytest.mark.parametrize("wanted", [{"num_cpus": 3}, {"num_gpus": 2}, {"accelerator_type": "A100"}])
def test_what_no_slot_can_take_is_refused_at_once(wanted: dict[str, Any]) -> None:
    with (
        LocalExecutor([0, 1], ["0"], "NVIDIA H200") as executor,
        pytest.raises(RunnerError, match="this machine has 2 and 1 of NVIDIA H200"),
    ):
        executor.submit(Stage(), job(**wanted))


def test_a_gpu_is_named_as_ray_names_it() -> None:
    stage = Stage()
    stage.end(0)
    with LocalExecutor([0], ["0"], "NVIDIA H200") as executor:
        assert executor.submit(stage, job(0, 1, 1, accelerator_type="H200")).result(20) == 0


def test_a_large_job_is_overtaken_for_a_while_only() -> None:
    stage = Stage()
    executor = LocalExecutor([0, 1])
    small = [executor.submit(stage, job(0))]
    stage.wait_for(0)
    large = executor.submit(stage, job(1000, 2))
    most = OVERTAKEN * 2
    small += [executor.submit(stage, job(number)) for number in range(1, most + 5)]
    stage.end(*range(1, most + 5), 1000)  # all but the first end at once; so long the large one does not fit
    until_s = time.monotonic() + 20
    while len(stage.began) < 1 + most and time.monotonic() < until_s:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(stage.began) == 1 + most and not large.done()
    stage.end(0)
    assert large.result(20) == 1000
    assert [future.result(20) for future in small] == list(range(most + 5))
    assert [one.request["number"] for one in stage.began].index(1000) == 1 + most
    executor.shutdown()


def test_jobs_not_begun_are_cancelled_at_the_end_and_none_is_taken_then() -> None:
    stage = Stage()
    executor = LocalExecutor([0])
    under_way, waiting = executor.submit(stage, job(0)), executor.submit(stage, job(1))
    stage.wait_for(0)
    executor.shutdown(wait=False, cancel_futures=True)
    stage.end(0)
    assert under_way.result(20) == 0 and waiting.cancelled()
    with pytest.raises(RuntimeError, match="no more jobs"):
        executor.submit(stage, job(2))
    assert isinstance(under_way, Future)


def test_this_machine_is_its_cores_and_gpus() -> None:
    with this_machine() as executor:
        every = job(0, len(os.sched_getaffinity(0)), len(gpu_names()))
        found = executor.submit(lambda given: given, every).result(20)
    assert found.cores == tuple(sorted(os.sched_getaffinity(0))) and found.memory_bytes > 0
    assert len(found.gpus.split(",")) == max(1, len(gpu_names()))
