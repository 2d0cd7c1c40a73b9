"""Budgets of the benchmarks: printed beside what was measured, never asserted. A slow machine fails no test.

Every ratio is to a peer timed in the same run, a round of the one after a round of the other, since other work on the
machine slows both.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

LINES = pytest.StashKey[list[tuple[str, str, float, str, float]]]()


@pytest.fixture
def note(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Puts one measured quantity beside its budget, into the benchmark's extra information and the table at the end."""

    def keep(*, what: str, measured: str, ratio: float, peer: str, budget: float) -> None:
        benchmark.extra_info.update(measured=measured, ratio=ratio, peer=peer, budget=budget)
        request.config.stash.setdefault(LINES, []).append((what, measured, ratio, peer, budget))

    return keep


@pytest.fixture
def by_turns(benchmark: Any, note: Callable[..., None]) -> Callable[..., Any]:
    """Times some work and a peer by turns, notes the fastest round of the one over that of the other.

    Returns what the work returns. The peer does `share` of the work; GB/s are said where bytes are given.
    """

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
    for what, measured, ratio, peer, budget in lines:
        table.add_row(what, measured, f"{ratio:.2f}{'' if ratio <= budget else '  over'}", f"{budget:g}", peer)
    Console(width=120).print(table)
