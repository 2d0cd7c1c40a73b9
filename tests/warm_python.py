"""A Python interpreter that has imported torch and the native model before it is asked: a child begins in no time.

A server imports what children import, and forks for each program that it is sent: same files, same code, own process,
own streams, environment and folder. `interpreter` is an executable that stands for `python` on a command line; only
what a program does about imports, or with processes that must die with it, wants the real one.

Processes that run tests side by side share one server, which ends with the last of them.
"""

import fcntl
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
told = {{"argv": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}}
socket.send_fds(connection, [json.dumps(told).encode()], [0, 1, 2])
connection.shutdown(socket.SHUT_WR)
said = connection.makefile()
process = int(said.readline())
for passed_on in (signal.SIGINT, signal.SIGTERM):
    signal.signal(passed_on, lambda number, _: os.kill(process, number))
status = int(said.readline() or 1)
if status < 0:
    if status != -signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""
MOST_BYTES = 1 << 20  # of a program's arguments and environment
PROGRAMS, LEASES = "programs", "leases"  # sockets in the folder


@contextmanager
def interpreter(folder: Path) -> Iterator[Path]:
    """The executable, in a folder that others may ask for as well, while its server lives."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of us starts the server, the others wait for it
        lease = _lease(folder) or _started(folder)
    with lease:
        yield folder / "python"


def _lease(folder: Path) -> socket.socket | None:
    """A connection that keeps the server of a folder alive, if there is one."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(folder / LEASES))
        if connection.recv(1):
            return connection
    except OSError:
        pass
    connection.close()
    return None


def _started(folder: Path) -> socket.socket:
    for name in (PROGRAMS, LEASES):  # of a server that has ended
        (folder / name).unlink(missing_ok=True)
    path = folder / "python"
    path.write_text(CLIENT.format(python=sys.executable, address=str(folder / PROGRAMS)), encoding="utf-8")
    path.chmod(0o755)
    subprocess.run([sys.executable, __file__, folder], stdin=subprocess.DEVNULL, check=True)
    lease = _lease(folder)
    assert lease is not None
    return lease


def serve(folder: Path) -> None:
    """Fork for every program that comes, until the last lease is given back, in a process of its own."""
    gc.set_threshold(100_000, 10, 10)  # as `parity` has it
    sys.path[0] = str(ROOT)
    import torch

    for name in ("runners.native.runner", "parity.runs.execute", "parity.runs.outputs"):
        importlib.import_module(name)
    torch.set_num_threads(1)  # a fork of more would lack them
    gc.freeze()
    programs, leasing = (socket.socket(socket.AF_UNIX) for _ in range(2))
    for listening, name in ((programs, PROGRAMS), (leasing, LEASES)):
        listening.bind(str(folder / name))
        listening.listen()
    if os.fork():
        os._exit(0)  # whoever started this may ask now
    os.setsid()
    leases = [leasing.accept()[0]]
    leases[0].sendall(b"!")
    while leases:
        for ready in select.select([programs, leasing, *leases], [], [])[0]:
            if ready is programs:
                connection, _ = programs.accept()
                if os.fork() == 0:
                    for other in (programs, leasing, *leases):
                        other.close()
                    _answer(connection)
                connection.close()
            elif ready is leasing:
                leases.append(leasing.accept()[0])
                leases[-1].sendall(b"!")
            else:  # its holder has ended
                leases.remove(ready)
                ready.close()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    os._exit(0)


def _answer(connection: socket.socket) -> None:
    message, streams, _, _ = socket.recv_fds(connection, MOST_BYTES, 3)
    child = os.fork()
    if child == 0:
        connection.close()
        _become(json.loads(message), streams)
    for stream in streams:
        os.close(stream)
    with suppress(BrokenPipeError):  # who asked was killed
        connection.sendall(f"{child}\n".encode())
    _, status = os.waitpid(child, 0)
    with suppress(BrokenPipeError):
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(told: dict[str, Any], streams: list[int]) -> None:
    """Run a program as the interpreter would, and end."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = os.fdopen(0, closefd=False)
    for number, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        raw = io.FileIO(number, "w", closefd=False)
        setattr(sys, name, io.TextIOWrapper(raw, "utf-8", errors, write_through=True))  # as -u wants it
    os.chdir(told["folder"])
    os.environ.clear()
    os.environ.update(told["environment"])
    sys.argv = [word for word in told["argv"] if word != "-u"]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 0
    try:
        if sys.argv[0] == "-c":
            sys.path[0] = ""
            exec(sys.argv.pop(1), {"__name__": "__main__"})
        elif sys.argv[0] == "-m":
            sys.path[0] = told["folder"]
            runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
        else:
            sys.path[0] = str(Path(sys.argv[0]).parent)
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
