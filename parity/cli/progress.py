"""Progress of a run: a bar a stage and step on a terminal, plain lines elsewhere, nothing with --quiet."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from parity.cli.interrupt import InterruptibleProgress
from parity.cli.verb import err

if TYPE_CHECKING:
    from runners.clock import Progress as Listener


class _Lines:
    """One line a stage, and one every tenth of the steps."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._start_s = time.perf_counter()

    def stage(self, name: str) -> None:
        """Print the stage."""
        self._print(name)

    def step(self, index: int, count: int) -> None:
        """Print some of the steps."""
        if index == count or index % max(1, count // 10) == 0:
            self._print(f"step {index}/{count}")

    def _print(self, what: str) -> None:
        err.print(f"{self._title}: {what} ({time.perf_counter() - self._start_s:.1f} s)")


class _Bar:
    def __init__(self, title: str, bar: Progress) -> None:
        self._title, self._bar = title, bar
        self._task = bar.add_task(title, total=None)

    def stage(self, name: str) -> None:
        """Show the stage."""
        self._bar.update(self._task, description=f"{self._title}: {name}", total=None, completed=0)

    def step(self, index: int, count: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, total=count, completed=index)


@contextmanager
def progress_of(title: str, quiet: bool) -> Iterator["Listener"]:
    """A listener for one run."""
    from runners.clock import Quiet

    if quiet:
        yield InterruptibleProgress(Quiet())
    elif not err.is_terminal:
        yield InterruptibleProgress(_Lines(title))
    else:
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=err, transient=True) as bar:
            yield InterruptibleProgress(_Bar(title, bar))
