"""Progress of a run: a line a finished stage, below them on a terminal a bar of what is under way; --quiet has none."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from parity.cli.interrupt import InterruptibleProgress
from parity.cli.verb import err

if TYPE_CHECKING:
    from runners.clock import Progress as Listener

STARTING: Final = "starting"  # imports and whatever else comes before the first stage
STEPS_EVERY_S: Final = 15.0  # a line of steps at most so often


class Lines:
    """One line a stage once it is over, with its own time; in a long one a line of its steps every so many seconds."""

    def __init__(
        self,
        title: str,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        every_s: float = STEPS_EVERY_S,
    ) -> None:
        self._title, self._say, self._clock, self._every_s = title, say, clock, every_s
        self._start_s = self._stage_s = self._told_s = clock()
        self._name = STARTING
        self._steps = 0

    def begin(self) -> None:
        """Print that there is something to wait for."""
        self._say(f"{self._title}: {STARTING}")

    def stage(self, name: str) -> None:
        """Print the stage before it."""
        self._over()
        self._name, self._steps = name, 0
        self._stage_s = self._told_s = self._clock()

    def step(self, index: int, count: int) -> None:
        """Print the steps if none were printed for a while."""
        now_s = self._clock()
        self._steps = index
        if now_s - self._told_s >= self._every_s and index < count:
            left_s = (now_s - self._stage_s) / index * (count - index)
            self._say(f"{self._title}: {self._name}, step {index} of {count}, about {left_s:.0f} s left")
            self._told_s = now_s

    def end(self) -> None:
        """Print the last stage and the time of all."""
        self._over()
        self._say(f"{self._title}: done in {self._clock() - self._start_s:.1f} s")

    def _over(self) -> None:
        steps = f", {self._steps} step{'s' if self._steps > 1 else ''}" if self._steps else ""
        self._say(f"{self._title}: {self._name} took {self._clock() - self._stage_s:.1f} s{steps}")


class StepsColumn(ProgressColumn):
    """Steps done of how many, and the time left; nothing in a stage that has none."""

    def __init__(self) -> None:
        super().__init__()
        self._done, self._left = MofNCompleteColumn(), TimeRemainingColumn(compact=True)

    def render(self, task: Task) -> Text:
        """Draw the column."""
        if task.total is None:
            return Text()
        return Text.assemble(self._done.render(task), " left ", self._left.render(task))


class Bar:
    """A bar of the stage under way, above it the lines of those that are over.

    A stage is a task of its own: rich keeps the total of one that is told of none.
    """

    def __init__(self, title: str, bar: Progress) -> None:
        self._title, self._bar = title, bar
        self._lines = Lines(title, bar.console.print, every_s=math.inf)
        self._task = bar.add_task(f"{title}: {STARTING}", total=None)

    def stage(self, name: str) -> None:
        """Show the stage, and the line of the one before it."""
        self._lines.stage(name)
        self._bar.remove_task(self._task)
        self._task = self._bar.add_task(f"{self._title}: {name}", total=None)

    def step(self, index: int, count: int) -> None:
        """Move the bar."""
        self._lines.step(index, count)
        self._bar.update(self._task, total=count, completed=index)

    def end(self) -> None:
        """Print the last stage and the time of all."""
        self._lines.end()


@contextmanager
def progress_of(title: str, quiet: bool) -> Iterator["Listener"]:
    """A listener for one run."""
    from runners.clock import Quiet

    if quiet:
        yield InterruptibleProgress(Quiet())
    elif not err.is_terminal:
        lines = Lines(title, err.print)
        lines.begin()
        yield InterruptibleProgress(lines)
        lines.end()
    else:
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), StepsColumn())
        with Progress(*columns, TimeElapsedColumn(), console=err, transient=True) as bar:
            shown = Bar(title, bar)
            yield InterruptibleProgress(shown)
            shown.end()
