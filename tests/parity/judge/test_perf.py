"""Speed against a baseline: both tolerances, one side, the same machine, and no loosening without a reason."""

import json
import math
from pathlib import Path

import msgspec
import pytest

from parity.judge.perf import (
    Baseline,
    Machine,
    PerfRegistry,
    PerfRow,
    PerfVerdict,
    Times,
    TimeSubject,
    judge_perf,
    load_perf_registry,
    median_difference_interval,
    save_perf_registry,
    update_baseline,
)
from runners.errors import RegistryError

H100 = Machine(device="NVIDIA H100 80GB HBM3", driver="570.86.15", cpu="Xeon", threads=16, torch="2.13.0")
CPU = Machine(device="cpu", driver="", cpu="Xeon", threads=2, torch="2.13.0")
WORK = {"weights": "abc", "dtype": "bf16"}


def times(scale: float = 1.0, **changes: object) -> Times:
    """End to end 10 s, denoising 8 s, decoding 0.02 s, three steps, 1 GB."""
    took = Times(
        end_to_end_s=10.0 * scale,
        stage_s={"load": 1.0, "denoising": 8.0 * scale, "video_decoding": 0.02},
        step_s=(4.0 * scale, 2.0 * scale, 2.0 * scale),
        peak_bytes=10**9,
    )
    return msgspec.structs.replace(took, **changes)


def baseline(*runs: Times, **changes: object) -> Baseline:
    entry = Baseline(
        case="astronaut",
        runner="native",
        tier="fast",
        machine=H100,
        work=WORK,
        runs=runs or (times(0.99), times(1.0), times(1.01)),
        warmup_runs=1,
        tolerance_percent=5.0,
        tolerance_abs_s=0.05,
        memory_tolerance_percent=2.0,
        memory_tolerance_bytes=1000,
        date="2026-11-23",
        command="parity perf",
        code_version="abc",
        reason="first",
    )
    return msgspec.structs.replace(entry, **changes)


def judged(
    *runs: Times, entry: Baseline | None = None, machine: Machine = H100, work: dict[str, str] = WORK
) -> PerfVerdict:
    return judge_perf(
        PerfRegistry(baselines=(entry or baseline(),)),
        TimeSubject(case="astronaut", runner="native", tier="fast", machine=machine, work=work),
        runs,
    )


def row(verdict: PerfVerdict, quantity: str) -> PerfRow:
    return next(row for row in verdict.rows if row.quantity == quantity)


def test_within_the_percentage_passes_and_beyond_it_fails() -> None:
    ok = judged(times(1.04), times(1.04), times(1.04))
    assert (ok.outcome, ok.exit_code) == ("ok", 0)
    slow = judged(times(1.06), times(1.06), times(1.06))
    assert (slow.outcome, slow.exit_code) == ("slower", 1)
    end = row(slow, "end_to_end")
    assert (end.baseline, end.allowed) == (10.0, 10.5)
    assert end.value == pytest.approx(10.6)
    assert end.change_percent == pytest.approx(6.0)
    assert end.interval is not None and end.interval[0] == pytest.approx(0.5)  # 10.6 - 10.1, the slowest baseline run


def test_faster_is_fine() -> None:
    assert judged(times(0.2), times(0.2), times(0.2)).outcome == "ok"


def test_the_absolute_tolerance_protects_what_is_short() -> None:
    triple = {"load": 1.0, "denoising": 8.0, "video_decoding": 0.06}  # three times 0.02 s, yet 0.04 s more
    assert judged(*[times(stage_s=triple)] * 3).outcome == "ok"
    longer = {**triple, "video_decoding": 0.08}
    verdict = judged(*[times(stage_s=longer)] * 3)
    assert [r.quantity for r in verdict.rows if r.outcome == "slower"] == ["stage.video_decoding"]


def test_steps_are_judged_first_and_later_apart() -> None:
    first = judged(*[times(step_s=(5.0, 2.0, 2.0))] * 3)
    assert [r.quantity for r in first.rows if r.outcome == "slower"] == ["step.first"]
    later = judged(*[times(step_s=(4.0, 2.2, 2.2))] * 3)
    assert [r.quantity for r in later.rows if r.outcome == "slower"] == ["step.median_of_later"]


def test_memory_has_its_own_tolerances() -> None:
    assert judged(*[times(peak_bytes=1_019_000_000)] * 3).outcome == "ok"
    more = judged(*[times(peak_bytes=1_021_000_000)] * 3)
    assert (row(more, "peak_memory").outcome, row(more, "peak_memory").unit) == ("slower", "bytes")


def test_loading_is_shown_but_not_judged() -> None:
    verdict = judged(*[times(stage_s={"load": 99.0, "denoising": 8.0, "video_decoding": 0.02})] * 3)
    assert (verdict.outcome, row(verdict, "stage.load").outcome) == ("ok", "unjudged")


def test_noise_that_hides_the_answer_is_inconclusive_and_not_a_pass() -> None:
    noisy = baseline(times(0.9), times(1.0), times(1.3))
    verdict = judged(times(0.95), times(1.07), times(1.1), entry=noisy)
    assert (verdict.outcome, verdict.exit_code) == ("inconclusive", 2)
    assert row(verdict, "end_to_end").outcome == "inconclusive"


def test_few_runs_are_judged_by_the_tolerances_alone_and_say_so() -> None:
    verdict = judged(times(1.2))
    assert (verdict.outcome, row(verdict, "end_to_end").interval) == ("slower", None)
    assert any("3 baseline runs and 1 runs now" in note for note in verdict.notes)


