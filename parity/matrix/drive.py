"""The driver of a matrix: hands rows to an executor, writes down what comes back, and goes on where another ended.

Any executor of the form of `concurrent.futures` will do, and so will one whose futures have `done`, `result` and
`cancel` alone, such as submitit's. Few rows are handed out at a time, so that a driver holds little whatever the number
of rows; a row that is lost is handed out again, and one that did not come to its end never has a verdict.
"""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from parity.fleet.ledger import Ledger
from parity.fleet.row import Row, RowResult, not_done, result_of
from parity.fleet.row_process import GIB, Job, JobEnd, Needs, do_job
from parity.matrix.row import PROGRAM, RowOrder, record_name
from parity.runs.store import Store
from runners.errors import ParityError, RunError
from runners.load import parse

ATTEMPTS: Final = 3  # at a row that is lost, before it could not be judged
IN_FLIGHT: Final = 256  # rows that are handed out at a time
POLL_S: Final = 0.5
REMEDY: Final = "its row is run again"


class Submits(Protocol):
    """The part of an executor that is asked for."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Hand in a call. Returns: a future with `done`, `result` and `cancel`."""


class MatrixWatcher(Protocol):
    """Whoever is told how far a matrix is."""

    def handed_out(self, row: Row, attempt: int) -> None:
        """A row was handed to the executor."""

    def ended(self, row: Row, result: RowResult) -> None:
        """A row has a result, be it one of an earlier call."""


@dataclass(kw_only=True)
class MatrixDrive:
    """Everything that a driver needs."""

    rows: Iterable[Row]  # in the order to hand them out in
    limits_s: dict[str, float]  # by key
    ledger: Ledger
    store: Store
    executor: Submits
    watcher: MatrixWatcher
    program: str = PROGRAM  # that a box runs of a row
    in_flight: int = IN_FLIGHT
    _out: dict[Any, tuple[Row, int]] = field(default_factory=dict, init=False)

    @property
    def handed_out(self) -> int:
        """Number of rows that an executor has now."""
        return len(self._out)

    def run(self) -> None:
        """Drive all rows to an end. Whatever ends it before, what came back until then is written down."""
        kept = {result.key: result for result in self.ledger.results() if result.state == "done"}
        waiting = []
        for row in self.rows:
            if (result := kept.get(row.key)) is not None:
                self.watcher.ended(row, result)
            elif (
                self.ledger.resumed and (result := self._in_store(row)) is not None
            ):  # done while no driver was there to hear it
                self._write(row, result)
            else:
                waiting.append(row)
        del kept
        waiting.reverse()
        try:
            while waiting or self._out:
                while waiting and len(self._out) < self.in_flight:
                    self._hand_out(waiting.pop(), 1)
                for future in self._ended():
                    row, attempt = self._out.pop(future)
                    self._take(row, attempt, future)
        except BaseException:
            for future, (row, _) in self._out.items():
                if future.done() and (result := self._result(row, future)).state == "done":
                    self.ledger.add(result)
                else:
                    future.cancel()
            raise

    def _hand_out(self, row: Row, attempt: int) -> None:
        self.watcher.handed_out(row, attempt)
        try:
            future = self.executor.submit(do_job, self._job(row))
        except ParityError as error:  # no box here can take it
            self._write(row, not_done(row, "nowhere", str(error)))
            return
        self._out[future] = row, attempt

    def _job(self, row: Row) -> Job:
        order = RowOrder(row=row, key=row.key, store=self.store.absolute_url, run=self.ledger.head.run)
        device = row.device
        memory_bytes = 0 if device.memory_gib is None else int(device.memory_gib * GIB)
        return Job(
            program=self.program,
            request=msgspec.to_builtins(order),
            needs=Needs(
                num_cpus=device.num_cpus,
                num_gpus=row.num_gpus,
                accelerator_type=device.accelerator_type,
                memory_bytes=memory_bytes,
            ),
            threads=device.computing_threads,
            limit_s=self.limits_s[row.key],
            memory_bytes=memory_bytes,
        )

    def _ended(self) -> list[Any]:
        """The futures that have ended, after waiting for one if there is none."""
        if all(isinstance(future, Future) for future in self._out):
            return list(wait(self._out, POLL_S, FIRST_COMPLETED).done)
        ended = [future for future in self._out if future.done()]
        if not ended:
            time.sleep(POLL_S)
        return ended

    def _take(self, row: Row, attempt: int, future: Any) -> None:
        """Write down what came back, or hand the row out again if it was lost."""
        result = self._result(row, future)
        if result.state == "lost":
            result = self._in_store(row) or result  # lost on its way back alone
        if result.state == "lost" and attempt < ATTEMPTS:
            self._hand_out(row, attempt + 1)
            return
        self._write(row, result)

    def _result(self, row: Row, future: Any) -> RowResult:
        try:
            end: JobEnd = future.result()
        except Exception as error:  # each executor has errors of its own for what is lost
            return not_done(row, "lost", f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")
        if end.state != "done":
            return not_done(row, end.state, end.said, end.took_s)
        try:
            return result_of(end.value, row)
        except RunError as error:
            return not_done(row, "failed", str(error), end.took_s)

    def _in_store(self, row: Row) -> RowResult | None:
        """The result that a box has left in the store; None if there is none that is whole."""
        name = record_name(self.ledger.head.run, row.key)
        try:
            text = self.store.record(name)
            return None if text is None else result_of(parse(text, name, RunError, REMEDY), row)
        except ParityError:
            return None

    def _write(self, row: Row, result: RowResult) -> None:
        self.ledger.add(result)
        self.watcher.ended(row, result)
