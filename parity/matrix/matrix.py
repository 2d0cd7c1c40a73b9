"""A matrix from its file to its grid: laid out, driven, written down, remembered."""

from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from parity.fleet.grid import Grid, grid_of
from parity.fleet.history import after, read_history, write_history
from parity.fleet.ledger import held_ledger
from parity.fleet.row import Row
from parity.fleet.schedule import expected_s, limit_s, longest_first
from parity.judge.perf import PerfRegistry, load_perf_registry
from parity.matrix.drive import MatrixDrive, MatrixWatcher, Submits
from parity.matrix.plan import MatrixPlan, plan_matrix
from parity.matrix.results import bring_pages, save_grid
from parity.runs.places import baselines_path
from parity.runs.store import Store


class SaysNothing:
    """A watcher that tells nobody."""

    def handed_out(self, row: Row, attempt: int) -> None:
        """Nothing."""

    def ended(self, row: Row, result: object) -> None:
        """Nothing."""


def run_matrix(
    path: Path,
    folder: Path,
    executor: Callable[[], Submits],
    store: Store,
    *,
    replace: bool = False,
    watcher: Callable[[MatrixPlan], MatrixWatcher] = lambda _: SaysNothing(),
    say: Callable[[str], None] = lambda _: None,
) -> Grid:
    """Run a matrix, or go on with one, and leave everything about it in a folder. The grid's `code` is the exit code.

    Args:
        path: of the matrix file.
        folder: of the matrix: its ledger, grid and pages. One that a call has begun is gone on with.
        executor: makes what does the rows, once it is known that there are any to do.
        store: where runs and results go.
        replace: begin anew in a folder of this matrix.
        watcher: told how far it is.
        say: told what could not be had at the end.
    Raises: ParityError for what cannot be begun; what a row fails of is in the grid.
    """
    plan = plan_matrix(path, store)
    with held_ledger(folder, plan.file.name, replace=replace) as ledger:
        before = read_history(store, ledger.head)
        baselines = load_perf_registry(baselines_path()) if baselines_path().is_file() else PerfRegistry()
        expected = {row.key: expected_s(row, before.took_s, baselines) for row in plan.rows}
        minutes = plan.file.limit_minutes
        unknown_s = None if minutes is None else 60 * minutes
        done = {result.key for result in ledger.results() if result.state == "done"}
        made: Submits | None = None
        if any(row.key not in done for row in plan.rows):
            made = executor()
        try:
            MatrixDrive(
                rows=longest_first((row, expected[row.key]) for row in plan.rows),
                limits_s={key: limit_s(known, unknown_s) for key, known in expected.items()},
                ledger=ledger,
                store=store,
                executor=made if made is not None else _NobodyNeeded(),
                watcher=watcher(plan),
            ).run()
        finally:
            if isinstance(made, Executor):
                made.shutdown(wait=False, cancel_futures=True)
        wanted = {row.key for row in plan.rows}
        results = [result for result in ledger.results() if result.key in wanted]
        history = after(before, ledger.head, results)
        grid = grid_of(
            plan.file.name,
            plan.rows,
            results,
            history,
            left_out=[(one.label, one.python or one.engine_root) for one in plan.left_out],
            created_utc=ledger.head.created_utc,
        )
        for text in bring_pages(folder, results, store):
            say(text)
        save_grid(folder, grid)
        write_history(store, ledger.head, history)
    return grid


class _NobodyNeeded:
    """Stands for an executor where every row has its result."""

    def submit(self, fn: object, /, *args: object, **kwargs: object) -> None:
        raise AssertionError("every row has its result")
