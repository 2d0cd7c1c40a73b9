"""Rows on Ray: retried where their worker or their box is lost, placed by what they need."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parity.fleet.on_ray import RETRIES, RayExecutor, options_of
from parity.fleet.row_process import GIB, Job, JobEnd, Needs, do_job
from runners.errors import RunnerError

pytestmark = [pytest.mark.sweep, pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")]
NODE_CPUS = 2


def job(name: str, request: dict[str, Any] | None = None, **needs: Any) -> Job:
    program = f"tests.parity.fleet.made_jobs:{name}"
    return Job(program=program, request=request or {}, needs=Needs(**needs), threads=1, limit_s=60.0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two boxes of a cluster on this machine: one has GPUs by its word, the other none; the head does nothing."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 << 20})
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def executor(cluster: Any) -> Iterator[RayExecutor]:
    made = RayExecutor(cluster.address)
    yield made
    made.shutdown(cancel_futures=True)


def box(cluster: Any, **resources: Any) -> Any:
    return cluster.add_node(object_store_memory=80 << 20, wait=True, **resources)


def test_rows_are_done_again_where_their_worker_or_their_box_is_lost(
    cluster: Any, executor: RayExecutor, tmp_path: Path
) -> None:
    """One test, since a cluster takes seconds to begin."""
    boxes = [box(cluster, num_cpus=NODE_CPUS, num_gpus=4, resources={"accelerator_type:H200": 1})]
    # GPUs are those of one box, and a row sees its own alone.
    several = executor.submit(do_job, job("nap", {"seconds": 0.3, "pids": str(tmp_path)}, num_gpus=3)).result(60)
    assert several.state == "done" and len(several.value["gpus"].split(",")) == 3
    typed = job("facts", num_gpus=1, accelerator_type="H200")
    assert len(executor.submit(do_job, typed).result(60).value["gpus"].split(",")) == 1
    # A row's own process is killed: it is lost, and says so; its worker lives and does the next one.
    marks = tmp_path / "marks"
    marks.mkdir()
    killed = job("killed", {"marks": str(marks), "times": 1})
    assert executor.submit(do_job, killed).result(60).state == "lost"
    assert executor.submit(do_job, killed).result(60).value == {"attempt": 1}
    # A worker is killed: Ray does the row again.
    pids = tmp_path / "pids"
    pids.mkdir()
    future = executor.submit(do_job, job("wait", {"pids": str(pids), "until": str(tmp_path / "first")}))
    [row] = begun(pids, 1)
    forks = int(Path(f"/proc/{row}/stat").read_text().rpartition(")")[2].split()[1])
    worker = int(Path(f"/proc/{forks}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(worker, signal.SIGKILL)
    begun(pids, 2)
    (tmp_path / "first").touch()
    assert future.result(60).state == "done" and len(begun(pids, 2)) == 2
    # The box is lost: another one does the row.
    future = executor.submit(do_job, job("wait", {"pids": str(pids), "until": str(tmp_path / "second")}))
    begun(pids, 3)
    boxes.append(box(cluster, num_cpus=NODE_CPUS))
    cluster.remove_node(boxes[0], allow_graceful=False)
    begun(pids, 4)
    (tmp_path / "second").touch()
    end: JobEnd = future.result(60)
    assert end.state == "done" and len(begun(pids, 4)) == 4


def begun(folder: Path, count: int) -> list[int]:
    until_s = time.monotonic() + 60
    while len(found := [int(path.name) for path in folder.iterdir()]) < count:
        assert time.monotonic() < until_s
        time.sleep(0.02)
    return found


def test_a_cluster_that_is_not_there_is_told() -> None:
    pytest.importorskip("ray")
    with pytest.raises(RunnerError, match="Ray cannot be reached at nonsense"):
        RayExecutor("nonsense")


def test_needs_are_ray_options() -> None:
    assert RETRIES == 2
    assert options_of(Needs(num_cpus=3)) == {"num_cpus": 3, "num_gpus": 0}
    wanted = Needs(num_cpus=5, num_gpus=4, accelerator_type="H200", memory_bytes=7 * GIB)
    assert options_of(wanted) == {"num_cpus": 5, "num_gpus": 4, "accelerator_type": "H200", "memory": 7 * GIB}
