"""The process from which rows are forked: torch and the models are imported once, and each row is a process of its own.

Run as `PYTHON row_process_main.py MODULE` with orders on standard input, a JSON line each, and answers on standard
output: `{"began": pid}`, then `{"ended": status}` as `os.waitpid` has it. It computes nothing itself, and so has no
threads when it forks. When standard input ends, whoever gave orders is gone, and so is the row under way.
"""

import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

ROOT: Final = str(Path(__file__).resolve().parents[2])  # that `parity` and `runners` are imported from
FAILED: Final = 3  # exit status of a row that ended with an error, which it has said in its log
NO_MEMORY: Final = 4
_DIE_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG of Linux


def main(module: str) -> None:
    """Import what rows need, then fork one for each order until there are no more."""
    os.environ.setdefault(
        "PYTORCH_NVML_BASED_CUDA_CHECK", "1"
    )  # a look for GPUs must not begin to use one before forks
    if ROOT not in sys.path:
        sys.path.insert(0, ROOT)
    orders, answers = os.dup(0), os.dup(1)
    for descriptor in (orders, answers):
        os.set_inheritable(descriptor, False)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(nothing, standard)  # of what is imported, and of rows
    os.close(nothing)
    gc.set_threshold(100_000, 10, 10)  # `parity.cli.main` says why
    importlib.import_module(module)
    gc.collect()
    gc.freeze()  # what is shared with rows stays shared
    waiting = b""
    while True:
        while b"\n" not in waiting:
            part = os.read(orders, 1 << 16)
            if not part:
                return
            waiting += part
        line, _, waiting = waiting.partition(b"\n")
        _follow(json.loads(line), orders, answers)


def _follow(order: dict[str, Any], orders: int, answers: int) -> None:
    """Fork one row and wait for its end; if orders end before, so does the row."""
    parent = os.getpid()
    row = os.fork()
    if row == 0:
        os.close(orders)
        os.close(answers)
        _be_row(order, parent)
    with contextlib.suppress(OSError):
        os.setpgid(row, row)  # as it does itself; whoever is first
    _say(answers, {"began": row})
    ended = os.pidfd_open(row)
    try:
        ready = select.poll()
        ready.register(ended, select.POLLIN)
        ready.register(orders, select.POLLHUP)
        while not any(descriptor == ended for descriptor, _ in ready.poll()):
            os.killpg(row, signal.SIGKILL)
            os._exit(0)
    finally:
        os.close(ended)
    _, status = os.waitpid(row, 0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(row, signal.SIGKILL)  # what it has left behind
    _say(answers, {"ended": status})


def _say(answers: int, message: dict[str, int]) -> None:
    os.write(answers, json.dumps(message).encode() + b"\n")


def _be_row(order: dict[str, Any], parent: int) -> NoReturn:
    """Run one row in this process and end it."""
    status = FAILED
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        _die_with(parent)
        place = Path(order["place"])
        log = os.open(place / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(order["environment"])
        if order["cores"]:
            os.sched_setaffinity(0, order["cores"])
        if order["memory_bytes"]:
            resource.setrlimit(resource.RLIMIT_DATA, (order["memory_bytes"], order["memory_bytes"]))
        if torch := sys.modules.get("torch"):  # imported later, it asks the environment
            torch.set_num_threads(order["threads"])
        os.chdir(place)
        module, _, function = order["program"].partition(":")
        value = getattr(importlib.import_module(module), function)(order["request"], place)
        (place / "result.part").write_text(json.dumps(value, allow_nan=False), encoding="utf-8")
        (place / "result.part").rename(place / "result.json")
        status = 0
    except MemoryError:
        status = NO_MEMORY
        _log_traceback()
    except BaseException:
        _log_traceback()
    finally:
        os._exit(status)


def _log_traceback() -> None:
    import traceback

    with contextlib.suppress(BaseException):
        os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))


def _die_with(parent: int) -> None:
    """End with the process that forks, however that ends."""
    with contextlib.suppress(OSError, ImportError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(FAILED)


if __name__ == "__main__":
    main(sys.argv[1])
