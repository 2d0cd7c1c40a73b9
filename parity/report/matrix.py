"""The grid of a matrix as a table on the terminal, a Markdown summary, and JSON data."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from rich import box
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from parity.fleet.grid import Grid, GridRow
from parity.fleet.row import Cell, RowResult, RowState
from parity.report.ladder import COLUMNS, ladder_rows
from parity.report.markdown import escaped
from parity.report.terminal import Terminal
from runners.printable import printable

WORDS: Final = {0: "PARITY", 1: "NOT AT PARITY", 2: "COULD NOT JUDGE"}
NOT_ASKED: Final = "-"  # of an engine that the matrix does not ask for a case
SHORT: Final = {0: "parity", 1: "DIFFERS", 2: "UNJUDGED"}
STATES: Final[dict[RowState, str]] = {
    "done": "ended",
    "failed": "failed",
    "lost": "was lost with its worker",
    "hung": "took longer than it may and was ended",
    "out of memory": "ran out of memory",
    "nowhere": "fits no box",
}
MOST_REASONS: Final = 40  # printed below a table; the page has all
_STYLE: Final = {0: "green", 1: "bold red", 2: "yellow"}


def headline(grid: Grid) -> str:
    """The verdict of all in a line."""
    counts = ", ".join(
        f"{count} {word}"
        for count, word in ((grid.count(0), "at parity"), (grid.count(1), "not"), (grid.count(2), "not judged"))
        if count
    )
    return f"VERDICT: {WORDS[grid.code]} ({len(grid.rows)} rows: {counts or 'none'})"


def columns(grid: Grid) -> tuple[str, ...]:
    """The heads of the table."""
    return ("case", "device", "official", *grid.engines)


def cells_of(grid: Grid, row: GridRow) -> tuple[str, ...]:
    """A row as texts, one a column."""
    if row.state != "done" or row.reference is None:
        return (row.case, row.device, "-", *(SHORT[2] if name in row.asked else NOT_ASKED for name in grid.engines))
    times = f"{_middle(row.reference.times_s):.2f} s{', reused' if row.reference.reused else ''}"
    cells = [row.cell_of(name) for name in grid.engines]
    found = [NOT_ASKED if cell is None else cell_words(*cell) for cell in cells]
    return (row.case, row.device, f"{row.reference.release}, {times}", *found)


def cell_words(cell: Cell, since: str = "") -> str:
    """A cell in a few words: verdict, by what, first divergence, speed, since when it differs."""
    parts = [f"{SHORT[cell.code]}{' (bits)' if cell.code == 0 and cell.profile == 'exact' else ''}"]
    if cell.code and cell.first_tap:
        parts.append(f"at {cell.first_tap}")
    if cell.speed_ratio is not None:
        parts.append(f"{cell.speed_ratio:.2f}x")
    if cell.perf and cell.perf != "ok":
        parts.append("speed not judged" if cell.code == 2 else "too slow")
    if cell.same_bits_again is False:
        parts.append("other bits each time")
    if since:
        parts.append(f"since {since[:10]}")
    return ", ".join(parts)


def reasons(grid: Grid) -> list[str]:
    """A sentence for each cell that is no parity and each row that did not end."""
    said = []
    for row in grid.rows:
        if row.state != "done":
            said.append(f"{row.case} on {row.device}: the row {STATES[row.state]}: {row.reason}")
        said += [f"{row.case} on {row.device}, {cell.engine}: {cell.why}" for cell in row.cells if cell.code]
    return said


def notes(grid: Grid) -> list[str]:
    """Notes on what is not in the grid, and why."""
    return [f"left out: {label}, since {variable} is not set" for label, variable in grid.left_out]


def draw_grid(console: Terminal, grid: Grid) -> None:
    """Print the grid, what keeps cells from parity, and the verdict."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"Matrix {grid.name}", title_justify="left")
    for name in columns(grid):
        table.add_column(printable(name), overflow="fold", no_wrap=not console.is_terminal)  # nothing is cut short
    for row in grid.rows:
        texts = cells_of(grid, row)
        codes = [None, None, None, *(code_at(row, name) for name in grid.engines)]
        styles = ["" if code is None else _STYLE[code] for code in codes]
        table.add_row(*(Text(printable(text), style) for text, style in zip(texts, styles, strict=True)))
    width = console.width
    if not console.is_terminal:  # a log is as wide as its lines; a terminal would break them anywhere
        console.width = max(Measurement.get(console, console.options.update(width=10_000), table).maximum, width)
    console.print(table)
    console.width = width
    said = reasons(grid)
    for text in [*notes(grid), *said[:MOST_REASONS]]:
        console.print(Text(printable(text)), soft_wrap=True)
    if (more := len(said) - MOST_REASONS) > 0:
        console.print(f"and {more} more; the page has all")
    console.print(Text(headline(grid), "bold green" if grid.code == 0 else "bold red"))


def grid_markdown(grid: Grid) -> str:
    """The grid as a Markdown summary."""
    table = _markdown_table(columns(grid), [cells_of(grid, row) for row in grid.rows])
    steps = ladder_rows(grid)
    said = reasons(grid)
    listed = [f"- {escaped(text)}" for text in [*notes(grid), *said[:MOST_REASONS]]]
    if (more := len(said) - MOST_REASONS) > 0:
        listed.append(f"- and {more} more; the page has all")
    parts = [
        f"### {escaped(headline(grid))}",
        f"Matrix {escaped(grid.name)}.",
        table,
        *(["#### Ladder", _markdown_table(COLUMNS, steps)] if steps else []),
        *(["\n".join(listed)] if listed else []),
    ]
    return "\n\n".join(parts) + "\n"


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ("---",) * len(heads), *(tuple(map(escaped, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def grid_document(grid: Grid) -> dict[str, Any]:
    """The grid as JSON data."""
    return {
        "schema_version": 1,
        "matrix": grid.name,
        "created_utc": grid.created_utc,
        "exit_code": grid.code,
        "outcome": WORDS[grid.code],
        "engines": list(grid.engines),
        "left_out": [label for label, _ in grid.left_out],
        "rows": [
            {
                "case": row.case,
                "device": row.device,
                "state": row.state,
                "reason": row.reason,
                "exit_code": row.code,
                "took_s": row.took_s,
                "reference": msgspec.to_builtins(row.reference),
                "cells": [
                    {**msgspec.to_builtins(cell), "since": since}
                    for cell, since in zip(row.cells, row.since, strict=True)
                ],
            }
            for row in grid.rows
        ],
    }


def code_at(row: GridRow, engine: str) -> int | None:
    """The code of an engine's cell, 2 where the row did not come to its end; None if the engine was not asked."""
    found = row.cell_of(engine)
    return found[0].code if found else 2 if engine in row.asked else None


def _middle(times_s: Sequence[float]) -> float:
    import statistics

    return statistics.median(times_s)


def row_words(result: RowResult) -> str:
    """A result in a line, for who watches."""
    if result.state != "done":
        return f"{result.place}: {SHORT[2]}, the row {STATES[result.state]}: {result.reason}"
    cells = "; ".join(f"{cell.engine} {cell_words(cell)}" for cell in result.cells)
    return f"{result.place}: {cells} ({result.took_s:.1f} s)"
