"""Levels of evidence that two runs give, the reason that a missing one is put down to, and who owes it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from parity.diff.runs import GoldenSubset, RunsDiff, compare_runs, numbers_of
from parity.diff.traces import OmittedTaps, SideName
from parity.runs.folder import read_run
from parity.runs.reduced import kept_taps
from parity.taps.pattern import chosen
from parity.trace.file import read_trace
from runners.errors import RunError

LeaveRun = Callable[..., Path]
PARTS = (("init", ""), ("latent", ".first_step"), ("latent", ".first_half"))


def compared(reference: Path, candidate: Path) -> RunsDiff:
    return compare_runs(read_run(reference), read_run(candidate))


def test_two_traces_give_the_worst_error_of_each_group(leave_run: LeaveRun) -> None:
    first = "denoise/001/cond/block/01/video/ff"
    found = compared(leave_run("official"), leave_run("mine", runner="native", first=first, error=0.5))
    assert found.levels["drift"].measured and found.levels["outputs"].measured
    assert not found.levels["isolated"].measured and not found.levels["isolated"].owed
    assert found.metrics["drift.text"] == 0 and found.metrics["drift.block.video.ff.first_step"] == 0
    assert found.metrics["drift.block.video.ff.first_half"] == pytest.approx(0.5, rel=0.05)
    assert found.metrics["drift.latent.video.first_half"] == pytest.approx(0.5, rel=0.05)


def test_a_runner_that_offers_taps_owes_its_trace_and_one_without_internals_does_not(leave_run: LeaveRun) -> None:
    official = leave_run("official")
    level = compared(official, leave_run("native", runner="native", blocks=None)).levels["drift"]
    assert (level.measured, level.owed) == (False, True) and "its run has no trace" in level.why
    level = compared(official, leave_run("engine", runner="engine", blocks=None)).levels["drift"]
    assert (level.measured, level.owed) == (False, False) and "offers no internals" in level.why
    level = compared(official, leave_run("open", runner="engine", blocks=None, details={"taps_offered": ["*"]})).levels[
        "drift"
    ]
    assert level.owed


def test_a_reference_without_a_trace_is_not_the_candidates_fault(leave_run: LeaveRun) -> None:
    level = compared(leave_run("official", blocks=None), leave_run("native", runner="native")).levels["drift"]
    assert (level.measured, level.owed) == (False, False) and "the reference has no trace" in level.why


def test_a_trace_of_a_pattern_that_leaves_groups_out_is_no_drift(leave_run: LeaveRun) -> None:
    narrow = leave_run("narrow", runner="native", pattern="denoise/* text/* connector/* init/*")
    level = compared(leave_run("official"), narrow).levels["drift"]
    assert (level.measured, level.owed) == (False, True) and "leaves out decode.frames" in level.why


def test_taps_that_limits_were_not_measured_on_do_not_stand_for_their_group(leave_run: LeaveRun) -> None:
    inner = "text/* connector/* image/* init/* decode/* denoise/*/x0/* denoise/*/guided/* denoise/*/latent/*"
    official, native = (
        read_run(leave_run(runner, runner=runner, pattern=f"{inner} denoise/*/block/01/*"))
        for runner in ("official", "native")
    )
    assert compare_runs(official, native).levels["drift"].measured
    subset = GoldenSubset(box_px=8, pattern=f"{inner} denoise/*/block/00/*")
    level = compare_runs(official, native, subset=subset).levels["drift"]
    assert (level.measured, level.owed) == (False, True) and "leaves out block." in level.why


def test_fewer_taps_than_the_case_has_are_counted(leave_run: LeaveRun) -> None:
    official = leave_run("official")
    kept = kept_taps(read_run(official).case.plans, 2)  # of three blocks without the middle one
    assert compared(official, leave_run("all", runner="native")).levels["drift"].why == ""
    level = compared(official, leave_run("some", runner="native", pattern=kept)).levels["drift"]
    assert level.measured
    some, of_all = (int(word) for word in level.why.split(" taps")[0].split(" of "))
    assert of_all == len(read_trace(official)) and some == sum(chosen(tap, kept) for tap in read_trace(official))
    assert some < of_all


def test_a_runner_that_offers_some_taps_is_judged_by_the_groups_of_those(leave_run: LeaveRun) -> None:
    offered = {"details": {"taps_offered": ["init/*", "denoise/*/latent/*"]}}
    some = leave_run("some", runner="engine", pattern="init/* denoise/*/latent/*", **offered)
    found = compared(leave_run("official"), some)
    assert found.findings == () and found.levels["drift"].measured
    assert "drift.text" in found.levels["drift"].without and "drift.image" not in found.levels["drift"].without
    groups = {name for name in found.metrics if name.startswith("drift.")}
    assert groups == {f"drift.{part}.{stream}{steps}" for stream in ("video", "audio") for part, steps in PARTS}
    fewer = compared(leave_run("again"), leave_run("fewer", runner="engine", pattern="init/*", **offered))
    assert fewer.levels["drift"].owed and "latent.video.first_step" in fewer.levels["drift"].why


def test_text_that_holds_padding_on_either_side_is_not_measured_and_nobody_owes_it(leave_run: LeaveRun) -> None:
    old, new = leave_run("old", padded_text=True), leave_run("new", runner="native")
    whole = compared(leave_run("official"), new)
    assert whole.levels["drift"].left_out == () and whole.left_out.taps == () and "drift.text" in whole.metrics
    sides: tuple[tuple[Path, Path, tuple[SideName, ...]], ...] = (
        (old, new, ("reference",)),
        (new, old, ("candidate",)),
        (old, old, ("reference", "candidate")),
    )
    for reference, candidate, padded in sides:
        found = compared(reference, candidate)
        level = found.levels["drift"]
        assert (level.measured, level.owed, level.without, level.left_out) == (True, False, (), ("drift.text",))
        assert found.left_out == OmittedTaps(taps=("text/pos/hidden", "text/neg/hidden"), padded=padded)
        count = len(read_trace(new))
        assert level.why.startswith(f"{count - 2} of {count} taps were compared; text/pos/hidden and text/neg/hidden ")
        assert set(whole.metrics) - set(found.metrics) == {"drift.text"}
        alone = ["same_run"] if reference == candidate else []
        owed = ["missing_trace"] * 2 if padded == ("candidate",) else alone
        assert [one.code for one in found.findings] == owed, "an old reference excuses it, an old candidate does not"
        assert numbers_of(found.document(), "x") == found


def test_a_candidate_that_offers_text_alone_has_no_drift_beside_a_golden_with_padding(leave_run: LeaveRun) -> None:
    offered = {"details": {"taps_offered": ["text/*"]}}
    some = leave_run("some", runner="engine", pattern="text/*", **offered)
    level = compared(leave_run("old", padded_text=True), some).levels["drift"]
    assert (level.measured, level.owed) == (False, False) and "still held padding" in level.why
    assert compared(leave_run("new"), some).levels["drift"].measured


def test_a_pattern_without_text_leaves_nothing_out(leave_run: LeaveRun) -> None:
    old = leave_run("old", padded_text=True)
    found = compared(old, leave_run("new", runner="native", pattern="init/* denoise/*"))
    assert found.left_out.taps == () and found.levels["drift"].owed, "it could have recorded text"


def test_the_official_code_is_not_isolated_from_itself(leave_run: LeaveRun) -> None:
    level = compared(leave_run("official"), leave_run("again")).levels["isolated"]
    assert "what isolation compares with" in level.why


def test_levels_are_saved_with_the_numbers_and_older_numbers_are_of_outputs(leave_run: LeaveRun) -> None:
    found = compared(leave_run("official"), leave_run("native", runner="native"))
    document = found.document()
    assert numbers_of(document, "x") == found
    del document["levels"]
    assert not numbers_of(document, "x").levels["drift"].measured
    with pytest.raises(RunError, match="form of saved numbers"):
        numbers_of({**document, "levels": {"drift": 3}}, "x")
