"""The grid of a matrix: a cell for each engine, case and device; and what all of it comes to."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from parity.fleet.history import History, cell_place, since_of
from parity.fleet.row import UNJUDGED, Cell, Reference, Row, RowResult, RowState, not_done

NOT_RUN = "no result is there yet"


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """One row of the grid. `cells` are of the engines asked, in order; none where the row did not come to its end."""

    case: str
    device: str
    key: str
    state: RowState
    reason: str
    took_s: float
    reference: Reference | None
    asked: tuple[str, ...]  # the engines that run its case
    cells: tuple[Cell, ...]
    since: tuple[str, ...]  # of each cell: since when it is no parity, "" if it is one

    def cell_of(self, engine: str) -> tuple[Cell, str] | None:
        """The cell of an engine and since when it is no parity; None if there is none."""
        found = zip(self.cells, self.since, strict=True)
        return next(((cell, since) for cell, since in found if cell.engine == engine), None)

    @property
    def code(self) -> int:
        """The worst of its cells; 2 if it did not come to its end."""
        return max((cell.code for cell in self.cells), default=UNJUDGED) if self.state == "done" else UNJUDGED


@dataclass(frozen=True, kw_only=True)
class Grid:
    """All rows, in the order of the matrix file."""

    name: str
    engines: tuple[str, ...]
    rows: tuple[GridRow, ...]
    left_out: tuple[tuple[str, str], ...]  # engines that are not here, and the variables that would name them
    created_utc: str

    @property
    def code(self) -> int:
        """The exit code: 2 if any row could not be judged, else 1 if any is not at parity, else 0."""
        return max((row.code for row in self.rows), default=UNJUDGED)

    def count(self, code: int) -> int:
        """Number of rows of this code."""
        return sum(row.code == code for row in self.rows)


def grid_of(
    name: str,
    rows: Sequence[Row],
    results: Iterable[RowResult],
    history: History,
    *,
    left_out: Collection[tuple[str, str]] = (),
    created_utc: str = "",
) -> Grid:
    """Put results into their places; a row without one could not be judged.

    Args:
        name: of the matrix.
        rows: of the matrix file.
        results: at most one of each row; others are of an earlier form of the file, and left alone.
        history: after these results.
        left_out: engines that are not here.
        created_utc: when the matrix began.
    """
    found = {result.key: result for result in results}
    lines = []
    for row in rows:
        result = found.get(row.key) or not_done(row, "lost", NOT_RUN)
        lines.append(
            GridRow(
                case=row.case_id,
                device=row.device.name,
                key=row.key,
                state=result.state,
                reason=result.reason,
                took_s=result.took_s,
                reference=result.reference,
                asked=tuple(one.label for one in row.engines),
                cells=result.cells,
                since=tuple(since_of(history.cells, cell_place(result, cell.engine)) for cell in result.cells),
            )
        )
    engines = tuple(dict.fromkeys(one.label for row in rows for one in row.engines))
    return Grid(name=name, engines=engines, rows=tuple(lines), left_out=tuple(left_out), created_utc=created_utc)
