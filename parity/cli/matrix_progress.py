"""Progress of a matrix: a bar and the last rows on a terminal, a line a row elsewhere, nothing with --quiet."""

import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from parity.cli.interrupt import interrupt_if_heard
from parity.cli.verb import err
from parity.fleet.row import Row, RowResult
from parity.report.matrix import SHORT, row_words


class MatrixProgress:
    """Told of each row; shows how many there are of each verdict while rows are still to come."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        """Begin. `total` is the number of rows."""
        self._total, self._quiet = total, quiet
        self._counts = dict.fromkeys(SHORT, 0)
        self._start_s = time.monotonic()
        self._bar: Progress | None = None
        if not quiet and err.is_terminal:
            shown = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*shown, TimeElapsedColumn(), console=err, transient=True)
            self._task = self._bar.add_task("rows", total=total)
            self._bar.start()

    def handed_out(self, row: Row, attempt: int) -> None:
        """Say of a row that it is tried again. Raises: KeyboardInterrupt after an interrupt that was swallowed."""
        interrupt_if_heard()
        if attempt > 1 and not self._quiet:
            err.print(f"{row.place}: lost, tried again ({attempt})")

    def ended(self, row: Row, result: RowResult) -> None:
        """Show a row's result, and how many there are of each."""
        interrupt_if_heard()
        self._counts[result.code] += 1
        ended = sum(self._counts.values())
        if self._quiet:
            return
        if self._bar is not None:
            words = ", ".join(f"{count} {SHORT[code]}" for code, count in self._counts.items() if count)
            self._bar.update(self._task, completed=ended, description=words)
            self._bar.console.print(row_words(result))
            if ended == self._total:
                self._bar.stop()
            return
        err.print(f"[{ended} of {self._total}, {time.monotonic() - self._start_s:.0f} s] {row_words(result)}")
