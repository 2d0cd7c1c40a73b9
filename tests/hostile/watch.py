"""A look at what a call does while it runs: writes, deletions, network, processes, time and memory.

The audit hook stays for the life of the process and does nothing while nobody watches. It sees what Python does; a C
library that writes by itself (safetensors, FFmpeg) is not seen, so a campaign also compares the folders around.
"""

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from torch.nn.modules.module import register_module_forward_pre_hook

# Until a call counts as hung and is broken off: of its own work, and of waiting, which a busy machine makes long.
PATIENCE_CPU_S = 30.0
PATIENCE_S = 300.0
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {  # audit event -> places of the paths among its arguments
    **dict.fromkeys(("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.chown", "os.utime"), (0,)),
    **dict.fromkeys(("os.rename", "os.link", "os.symlink", "shutil.move"), (0, 1)),
    **dict.fromkeys(("shutil.rmtree", "tempfile.mkstemp", "tempfile.mkdtemp"), (0,)),
}
NETWORK = (
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "socket.sendto",
    "urllib.Request",
    "http.client.connect",
)
PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork")


class HungError(BaseException):
    """Raised in the main thread when a call takes too long; no `Exception`, so that nothing takes it for one."""


@dataclass(kw_only=True)
class Seen:
    """Observations of one call."""

    allowed: tuple[Path, ...]  # folders it may write in
    outside: list[str] = field(default_factory=list)  # what it did anywhere else
    elapsed_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0  # beyond what the process held before
    computed: bool = False  # whether any module of a model was called

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Judge one audit event."""
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            self._held(event, arguments[0], None)
        elif event in CHANGES:
            folder = next((one for one in arguments[1:] if type(one) is int and one > 2), None)  # dir_fd
            for place in CHANGES[event]:
                self._held(event, arguments[place], folder if event in ("os.remove", "os.rmdir") else None)
        elif event in NETWORK or event in PROCESSES:
            self.outside.append(f"{event} {arguments[:2]!r}"[:200])

    def _held(self, event: str, path: Any, folder: int | None) -> None:
        if isinstance(path, int):
            return  # a descriptor; its opening was seen
        text = os.fsdecode(path)
        if text in ("/dev/null", "/dev/tty"):
            return
        given = Path(text)
        if folder is not None and not given.is_absolute():
            given = Path(f"/proc/self/fd/{folder}").readlink() / given
        real = given.parent.resolve() / given.name
        if not any(real == one or one in real.parents for one in self.allowed):
            self.outside.append(f"{event} {real}"[:300])


_watching: Seen | None = None
_deadlines: tuple[float, float] | None = None  # by the clock, and by the process's CPU time


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching is not None and threading.current_thread() is threading.main_thread():
        _watching.note(event, arguments)


def hung(number: int, frame: FrameType | None) -> None:
    if _deadlines is not None:
        raise HungError


def _wake_up(over: threading.Event) -> None:
    while not over.wait(1):
        now = time.monotonic(), time.process_time()
        if (deadlines := _deadlines) is not None and (now[0] > deadlines[0] or now[1] > deadlines[1]):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


@contextmanager
def installed() -> Iterator[None]:
    """Put in the hook, which stays, and the alarm, which goes again."""
    sys.addaudithook(_hook)
    before, over = signal.signal(signal.SIGUSR1, hung), threading.Event()
    alarm = threading.Thread(target=_wake_up, args=(over,), daemon=True)
    alarm.start()
    try:
        yield
    finally:
        over.set()
        alarm.join()
        signal.signal(signal.SIGUSR1, before)


@contextmanager
def watched(*allowed: Path) -> Iterator[Seen]:
    """Watch a call that may write in some folders alone. Raises: HungError if it takes longer than the patience."""
    global _watching, _deadlines
    seen = Seen(allowed=tuple(one.resolve() for one in allowed))
    computing = register_module_forward_pre_hook(lambda *_: setattr(seen, "computed", True))
    before_bytes = _reset_peak()
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    _deadlines, _watching = (began_s + PATIENCE_S, began_cpu_s + PATIENCE_CPU_S), seen
    try:
        yield seen
    finally:
        _watching = _deadlines = None
        computing.remove()
        seen.elapsed_s, seen.cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
        seen.peak_bytes = max(0, _peak() - before_bytes)


def _reset_peak() -> int:
    with suppress(OSError):  # then the peak is that of the whole process so far
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
