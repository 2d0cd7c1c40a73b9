"""The executor of this machine: a slot a job, bound to cores and GPUs of its own, with its share of the memory."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from parity.fleet.row_process import Job, Needs, end_jobs
from runners.errors import RunnerError

T = TypeVar("T")
OVERTAKEN: Final = 8  # jobs that may go before one that does not fit yet, for each slot
NVIDIA_DRIVER: Final = Path("/proc/driver/nvidia/version")
ASK_S: Final = 120.0
KEPT_FREE: Final = 0.1  # of the memory, for the driver and the system


class LocalExecutor(Executor):
    """Threads that do jobs as cores and GPUs are free, in the order that they were handed in.

    A job that does not fit yet is overtaken by later ones that do, for a while. A job that fits no slot even when all
    are free is refused when it is handed in.
    """

    def __init__(
        self, cores: Sequence[int], gpus: Sequence[str] = (), accelerator: str = "", memory_bytes: int = 0
    ) -> None:
        """Take what jobs may use.

        Args:
            cores: numbers of the CPU cores.
            gpus: names for CUDA_VISIBLE_DEVICES.
            accelerator: name of the GPUs, as their driver has it.
            memory_bytes: of the machine, shared out by cores; 0 sets no limits.
        """
        self._cores, self._gpus = list(cores), list(gpus)
        self._accelerator, self._memory_bytes = accelerator, int(memory_bytes * (1 - KEPT_FREE))
        self._all = len(self._cores), len(self._gpus)
        self._waiting: list[tuple[Callable[..., Any], Job, Future[Any]]] = []
        self._changed = threading.Condition()
        self._overtaken = 0
        self._ending = False
        self._slots = [threading.Thread(target=self._work, daemon=True) for _ in self._cores]
        for slot in self._slots:
            slot.start()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Hand in a function of one `Job`.

        Raises: RunnerError for one that no slot can take; RuntimeError at the end.
        """
        (job,) = args
        self._require_possible(job.needs)
        future: Future[T] = Future()
        with self._changed:
            if self._ending:
                raise RuntimeError("this executor takes no more jobs")
            self._waiting.append((fn, job, future))
            self._changed.notify_all()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs, and end those not begun if that is asked for."""
        with self._changed:
            self._ending = True
            if cancel_futures:
                for _, _, future in self._waiting:
                    future.cancel()
                self._waiting.clear()
            self._changed.notify_all()
        if wait:
            for slot in self._slots:
                slot.join()

    def _require_possible(self, needs: Needs) -> None:
        cores, gpus = self._all
        wanted = needs.accelerator_type
        if needs.num_cpus > cores or needs.num_gpus > gpus or wanted.upper() not in self._accelerator.upper():
            of = f" of {wanted}" if wanted else ""
            raise RunnerError(
                f"A row wants {needs.num_cpus} cores and {needs.num_gpus} GPUs{of}; this machine has {cores} and {gpus}"
                f"{f' of {self._accelerator}' if self._accelerator else ''}. Take another device, or --executor ray."
            )

    def _work(self) -> None:
        while True:
            taken = self._next()
            if taken is None:
                end_jobs()
                return
            function, job, future, cores, gpus = taken
            try:
                future.set_result(function(job))
            except BaseException as error:
                future.set_exception(error)
            finally:
                with self._changed:
                    self._cores += cores
                    self._gpus += gpus
                    self._changed.notify_all()

    def _next(self) -> tuple[Callable[..., Any], Job, "Future[Any]", list[int], list[str]] | None:
        """The next job that fits, bound to what it takes; None at the end."""
        with self._changed:
            while True:
                index = self._fitting()
                if index is not None:
                    self._overtaken = self._overtaken + 1 if index else 0
                    function, job, future = self._waiting.pop(index)
                    if future.set_running_or_notify_cancel():
                        needs = job.needs
                        cores = [self._cores.pop(0) for _ in range(needs.num_cpus)]
                        gpus = [self._gpus.pop(0) for _ in range(needs.num_gpus)]
                        return function, self._bound(job, cores, gpus), future, cores, gpus
                elif self._ending and not self._waiting:
                    return None
                else:
                    self._changed.wait()

    def _fitting(self) -> int | None:
        """The first waiting job that fits what is free; the first of all alone, once it has been overtaken enough."""
        reach = 1 if self._overtaken >= OVERTAKEN * len(self._slots) else len(self._waiting)
        for index, (_, job, _) in enumerate(self._waiting[:reach]):
            if job.needs.num_cpus <= len(self._cores) and job.needs.num_gpus <= len(self._gpus):
                return index
        return None

    def _bound(self, job: Job, cores: list[int], gpus: list[str]) -> Job:
        share = self._memory_bytes * len(cores) // self._all[0]
        memory_bytes = job.needs.memory_bytes or share
        return msgspec.structs.replace(job, cores=tuple(cores), gpus=",".join(gpus), memory_bytes=memory_bytes)


def this_machine() -> LocalExecutor:
    """The executor of all cores and GPUs that this process may use. Raises: RunnerError if the GPUs cannot be asked."""
    names = gpu_names()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(index) for index in range(len(names))]
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return LocalExecutor(sorted(os.sched_getaffinity(0)), gpus[: len(names)], " ".join(set(names)), memory_bytes)


def gpu_names() -> list[str]:
    """The GPUs that this process may use, as their driver names them; asked by another one, which holds none after."""
    if not NVIDIA_DRIVER.exists():
        return []
    code = "import torch; print('\\n'.join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))))"
    try:
        asked = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=ASK_S, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise RunnerError(f"This machine has an NVIDIA driver, and torch does not say which GPUs ({error}).") from error
    return [line for line in asked.stdout.splitlines() if line]
