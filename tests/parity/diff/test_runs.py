"""Two whole runs of a case whose golden is reduced: judged by limits as if one of them were that golden."""

from collections.abc import Callable
from pathlib import Path

import pytest

from parity.cli.gate import compared
from parity.diff.runs import compare_runs, kept_of_case
from parity.trace import golden
from parity.trace.bundle import Run, read_run
from parity.trace.store import ENVIRONMENT_VARIABLE
from parity.trace.trace_file import read_trace

LeaveRun = Callable[..., Path]


@pytest.fixture
def official(tmp_path: Path, micro_case_text: str, monkeypatch: pytest.MonkeyPatch, leave_run: LeaveRun) -> Run:
    """A run that is the golden of its case, in a checkout of its own, but not reduced."""
    folder = tmp_path / "golden" / "micro"
    folder.mkdir(parents=True)
    (folder / "case.toml").write_text(micro_case_text)
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "store"))
    run = read_run(leave_run("official"))
    golden.bless(run, "first")
    return run


def test_a_case_without_a_golden_or_with_a_whole_one_keeps_nothing(official: Run) -> None:
    assert kept_of_case("micro") is None and kept_of_case("another") is None
    golden.bless(official, "smaller", reduced=True)
    kept = kept_of_case("micro")
    assert kept is not None and kept.box_px == 8
    assert kept.pattern == read_trace(golden.golden_of("micro").folder).pattern


def test_two_whole_runs_get_the_numbers_that_one_gets_against_the_golden(official: Run, leave_run: LeaveRun) -> None:
    golden.bless(official, "smaller", reduced=True)
    hidden = next(tap for tap in read_trace(official.folder) if "/block/01/" in tap)
    moved = read_run(leave_run("moved", first=hidden, error=0.25))
    live = compare_runs(official, moved, kept=kept_of_case("micro"))
    recorded = compare_runs(golden.golden_of("micro"), moved)
    assert live.metrics == recorded.metrics and live.per_frame == recorded.per_frame
    assert {finding.code for finding in live.findings} == {"frame_too_small"}  # of small copies of micro frames
    whole = compare_runs(official, moved)
    assert live.metrics["taps.bit_different"] == whole.metrics["taps.bit_different"] > 0  # bits are of every tap
    groups = {name for name in whole.metrics if name.startswith("drift.")}
    assert groups <= live.metrics.keys() and all(live.metrics[name] <= whole.metrics[name] for name in groups)
    assert any(live.metrics[name] < whole.metrics[name] for name in groups)  # the worst was at a tap that is not kept


def test_bits_are_judged_on_everything_and_limits_on_what_the_golden_keeps(official: Run, leave_run: LeaveRun) -> None:
    exact, fast = (read_run(leave_run(tier, runner="native", tier=tier)) for tier in ("exact", "fast"))
    assert "small_psnr_db" not in compared(official, fast).per_frame  # the golden is whole
    golden.bless(official, "smaller", reduced=True)
    assert "small_psnr_db" not in compared(official, exact).per_frame
    assert "small_psnr_db" in compared(official, exact, profile="limits").per_frame
    found = compared(official, fast)
    assert "small_psnr_db" in found.per_frame and "frames.flicker.max" not in found.metrics
