"""Jobs that tests hand out: light ones, which import nothing that computes."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

WORDS = "something happened"


def facts(request: dict[str, Any], place: Path) -> dict[str, Any]:
    """The surroundings that a job finds where it is."""
    import resource

    (place / "kept").write_text("x")
    return {
        "given": request,
        "pid": os.getpid(),
        "parent": os.getppid(),
        "cores": sorted(os.sched_getaffinity(0)),
        "threads": os.environ["OMP_NUM_THREADS"],
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "data_bytes": resource.getrlimit(resource.RLIMIT_DATA)[0],
        "cwd": str(Path.cwd()),
        "place": str(place),
        "input": sys.stdin.read(),
    }


def nap(request: dict[str, Any], place: Path) -> dict[str, Any]:
    """Leave its process's number, sleep, and say when."""
    Path(request["pids"]).joinpath(str(os.getpid())).touch()
    start_s = time.time()
    time.sleep(request["seconds"])
    return {"began_s": start_s, "ended_s": time.time(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}


def wait(request: dict[str, Any], place: Path) -> dict[str, Any]:
    """Leave its process's number, and wait until it is let."""
    Path(request["pids"]).joinpath(str(os.getpid())).touch()
    while not Path(request["until"]).exists():
        time.sleep(0.02)
    return {}


def killed(request: dict[str, Any], place: Path) -> dict[str, Any]:
    """Be killed the first times, as for want of memory."""
    mark = Path(request["marks"]) / str(len(list(Path(request["marks"]).iterdir())))
    if int(mark.name) < request["times"]:
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"attempt": int(mark.name)}


def leaving(request: dict[str, Any], place: Path) -> dict[str, Any]:
    """End the process as a C library may, with the exit code of who has succeeded."""
    ctypes.CDLL(None)._exit(0)
    return {}


def failing(request: dict[str, Any], place: Path) -> dict[str, Any]:
    """Raise."""
    raise ValueError(WORDS)


def greedy(request: dict[str, Any], place: Path) -> dict[str, Any]:
    """Take more memory than it may."""
    return {"taken": len(bytearray(2 << 30))}
