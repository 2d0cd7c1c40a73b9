"""Interrupts that nothing swallows: heard where they fall, and heard again when the run next says how far it is.

Libraries catch everything in places (weak reference callbacks, imports that may fail), and an interrupt that falls
there is gone: the run would go on for as long as it takes.
"""

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runners.clock import Progress

_heard: list[int] = []  # signals


def listen_for_interrupts() -> None:
    """Make an interrupt of the first SIGTERM, which schedulers send, as of SIGINT; a second one changes nothing."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, _: object) -> None:
    _heard.append(number)
    signal.signal(number, signal.SIG_IGN)  # a second one would interrupt the clearing up
    raise KeyboardInterrupt


def interrupt_if_heard() -> None:
    """Interrupt once more after an interrupt that somebody swallowed. Raises: KeyboardInterrupt."""
    if _heard:
        raise KeyboardInterrupt


class InterruptibleProgress:
    """A progress that interrupts the run once more if it was interrupted before, and went on."""

    def __init__(self, inner: "Progress") -> None:
        self._inner = inner

    def stage(self, name: str) -> None:
        """Tell the stage. Raises: KeyboardInterrupt."""
        interrupt_if_heard()
        self._inner.stage(name)

    def step(self, index: int, count: int) -> None:
        """Tell the step. Raises: KeyboardInterrupt."""
        interrupt_if_heard()
        self._inner.step(index, count)
