"""Order and limits of rows, worked out by hand."""

from typing import Any

from parity.fleet.matrix_file import DeviceEntry
from parity.fleet.row import EngineOfRow, Row
from parity.fleet.schedule import LEAST_LIMIT_S, UNKNOWN_LIMIT_S, expected_s, limit_s, longest_first
from parity.judge.perf import Baseline, Machine, PerfRegistry, Times


def row(case: str, *engines: str, device: str = "cpu", repeats: int = 1) -> Row:
    made: dict[str, Any] = {"isolate": False, "perf": False, "taps": "*", "reports": "all", "code": "c"}
    return Row(
        case={"id": case},
        pictures={},
        weights="forge:tiny:0",
        device=DeviceEntry(name="d", device=device),  # type: ignore[arg-type]
        official=None,
        engines=tuple(EngineOfRow(label=name, runner=name) for name in engines),
        repeats=repeats,
        **made,
    )


def baseline(runner: str, seconds: float, device: str = "cpu") -> Baseline:
    return Baseline(
        case="a",
        runner=runner,
        tier="exact",
        machine=Machine(device=device, driver="" if device == "cpu" else "580.1", cpu="x", threads=1, torch="2"),
        work={},
        runs=(Times(end_to_end_s=seconds, stage_s={}, step_s=(), peak_bytes=1),),
        warmup_runs=0,
        date="2026-01-02",
        command="",
        code_version="",
        reason="first",
    )


REGISTRY = PerfRegistry(
    baselines=(baseline("official", 20.0), baseline("native", 10.0), baseline("official", 50.0, "NVIDIA H200"))
)


def test_a_row_takes_as_long_as_the_last_time() -> None:
    assert expected_s(row("a", "native"), {"a@d": 7.5}, REGISTRY) == 7.5


def test_a_row_that_was_never_run_takes_what_baselines_say() -> None:
    assert expected_s(row("a", "native"), {}, REGISTRY) == 30 + 3 * (20 + 10)
    assert expected_s(row("a", "native", repeats=4), {}, REGISTRY) == 30 + 3 * 4 * (20 + 10)
    assert expected_s(row("a", "native", "e.py:E"), {}, REGISTRY) == 30 + 3 * (20 + 10 + 20), "as slow as the slowest"
    assert expected_s(row("a", "native", device="cuda"), {}, REGISTRY) == 30 + 3 * (50 + 50)
    assert expected_s(row("b", "native"), {"a@d": 7.5}, REGISTRY) is None


def test_limits_are_a_few_times_what_is_expected() -> None:
    assert limit_s(1.0) == LEAST_LIMIT_S == 300
    assert limit_s(120.0) == 720
    assert limit_s(None) == UNKNOWN_LIMIT_S and limit_s(None, 90.0) == 90


def test_the_longest_goes_first_and_the_unknown_before_it() -> None:
    a, b, c, d = (row(name) for name in "abcd")
    assert longest_first([(a, 1.0), (b, None), (c, 9.0), (d, 9.0)]) == [b, c, d, a]
