"""A Python interpreter that has imported torch before it is asked: a child of a test begins in no time.

A server imports what every child imports, and forks for each program that it is sent: same files, same code, own
process, own streams, environment and folder. `interpreter` is an executable that stands for `python` on a command line;
only what a program does about imports, or with processes that must die with it, wants the real one.
"""

import json
import os
import runpy
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CLIENT = """#!{python} -IS
import json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
told = {{"argv": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}}
socket.send_fds(connection, [json.dumps(told).encode()], [0, 1, 2])
connection.shutdown(socket.SHUT_WR)
status = int(connection.recv(32) or b"1")
if status < 0:
    os.kill(os.getpid(), -status)
os._exit(status)
"""
MOST_BYTES = 1 << 20  # of a program's arguments and environment


@contextmanager
def interpreter(folder: Path) -> Iterator[Path]:
    """The executable, in an empty folder, while its server lives."""
    address = str(folder / "socket")
    server = subprocess.Popen([sys.executable, __file__, address])
    try:
        while not Path(address).exists() and server.poll() is None:
            time.sleep(0.02)
        path = folder / "python"
        path.write_text(CLIENT.format(python=sys.executable, address=address), encoding="utf-8")
        path.chmod(0o755)
        yield path
    finally:
        server.kill()
        server.wait()


def serve(address: str) -> None:
    """Fork for every program that comes, until killed."""
    import safetensors.torch  # noqa: F401
    import torch

    torch.set_num_threads(1)  # a fork of more would lack them
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{address}.new")
    listening.listen()
    Path(f"{address}.new").rename(address)
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            _answer(connection)
        connection.close()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _answer(connection: socket.socket) -> None:
    message, streams, _, _ = socket.recv_fds(connection, MOST_BYTES, 3)
    child = os.fork()
    if child == 0:
        connection.close()
        _become(json.loads(message), streams)
    for stream in streams:
        os.close(stream)
    _, status = os.waitpid(child, 0)
    with suppress(BrokenPipeError):  # who asked was killed
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(told: dict[str, Any], streams: list[int]) -> None:
    """Run a program as the interpreter would, and end."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(told["folder"])
    os.environ.clear()
    os.environ.update(told["environment"])
    sys.argv = [word for word in told["argv"] if word != "-u"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    code = 0
    try:
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]  # as -u wants it
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
    serve(sys.argv[1])
