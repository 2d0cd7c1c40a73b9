"""The drift map for a terminal: relative L2 of every block over steps and passes, one character a cell.

A row is a step, a column a block. Darkness is the logarithm of the error: a blank is equal bits, `.` below 1e-6, and
each further mark another factor of ten up to `@` from 1 on; `-` is no number: no such tap, or not to be computed.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final

from parity.diff.traces import DriftGrid
from parity.report.terminal import Terminal

MARKS: Final = ".:=+*%#@"  # below 1e-6, from 1e-6, 1e-5, ... from 1
LOWEST_DECADE: Final = -6
LEGEND: Final = "blank: equal bits   .: <1e-6   then a mark a decade, : = + * % #   @: >= 1   -: no number"


def draw_drift(console: Terminal, grids: Sequence[DriftGrid], part: str = "out") -> None:
    """Draw the grids of one part of the block, for every pass and stream."""
    console.print(f"relative L2 of {part}; rows are steps, columns are blocks. {LEGEND}")
    for grid in (grid for grid in grids if grid.part == part):
        worst = max((value for row in grid.values for value in row if not math.isnan(value)), default=math.nan)
        console.print(f"{grid.guidance_pass}, {grid.stream} (worst {worst:.2g})")
        for line in drift_lines(grid):
            console.print(line)


def drift_lines(grid: DriftGrid) -> Iterable[str]:
    """One line a step: its number, then one mark a block."""
    for step, row in enumerate(grid.values):
        yield f"{step:4d} |{''.join(mark(value) for value in row)}|"


def mark(error: float) -> str:
    """The character for an error."""
    if math.isnan(error):
        return "-"
    if error == 0:
        return " "
    if math.isinf(error):
        return "@"
    decade = math.floor(math.log10(error)) - LOWEST_DECADE + 1
    return MARKS[min(max(decade, 0), len(MARKS) - 1)]
