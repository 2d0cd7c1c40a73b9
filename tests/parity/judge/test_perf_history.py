"""The history of speed: lines that are added, read back in order, and refused by file and line."""

from pathlib import Path

import msgspec
import pytest

from parity.judge.perf import Machine, Times
from parity.judge.perf_history import curves, history_line, keep_history, read_history
from parity.judge.timed import TimedRun, Tolerance, busy_with_others, compare_timed
from runners.errors import RegistryError


def timed(end_to_end_s: float, runner: str = "native", trace: str = "no taps", cpu: str = "x") -> TimedRun:
    return TimedRun(
        case="micro",
        runner=runner,
        tier="exact",
        machine=Machine(device="cpu", driver="", cpu=cpu, threads=1, torch="2.13"),
        work={"weights": "ab", "trace": trace},
        times=Times(end_to_end_s=end_to_end_s, stage_s={"denoising": 2.0}, step_s=(1.0, 1.0), peak_bytes=1 << 30),
    )


def test_lines_are_added_and_come_back_oldest_first(tmp_path: Path) -> None:
    path = tmp_path / "thresholds" / "perf_history.jsonl"
    assert read_history(path) == ()
    later = history_line([timed(4.0), timed(6.0), timed(4.5)], "code2", baseline=True)
    earlier = msgspec.structs.replace(later, created_utc="2026-01-02T03:04:05+00:00", code_version="code1")
    keep_history(path, [later])
    keep_history(path, [earlier, history_line([timed(9.0, trace="taps recorded")], "code2", baseline=False)])
    assert path.read_text().count("\n") == 3
    found = read_history(path)
    assert found[0] == earlier and found[0].code_version == "code1"
    assert found[0].median() == 4.5 and found[0].median("step.first") == 1.0 and found[0].median("stage.x") is None
    assert sorted(len(lines) for lines in curves(found).values()) == [1, 2]  # with taps is another curve


@pytest.mark.parametrize("damage", ["{", '{"kind": 3}', "[]", '{"schema_version": 2}'])
def test_a_line_that_is_none_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "perf_history.jsonl"
    keep_history(path, [history_line([timed(4.0)], "c", baseline=True)])
    path.write_text(path.read_text() + "\n" + damage + "\n")
    with pytest.raises(RegistryError, match=r"perf_history\.jsonl:3"):
        read_history(path)


@pytest.mark.parametrize(
    ("after_s", "tolerance", "outcome"),
    [
        (4.19, Tolerance(), "ok"),  # 5 % of 4 s are 0.2 s
        (4.21, Tolerance(), "slower"),
        (4.39, Tolerance(percent=10.0), "ok"),
        (4.41, Tolerance(percent=10.0), "slower"),
        (4.29, Tolerance(percent=0.0, abs_s=0.3), "ok"),
        (4.31, Tolerance(percent=0.0, abs_s=0.3), "slower"),
        (1.0, Tolerance(), "ok"),  # faster is fine
    ],
)
def test_runs_are_held_to_others_by_the_tolerance_asked_for(after_s: float, tolerance: Tolerance, outcome: str) -> None:
    assert compare_timed([timed(4.0)], [timed(after_s)], tolerance).outcome == outcome


def test_another_runner_may_be_compared_and_another_machine_may_not() -> None:
    found = compare_timed([timed(4.0, "official")] * 3, [timed(3.0, trace="taps recorded")] * 3, Tolerance())
    assert found.outcome == "ok"
    assert {"runner: official -> native", "trace: no taps -> taps recorded"} <= set(found.notes)
    assert found.title == "micro / native / exact on cpu against official / exact"
    assert compare_timed([timed(4.0)], [timed(4.0, cpu="y")], Tolerance()).outcome == "not_comparable"


@pytest.mark.parametrize(
    ("load", "threads", "cores", "busy"),
    [
        (1.0, 1, 2, False),
        (1.4, 1, 2, False),
        (1.6, 1, 2, True),
        (9.0, 4, 16, True),
        (8.0, 4, 16, False),
        (2.1, 8, 2, False),
    ],
)
def test_others_on_the_machine_are_told_by_load_against_cores(
    load: float, threads: int, cores: int, busy: bool
) -> None:
    assert busy_with_others(load, threads, cores) is busy
