"""One job in a process of its own, within its time and memory: what a worker of any executor calls.

`do_job` is a function of a module and its argument is plain data, so whatever hands both to another machine can run it:
threads here, Ray, submitit. Each thread that calls it keeps one process from which its jobs are forked
(`row_process_main.py`), since importing torch and the models takes longer than many a job.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, Final, Literal

from parity.fleet.row_process_main import NO_MEMORY
from parity.runs.last_words import collect_said
from runners.errors import ParityError, RunError
from runners.load import load
from runners.partial_folder import partial_folder
from runners.printable import printable
from runners.strict import Strict

PROGRAM: Final = Path(__file__).with_name("row_process_main.py")
MAX_RESULT_BYTES: Final = 16 << 20
SAID_LINES: Final = 6  # of a job's log, told where it fails
MAX_LOG_BYTES: Final = 1 << 16  # of its end
START_S: Final = 300.0  # that importing may take
GIB: Final = 1 << 30
JobState = Literal["done", "failed", "lost", "hung", "out of memory"]


class Needs(Strict, frozen=True, kw_only=True):
    """The resources that a job takes of a box; all GPUs are of one box."""

    num_cpus: int = 1
    num_gpus: int = 0
    accelerator_type: str = ""
    memory_bytes: int = 0  # 0 is a share of the machine


class Job(Strict, frozen=True, kw_only=True):
    """A job, as it is handed to an executor."""

    program: str  # MODULE:FUNCTION, called with the request and a folder to work in; returns JSON data
    request: dict[str, Any]
    needs: Needs
    threads: int
    limit_s: float
    cores: tuple[int, ...] = ()  # that it is bound to; none leaves it free
    gpus: str | None = None  # for CUDA_VISIBLE_DEVICES; None leaves it as the worker has it
    memory_bytes: int = 0  # that it may take; 0 sets no limit


class JobEnd(Strict, frozen=True, kw_only=True):
    """The end of a job."""

    state: JobState
    value: Any = None  # what it returned, if it is done
    said: str = ""  # its last words, or who ended it
    took_s: float = 0.0


class _GoneError(Exception):
    """The process that jobs are forked from is no more."""


class _Forks:
    """A process that jobs are forked from, one at a time."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), module],
            stdin=subprocess.PIPE,  # when this process ends in whatever way, it closes
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # an interrupt at a terminal is this process's to pass on
        )
        assert self.process.stderr is not None
        self.said: deque[str] = deque(maxlen=SAID_LINES)
        threading.Thread(target=collect_said, args=(self.process.stderr, self.said), daemon=True).start()
        self._heard = b""

    def order(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise _GoneError(self.last_words()) from error

    def answer(self, within_s: float) -> dict[str, int] | None:
        """The next answer; None if there is none in time. Raises: _GoneError if there will be none."""
        assert self.process.stdout is not None
        until_s = time.monotonic() + within_s
        while b"\n" not in self._heard:
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not select.select([self.process.stdout], [], [], left_s)[0]:
                return None
            part = os.read(self.process.stdout.fileno(), 1 << 16)
            if not part:
                raise _GoneError(self.last_words())
            self._heard += part
        line, _, self._heard = self._heard.partition(b"\n")
        found: dict[str, int] = json.loads(line)
        return found

    def last_words(self) -> str:
        self.process.wait()  # it has closed its answers, so it ends
        return "the process that rows are forked from ended; it last said: " + (" / ".join(self.said) or "nothing")

    def end(self) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.wait()


_mine = threading.local()  # the process of each thread that does jobs


def do_job(job: Job) -> JobEnd:
    """Do a job here, in a process of its own. Returns: how it ended; nothing that a job does is raised."""
    start_s = time.monotonic()
    with partial_folder(Path(tempfile.gettempdir()) / f"parity-row-{os.getuid()}") as place:
        try:
            end = _done_in(job, place)
        except _GoneError as gone:
            end_jobs()
            end = JobEnd(state="lost", said=str(gone))
        except BaseException:
            end_jobs()
            raise
    return JobEnd(state=end.state, value=end.value, said=end.said, took_s=time.monotonic() - start_s)


def end_jobs() -> None:
    """End the process that this thread's jobs are forked from, and the job that is under way."""
    forks: _Forks | None = getattr(_mine, "forks", None)
    _mine.forks = None
    if forks is not None:
        forks.end()


def _done_in(job: Job, place: Path) -> JobEnd:
    environment = {"OMP_NUM_THREADS": str(job.threads)}
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES") if job.gpus is None else job.gpus
    if gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpus
    forks = _forks(job.program.partition(":")[0])
    forks.order(
        {
            "program": job.program,
            "request": job.request,
            "place": str(place),
            "environment": environment,
            "cores": list(job.cores),
            "threads": job.threads,
            "memory_bytes": job.memory_bytes,
        }
    )
    began = forks.answer(START_S)
    if began is None:
        end_jobs()
        return JobEnd(state="hung", said=f"what it imports was not there after {START_S:.0f} s")
    ended = forks.answer(job.limit_s)
    if ended is None:
        os.killpg(began["began"], signal.SIGKILL)
        forks.answer(START_S)
        return JobEnd(state="hung", said=_last_words(place))
    return _end_of(ended["ended"], place)


def _forks(module: str) -> _Forks:
    forks: _Forks | None = getattr(_mine, "forks", None)
    if forks is not None and (forks.module != module or forks.process.poll() is not None):
        end_jobs()
        forks = None
    if forks is None:
        forks = _mine.forks = _Forks(module)
    return forks


def _end_of(status: int, place: Path) -> JobEnd:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return JobEnd(state="lost", said=f"its process was ended by signal {-code}; {_last_words(place)}")
    if code == NO_MEMORY:
        return JobEnd(state="out of memory", said=_last_words(place))
    if code != 0:
        return JobEnd(state="failed", said=_last_words(place))
    try:
        value: Any = load(place / "result.json", dict, RunError, "run it again", max_bytes=MAX_RESULT_BYTES)
    except ParityError as error:
        return JobEnd(state="failed", said=str(error))
    return JobEnd(state="done", value=value)


def _last_words(place: Path) -> str:
    """The end of what a job has written to its log."""
    from runners.files import opened

    try:
        with opened(place / "log.txt", RunError, "none", max_bytes=1 << 62) as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - MAX_LOG_BYTES))
            lines = log.read(MAX_LOG_BYTES).decode("utf-8", "replace").splitlines()
    except RunError:
        lines = []
    return (
        " / ".join(printable(line.strip())[:300] for line in lines[-SAID_LINES:] if line.strip()) or "it said nothing"
    )