def test_a_stage_that_is_missing_or_new_fails() -> None:
    missing = judged(*[times(stage_s={"load": 1.0, "denoising": 8.0})] * 3)
    assert (missing.exit_code, row(missing, "stage.video_decoding").outcome) == (1, "missing")
    new = judged(*[times(stage_s={"load": 1.0, "denoising": 8.0, "video_decoding": 0.02, "upscaling": 0.0})] * 3)
    assert (new.exit_code, row(new, "stage.upscaling").outcome) == (1, "unmatched")


def test_another_machine_driver_or_work_is_not_comparable() -> None:
    for machine, work, message in (
        (msgspec.structs.replace(H100, device="NVIDIA H200"), WORK, "device: NVIDIA H100 80GB HBM3 -> NVIDIA H200"),
        (msgspec.structs.replace(H100, driver="580.1"), WORK, "driver family: 570 -> 580"),
        (H100, {**WORK, "dtype": "fp32"}, "dtype: bf16 -> fp32"),
    ):
        verdict = judged(times(), machine=machine, work=work)
        assert (verdict.outcome, verdict.exit_code) == ("not_comparable", 2)
        assert message in verdict.reason
    assert judged(times(step_s=(1.0, 1.0))).outcome == "not_comparable"
    on_cpu = baseline(machine=CPU)
    assert judged(times(), entry=on_cpu, machine=msgspec.structs.replace(CPU, threads=4)).outcome == "not_comparable"


def test_what_may_differ_on_the_same_machine() -> None:
    verdict = judged(*[times()] * 3, machine=msgspec.structs.replace(H100, driver="570.99", torch="2.14.0", threads=8))
    assert (verdict.outcome, verdict.notes) == ("ok", ("torch 2.13.0 -> 2.14.0",))


def test_nothing_to_compare_with_cannot_be_judged() -> None:
    with pytest.raises(RegistryError, match="No baseline of astronaut"):
        judge_perf(
            PerfRegistry(),
            TimeSubject(case="astronaut", runner="native", tier="fast", machine=H100, work=WORK),
            [times()],
        )
    with pytest.raises(RegistryError, match="No run of astronaut"):
        judged()


def test_the_interval_is_the_same_every_time_and_covers_the_difference() -> None:
    before, now = [1.0, 1.1, 1.2, 1.3], [2.0, 2.1, 2.2]
    interval = median_difference_interval(before, now)
    assert interval is not None and interval[0] < 0.95 < interval[1]  # 2.1 - 1.15
    assert interval[0] >= 2.0 - 1.3 and interval[1] <= 2.2 - 1.0
    assert median_difference_interval(before[:2], now) is None
    many = [1.0 + index**1.7 / 100 for index in range(40)]
    assert len({median_difference_interval(many, many[::-1]) for _ in range(3)}) == 1


def test_slower_or_laxer_baselines_need_a_reason() -> None:
    registry = PerfRegistry(baselines=(baseline(),))
    for slacker in (
        baseline(times(1.02)),
        baseline(tolerance_percent=6.0),
        baseline(times(stage_s={"load": 1.0, "denoising": 8.0})),
    ):
        with pytest.raises(RegistryError, match="--reason"):
            update_baseline(registry, slacker, "  ")
        updated, _ = update_baseline(registry, slacker, "guidance in fp32")
        assert [entry.reason for entry in updated.baselines] == ["loosened: guidance in fp32"]
    faster, changes = update_baseline(registry, baseline(times(0.5)), None)
    assert [entry.runs for entry in faster.baselines] == [(times(0.5),)]
    assert next(c for c in changes if c.quantity == "end_to_end").new == pytest.approx(5.25)
    disk = baseline(times(stage_s={"load": 9.0, "denoising": 8.0, "video_decoding": 0.02}))
    assert not any(change.loosened for change in update_baseline(registry, disk, None)[1])  # loading is not judged
    other, _ = update_baseline(registry, baseline(times(9.0), machine=CPU), None)
    assert len(other.baselines) == 2


def test_baselines_survive_the_file_and_unknown_keys_do_not(tmp_path: Path) -> None:
    path = tmp_path / "perf_baselines.json"
    registry = PerfRegistry(baselines=(baseline(), baseline(machine=CPU)))
    save_perf_registry(path, registry)
    assert load_perf_registry(path) == registry
    document = json.loads(path.read_text())
    document["baselines"][0]["tolerance"] = 50
    path.write_text(json.dumps(document))
    with pytest.raises(RegistryError, match="unknown field `tolerance`"):
        load_perf_registry(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": []}, "at least one run"),
        ({"reason": ""}, "reason"),
        ({"date": "today"}, "YYYY-MM-DD"),
        ({"tolerance_percent": -1.0}, "negative"),
        ({"tolerance_abs_s": math.inf}, "not finite"),
    ],
)
def test_a_baseline_that_holds_nothing_to_anything_is_refused(changes: dict[str, object], message: str) -> None:
    document = {**msgspec.to_builtins(baseline()), **changes}
    with pytest.raises(RegistryError, match=message):
        msgspec.convert(document, Baseline)


def test_runs_of_different_shape_and_two_baselines_of_one_thing_are_refused() -> None:
    with pytest.raises(RegistryError, match="different stages or steps"):
        baseline(times(), times(step_s=(1.0, 1.0)))
    with pytest.raises(RegistryError, match="two baselines"):
        PerfRegistry(baselines=(baseline(), baseline(times())))
    for wrong in ({"end_to_end_s": math.nan}, {"step_s": (-1.0,)}, {"end_to_end_s": 0.0}):
        with pytest.raises(RegistryError, match=r"A time is|not measured"):
            times(**wrong)
