"""The executor of a Ray cluster, or of a Ray that is begun here: the one file that imports Ray (extra `fleet`)."""

import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Final, TypeVar

from parity.fleet.row_process import Job, Needs
from runners.errors import RunnerError

T = TypeVar("T")
RETRIES: Final = 2  # of a task whose worker or box is lost
LOCAL_STORE_BYTES: Final = (
    128 << 20
)  # of Ray's own object store, where it is begun here: only small data goes through it


class RayExecutor(Executor):
    """Ray tasks as futures. A task is of one node, so all GPUs of a row are of one box.

    A task is tried again when its worker or node is lost; what a job itself does is its result, never an error of the
    task, so that Ray tries nothing again that has come to its end.
    """

    def __init__(self, address: str | None = None, num_cpus: int | None = None) -> None:
        """Connect to a cluster, or begin Ray here.

        Args:
            address: of a cluster; None takes that of `RAY_ADDRESS`, else begins Ray on this machine alone.
            num_cpus: of a Ray that is begun here; None takes its cores.
        Raises: RunnerError if Ray is not installed, or the cluster cannot be reached.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # begun here, it would tell its makers
        try:
            import ray
        except ImportError as error:
            raise RunnerError(f"--executor ray needs Ray ({error}); install `ltx-parity[fleet]`.") from error
        self._ray = ray
        self._tasks: dict[Callable[..., Any], Any] = {}
        self._refs: dict[Future[Any], Any] = {}  # of futures that have not ended
        begun_here = address is None and not os.environ.get("RAY_ADDRESS")
        own = {"num_cpus": num_cpus, "include_dashboard": False, "object_store_memory": LOCAL_STORE_BYTES}
        quiet = {"logging_level": "ERROR", "log_to_driver": False}
        try:
            ray.init(address=address, **quiet, **(own if begun_here else {}))
        except Exception as error:  # each of its parts has errors of its own
            raise RunnerError(f"Ray cannot be reached at {address or 'this machine'} ({error}).") from error

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Hand in a function of one `Job`, which says what it needs."""
        (job,) = args
        assert isinstance(job, Job)
        if fn not in self._tasks:  # made once: Ray keeps every task that it is told of
            self._tasks[fn] = self._ray.remote(max_retries=RETRIES)(fn)
        ref = self._tasks[fn].options(**options_of(job.needs)).remote(job)
        future: Future[T] = ref.future()
        self._refs[future] = ref
        future.add_done_callback(lambda done: self._refs.pop(done, None))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster; tasks under way are ended if that is asked for."""
        if cancel_futures:
            for ref in list(self._refs.values()):
                self._ray.cancel(ref, force=True)
        self._ray.shutdown()


def options_of(needs: Needs) -> dict[str, Any]:
    """The needs of a job, as the options of a Ray task."""
    options: dict[str, Any] = {"num_cpus": needs.num_cpus, "num_gpus": needs.num_gpus}
    if needs.accelerator_type:
        options["accelerator_type"] = needs.accelerator_type
    if needs.memory_bytes:
        options["memory"] = needs.memory_bytes
    return options
