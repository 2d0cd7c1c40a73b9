"""A process that watches a verb which runs somebody else's engine beside itself: for the two verbs that do.

Such an engine can end the whole process, by `os._exit(0)` or `exit` of a C library, and whoever called would read a
code that no verb came to. So the verb runs in a fork, which leaves a mark at its very end: by which code it means to
end. The watcher ends by that code, and by 2 where there is no such mark or the fork ended otherwise. Signals go on to
the fork, which has its own way with them; a fork that a signal ends takes its watcher with it by the same one.
"""

import contextlib
import mmap
import os
import resource
import signal
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from parity.cli import COULD_NOT_JUDGE

WATCHED: Final = ("run", "check-runner")  # verbs that take FILE.py:CLASS and run it in their own process
ENDED: Final = (
    "error: the engine ended the process (exit code {code}) before the verb came to its end, so nothing was "
    "recorded or judged. Let it return, or raise.\n"
)
_PASSED_ON: Final = frozenset(
    (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
)
_DIE_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG of Linux


def watched(arguments: Sequence[str]) -> Callable[[int], None] | None:
    """Go on in a fork that is watched, if the command line names an engine in a file; the watcher never returns.

    Returns: what to call with the exit code right before the process ends by it; None if nobody watches.
    """
    if not any(verb in arguments for verb in WATCHED) or not any(".py:" in one for one in arguments):
        return None
    mark = mmap.mmap(-1, 1)  # shared with the fork, whatever an engine closes; 0 until the end, then the code plus 1
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON | {signal.SIGCHLD})
    of_children = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored ones leave no status
    watcher, fork = os.getpid(), os.fork()
    if fork:
        _end_as(_status_of(fork), mark)
    _die_with(watcher)
    signal.signal(signal.SIGCHLD, of_children)
    signal.pthread_sigmask(signal.SIG_SETMASK, heard)

    def tell(code: int) -> None:
        mark[0] = code + 1

    return tell


def _status_of(fork: int) -> int:
    """Wait for the end of the fork, and pass signals on until then. Returns: its status, as `waitpid` has it."""
    while True:
        found = signal.sigwaitinfo(_PASSED_ON | {signal.SIGCHLD})
        if found.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(fork, os.WNOHANG)
            if ended:
                return status
        elif found.si_code <= 0:  # of a process that knows the watcher alone; a terminal tells the fork itself
            os.kill(fork, found.si_signo)


def _end_as(status: int, mark: mmap.mmap) -> NoReturn:
    """End the watcher as the fork ended, or with 2 if that was no end of the verb."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # one core is enough, the fork's
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    code = os.waitstatus_to_exitcode(status)
    if mark[0] != code + 1:
        with contextlib.suppress(OSError):
            os.write(2, ENDED.format(code=code).encode())
        code = COULD_NOT_JUDGE
    os._exit(code)


def _die_with(watcher: int) -> None:
    """Let a watcher that is killed take the fork with it, where the system can: the caller has killed the verb."""
    with contextlib.suppress(OSError, ImportError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != watcher:  # killed meanwhile
        os._exit(COULD_NOT_JUDGE)
