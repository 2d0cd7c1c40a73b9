"""Two whole runs of a case whose golden is reduced: judged by limits as if one of them were that golden."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from parity.cli.app import app
from parity.diff.metric import METRICS
from parity.diff.runs import (
    GoldenSubset,
    RunsDiff,
    compare_runs,
    reduced_alike,
    subset_of,
    subset_of_case,
    subset_of_new,
    subset_phrase,
)
from parity.judge import gate
from parity.judge.gate import compare_as_judged
from parity.judge.limit import exact_limit
from parity.judge.registry import Registry, save_registry
from parity.judge.verdict import Verdict
from parity.runs import golden, reduced
from parity.runs.folder import Run, read_run
from parity.suite.suite import compare_line
from parity.trace.file import read_trace
from runners.errors import RunError

LeaveRun = Callable[..., Path]


@pytest.fixture
def official(checkout: Path, leave_run: LeaveRun) -> Run:
    """A run that is the golden of its case, in a checkout of its own, but not reduced."""
    run = read_run(leave_run("official"))
    golden.bless(run, "first")
    return run


def test_a_case_without_a_golden_or_with_a_whole_one_keeps_nothing(official: Run) -> None:
    assert subset_of_case("micro") is None and subset_of_case("another") is None
    golden.bless(official, "smaller", reduced=True)
    kept = subset_of_case("micro")
    assert kept is not None and kept.box_px == 8
    assert kept.pattern == read_trace(golden.golden_of("micro").folder).pattern


def test_two_whole_runs_get_the_numbers_that_one_gets_against_the_golden(official: Run, leave_run: LeaveRun) -> None:
    golden.bless(official, "smaller", reduced=True)
    hidden = next(tap for tap in read_trace(official.folder) if "/block/01/" in tap)
    moved = read_run(leave_run("moved", first=hidden, error=0.25))
    live = compare_runs(official, moved, subset=subset_of_case("micro"))
    recorded = compare_runs(golden.golden_of("micro"), moved)
    assert live.metrics == recorded.metrics and live.per_frame == recorded.per_frame
    assert live.compared_on == recorded.compared_on == subset_phrase(subset_of_case("micro")) != ""
    assert {finding.code for finding in live.findings} == {"frame_too_small"}  # of small copies of micro frames
    whole = compare_runs(official, moved)
    assert whole.compared_on == ""
    assert live.metrics["taps.bit_different"] == whole.metrics["taps.bit_different"] > 0  # bits are of every tap
    groups = {name for name in whole.metrics if name.startswith("drift.")}
    assert groups <= live.metrics.keys() and all(live.metrics[name] <= whole.metrics[name] for name in groups)
    assert any(live.metrics[name] < whole.metrics[name] for name in groups)  # the worst was at a tap that is not kept


def test_the_boxes_are_those_of_the_golden(official: Run, leave_run: LeaveRun) -> None:
    frames = (5, 128, 192)  # 16 x 24 small pixels in boxes of 8, 8 x 12 in boxes of 16
    one, other = (read_run(leave_run(name, frames=frames, runner=name)) for name in ("first", "native"))
    for box_px in (8, 16):
        old, _ = reduced_alike(one, other, GoldenSubset(box_px=box_px, pattern=None))
        assert old.small_frames.shape == (5, 128 // box_px, 192 // box_px, 3)


def test_what_a_golden_keeps_names_its_boxes_and_its_taps() -> None:
    named = {
        subset_phrase(GoldenSubset(box_px=box_px, pattern=pattern))
        for box_px in (8, 16)
        for pattern in (None, "a", "b")
    }
    assert len(named) == 6 and "boxes of 16 px, taps a" in named and "boxes of 8 px, no taps" in named


@pytest.mark.parametrize("frames", [(5, 24, 40), (5, 24, 1040), (5, 1040, 24)], ids=str)  # a box more for long sides
@pytest.mark.parametrize("blocks", [None, 3], ids=["without taps", "with taps"])
def test_what_a_new_golden_will_keep_is_what_it_keeps(
    official: Run,
    leave_run: LeaveRun,
    frames: tuple[int, int, int],
    blocks: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new = read_run(leave_run("new", frames=frames, blocks=blocks))
    assert subset_of_new(new, reduced=False) is None
    foreseen = subset_of_new(new, reduced=True)
    golden.bless(new, "smaller", reduced=True)
    assert foreseen == subset_of_case("micro") is not None
    monkeypatch.setattr(golden, "LARGEST_WHOLE_BYTES", 1000)
    assert subset_of_new(new, reduced=False) == foreseen  # too large to stay whole
    monkeypatch.setattr(reduced, "kept_taps", lambda plans, last_block: "text/* decode/*")
    thinner = subset_of_new(golden.golden_of("micro"), reduced=False)
    golden.bless(golden.golden_of("micro"), "thinner")
    assert thinner == subset_of_case("micro") and (thinner == foreseen) == (blocks is None)


def test_a_reduced_candidate_says_what_was_compare_as_judged(official: Run) -> None:
    golden.bless(official, "smaller", reduced=True)
    small = golden.golden_of("micro")
    assert compare_runs(official, small).compared_on == subset_phrase(subset_of(small))
    assert compare_as_judged(official, small, profile="exact").compared_on == subset_phrase(subset_of(small))


def test_a_reduced_candidate_is_compared_on_what_it_holds_and_not_on_what_its_golden_keeps_since(
    official: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden.bless(official, "smaller", reduced=True)
    small = read_run(shutil.copytree(golden.golden_of("micro").folder, tmp_path / "small"))
    monkeypatch.setattr(reduced, "kept_taps", lambda plans, last_block: "text/* decode/*")
    golden.bless(golden.golden_of("micro"), "thinner")
    found = compare_as_judged(official, small, profile="limits")
    assert found.compared_on == subset_phrase(subset_of(small)) != subset_phrase(subset_of_case("micro"))


def test_where_bits_decide_a_golden_that_is_damaged_does_not_matter(official: Run, leave_run: LeaveRun) -> None:
    golden.bless(official, "smaller", reduced=True)
    exact = read_run(leave_run("exact", runner="native"))
    small = golden.golden_of("micro")
    (small.folder / "trace.safetensors").write_bytes(b"")
    assert (
        compare_as_judged(official, exact).compared_on
        == compare_as_judged(official, exact, profile="exact").compared_on
        == ""
    )
    with pytest.raises(RunError):
        compare_as_judged(official, exact, profile="limits")


def test_bits_are_judged_on_everything_and_limits_on_what_the_golden_keeps(official: Run, leave_run: LeaveRun) -> None:
    exact, fast = (read_run(leave_run(tier, runner="native", tier=tier)) for tier in ("exact", "fast"))
    assert "small_psnr_db" not in compare_as_judged(official, fast).per_frame  # the golden is whole
    golden.bless(official, "smaller", reduced=True)
    assert "small_psnr_db" not in compare_as_judged(official, exact).per_frame
    assert "small_psnr_db" in compare_as_judged(official, exact, profile="limits").per_frame
    found = compare_as_judged(official, fast)
    assert "small_psnr_db" in found.per_frame and "frames.flicker.max" not in found.metrics
    recorded = golden.golden_of("micro")
    assert compare_as_judged(recorded, fast).metrics == found.metrics  # as against the golden itself


def test_isolated_errors_are_judged_by_limits_too(
    official: Run, leave_run: LeaveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden.bless(official, "smaller", reduced=True)
    seen: list[tuple[Path | None, bool]] = []

    def seeing(
        reference: Run, candidate: Run, isolated: Path | None = None, *, subset: GoldenSubset | None = None
    ) -> RunsDiff:
        seen.append((isolated, subset is None))
        return compare_runs(reference, candidate, subset=subset)

    monkeypatch.setattr(gate, "compare_runs", seeing)
    compare_as_judged(official, read_run(leave_run("fast", runner="native", tier="fast")), Path("isolated.json"))
    assert seen == [(Path("isolated.json"), False)]  # limits decide, so nothing else is compared
    seen.clear()
    elsewhere = leave_run("elsewhere", runner="native", environment={"torch": "2.12.0"}, first="init/video", error=0.5)
    compare_as_judged(official, read_run(elsewhere), Path("isolated.json"))
    assert seen == [(Path("isolated.json"), True), (Path("isolated.json"), False)]  # bits first, which might be equal
    seen.clear()
    compare_as_judged(official, read_run(leave_run("exact", runner="native")), Path("isolated.json"))
    assert seen == [(Path("isolated.json"), True)]


@pytest.fixture
def fast(official: Run, leave_run: LeaveRun, tmp_path: Path) -> Run:
    """A run that limits judge; there is one, and none for flicker, which key frames do not have."""
    golden.bless(official, "smaller", reduced=True)
    wanted = "frames.count.difference"
    unjudged = {name: "not in this test" for name in METRICS if name != wanted and not name.startswith("frames.flick")}
    registry = Registry(defaults={wanted: exact_limit(METRICS[wanted])}, unjudged=unjudged)
    save_registry(tmp_path / "thresholds" / "consistency_threshold.json", registry)
    return read_run(leave_run("fast", runner="native", tier="fast"))


def invoke(*arguments: object) -> str:
    return CliRunner().invoke(app, [str(argument) for argument in arguments]).output


def test_every_verb_that_judges_takes_the_numbers_that_limits_hold_for(
    official: Run, fast: Run, tmp_path: Path
) -> None:
    said = invoke("gate", fast.folder, "--against", official.folder)
    assert "judged by limits on outputs" in said and "Registry entry missing" not in said
    assert isinstance(compare_line("live", official, fast).verdict, Verdict)
    numbers, page = tmp_path / "numbers.json", tmp_path / "page.html"
    assert "small_frames.flicker.max" in invoke("diff", official.folder, fast.folder, "--as-judged", "--out", numbers)
    said = invoke("gate", numbers, "--numbers")
    assert "judged by limits on outputs" in said and "Registry entry missing" not in said
    assert "undecided" in invoke("report", fast.folder, "--against", official.folder, "--out", page)
    assert "the numbers below are of small copies" in page.read_text()


def test_runs_can_be_looked_at_where_the_golden_is_damaged(official: Run, fast: Run, tmp_path: Path) -> None:
    (tmp_path / "golden" / "micro" / "case.toml").write_text("# edited")
    assert "is not the case its golden was recorded for" in invoke("gate", fast.folder, "--against", official.folder)
    assert "all bits equal" in invoke("diff", official.folder, fast.folder)
    page = tmp_path / "page.html"
    invoke("report", fast.folder, "--against", official.folder, "--out", page)
    assert "is not the case its golden was recorded for" in page.read_text()
