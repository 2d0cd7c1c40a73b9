"""Budgets of the benchmarks: printed beside what was measured, never asserted. A slow machine fails no test.

Every ratio is to a peer timed in the same run, a round of the one after a round of the other, since other work on the
machine slows both.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pytest
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class BenchmarkLine:
    """One measured quantity beside its budget."""

    what: str
    measured: str
    ratio: float
    peer: str
    budget: float  # of the ratio


LINES = pytest.StashKey[list[BenchmarkLine]]()


class Note(Protocol):
    """Put a line into the benchmark's extra information and into the table at the end."""

    def __call__(self, *, what: str, measured: str, ratio: float, peer: str, budget: float) -> None:
        """Keep one measured quantity."""


class ByTurns(Protocol):
    """Time some work and a peer by turns, and note the fastest round of the one over that of the other."""

    def __call__(
        self,
        work: Callable[[], Any],
        peer: Callable[[], object],
        *,
        what: str,
        peer_name: str,
        budget: float,
        rounds: int,
        moved_bytes: int = 0,
        share: float = 1.0,
    ) -> Any:
        """Return what `work` returns. The peer does `share` of the work; GB/s are said where bytes are given."""


@pytest.fixture
def note(benchmark: Any, request: pytest.FixtureRequest) -> Note:
    """See `Note`."""

    def keep(*, what: str, measured: str, ratio: float, peer: str, budget: float) -> None:
        benchmark.extra_info.update(measured=measured, ratio=ratio, peer=peer, budget=budget)
        line = BenchmarkLine(what=what, measured=measured, ratio=ratio, peer=peer, budget=budget)
        request.config.stash.setdefault(LINES, []).append(line)

    return keep


@pytest.fixture
def by_turns(benchmark: Any, note: Note) -> ByTurns:
    """See `ByTurns`."""

    def run(
        work: Callable[[], Any],
        peer: Callable[[], object],
        *,
        what: str,
        peer_name: str,
        budget: float,
        rounds: int,
        moved_bytes: int = 0,
        share: float = 1.0,
    ) -> Any:
        peer_s: list[float] = []

        def peer_first() -> None:
            begin = time.perf_counter()
            peer()
            peer_s.append((time.perf_counter() - begin) / share)

        found = benchmark.pedantic(work, setup=peer_first, rounds=rounds, warmup_rounds=1)
        fastest_s = benchmark.stats.stats.min
        measured = f"{moved_bytes / 1e9 / fastest_s:.2f} GB/s" if moved_bytes else f"{fastest_s:.3g} s"
        note(what=what, measured=measured, ratio=fastest_s / min(peer_s), peer=peer_name, budget=budget)
        return found

    return run


def pytest_terminal_summary(config: pytest.Config) -> None:
    """Draw the table."""
    lines = config.stash.get(LINES, [])
    if not lines:
        return
    table = Table("what", "measured", "ratio", "budget", "to", title="Budgets, not limits: nothing fails by them")
    for line in lines:
        mark = "" if line.ratio <= line.budget else "  over"
        table.add_row(line.what, line.measured, f"{line.ratio:.2f}{mark}", f"{line.budget:g}", line.peer)
    Console(width=120).print(table)
