"""In which order rows are handed out, and how long each may take: the longest first, by times that were recorded.

A row is expected to take as long as it took the last time; else as long as the baselines of its case say its runs take
together, and what comes around them; else nothing is known, and it goes first, since it may be the longest.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Final

from parity.fleet.row import Row
from parity.judge.perf import PerfRegistry
from runners.catalogue import runner_and_tier

AROUND: Final = 3.0  # times the runs themselves: weights, comparison, page, store
AROUND_S: Final = 30.0  # of the same whatever the size: imports, interpreters
FACTOR: Final = 6.0  # times what a row is expected to take, before it counts as hung: boxes are not alike
LEAST_LIMIT_S: Final = 300.0
UNKNOWN_LIMIT_S: Final = 4 * 3600.0


def expected_s(row: Row, recorded: Mapping[str, float], baselines: PerfRegistry) -> float | None:
    """Seconds that a row will take, by its last time or by baselines; None if nothing is known.

    Args:
        row: to be run.
        recorded: seconds that rows took the last time, by `Row.place`.
        baselines: end-to-end times of runs, on whatever machine: the slowest counts.
    """
    if (last := recorded.get(row.place)) is not None:
        return last
    slowest: dict[tuple[str, str], float] = {}
    for entry in baselines.baselines:
        if entry.case == row.case_id and (entry.machine.device == "cpu") == (row.device.device == "cpu"):
            middle = statistics.median(run.end_to_end_s for run in entry.runs)
            of = entry.runner, entry.tier
            slowest[of] = max(middle, slowest.get(of, 0.0))
    runs = [("official", "exact"), *(runner_and_tier(one.runner) for one in row.engines)]
    known = [slowest[one] for one in runs if one in slowest]
    if not known:
        return None
    unknown = (len(runs) - len(known)) * max(known)  # such as engines of one's own
    return AROUND_S + AROUND * row.repeats * (sum(known) + unknown)


def limit_s(expected: float | None, unknown_s: float | None = None) -> float:
    """Seconds after which a row counts as hung.

    Args:
        expected: seconds that it will take, None if nothing is known.
        unknown_s: that it may take then; None is four hours.
    """
    if expected is None:
        return UNKNOWN_LIMIT_S if unknown_s is None else unknown_s
    return max(LEAST_LIMIT_S, FACTOR * expected)


def longest_first(rows: Iterable[tuple[Row, float | None]]) -> list[Row]:
    """Rows by the time that each will take, longest first; unknown ones before all, and equal ones as they came."""
    return [row for row, _ in sorted(rows, key=lambda one: -(math.inf if one[1] is None else one[1]))]
