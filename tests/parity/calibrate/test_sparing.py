"""Calibrations that time is short for: the order of members, when limits may follow, and another GPU's golden."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from parity.calibrate import another_gpu
from parity.calibrate.another_gpu import ANOTHER_GPU, compare_golden, golden_of_another_gpu
from parity.calibrate.checkpoint import CalibrationCheckpoint, Member, measured_in
from parity.calibrate.drift import SketchedRun, sketched_run
from parity.calibrate.harmless import COMPILED, variations
from parity.calibrate.limits import limits_of
from parity.calibrate.populations import Populations, floor_work
from parity.calibrate.rewrites import ALL_AT_ONCE, REWRITES
from parity.calibrate.sparing import FIRST, LAST, NEXT, in_order, take_members
from parity.defects.catalogue import CATALOGUE
from runners.case import Case
from runners.errors import OutOfTimeError
from runners.weights import WeightsFolder

CUDA = torch.device("cuda")


def test_what_is_named_there_is() -> None:
    harmless = {one.id for one in variations(range(4), compiled=True, device=CUDA)}
    harmless |= {one.id for one in (*REWRITES, ALL_AT_ONCE)}
    known = harmless | {defect.id for defect in CATALOGUE} | {ANOTHER_GPU}
    assert set(FIRST) | set(NEXT) | set(LAST) <= known
    assert not set(FIRST) & set(NEXT) and COMPILED.id in NEXT


def test_what_limits_need_comes_first_and_the_dearest_last() -> None:
    assert in_order(["oracle", "zzz", "steps", "v2a_off", "noise_ulp_0"]) == [
        *("noise_ulp_0", "steps", "v2a_off", "zzz", "oracle"),
    ]


def sitting(taken: list[str], minutes: float | None = None, kept: Path | None = None, **choices: Any) -> list[str]:
    """The members that a sitting comes to, where the one named `slow` takes an hour."""
    clock = SimpleNamespace(now=0.0)

    def measured(name: str) -> Callable[[], Member]:
        def measure() -> Member:
            taken.append(name)
            clock.now += 3600 if name == "slow" else 60
            return Member(metrics={"x": 1.0})

        return measure

    names = ("slow", "other", *FIRST)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("parity.calibrate.checkpoint.time", SimpleNamespace(monotonic=lambda: clock.now))
        checkpoint = CalibrationCheckpoint(minutes=minutes, begun_s=0.0, kept=kept, only=choices.pop("only", ()))
        work = {name: measured(name) for name in names}
        return list(take_members(work, checkpoint, lambda _: None, sparing=choices.pop("sparing", True)))


def test_limits_may_follow_once_the_first_members_are_measured(tmp_path: Path) -> None:
    taken: list[str] = []
    assert sitting(taken, minutes=len(FIRST) + 1) == ["slow", *FIRST], "in the order of the population"
    assert taken == [*FIRST, "slow"], "it was begun in time, as nobody knew how long it takes"
    with pytest.raises(OutOfTimeError, match="Out of time before"):
        sitting([], minutes=len(FIRST) - 2)
    with pytest.raises(OutOfTimeError):
        sitting([], minutes=len(FIRST), sparing=False)
    with pytest.raises(OutOfTimeError):
        sitting([], minutes=0.5, only=("slow", "other"))
    kept = tmp_path / "kept.json"
    sitting([], kept=kept, only=("slow",))
    taken.clear()
    with pytest.raises(OutOfTimeError, match="with 1 members"):
        sitting(taken, minutes=30, kept=kept)  # an earlier sitting says how long one may take
    assert not taken


def test_members_of_one_population_share_all_that_changes_numbers_and_no_more() -> None:
    found = measured_in(torch.device("cpu"))
    assert {"torch", "threads", "source_hash", "cpu"} <= found.keys()
    assert not {"cores", "platform", "python"} & found.keys()


@pytest.mark.slow
def test_sparingly_rewrites_are_tried_part_by_part_and_native_runs_the_variations(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, ran = micro_case(), []
    reference = sketched_run(micro_weights, case)

    def drift(*_: Any, **__: Any) -> Any:
        ran.append(_[4] if len(_) > 4 else "native")
        return compare_golden_with_itself(reference)

    monkeypatch.setattr("parity.calibrate.populations.drift", drift)
    one = variations(range(1))[0]
    work = floor_work(micro_weights, case, lambda: reference, [one], lambda _: None, sparing=True)
    alone = work["steps"]().numbers
    assert not ran and all(name.startswith("isolated.") for name in alone) and alone["isolated.guided.video"] > 0
    assert work[one.id]().numbers and ran == ["native"]


def compare_golden_with_itself(run: SketchedRun) -> Any:
    from parity.calibrate.drift import compare

    return compare(run, run)


@pytest.mark.slow
def test_the_golden_of_another_gpu_is_a_floor_of_what_it_keeps(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = sketched_run(micro_weights, micro_case())
    environment = {"device": "cuda", "device_name": "NVIDIA H100 80GB HBM3"}
    golden: Any = SimpleNamespace(
        manifest=SimpleNamespace(environment=environment), trace=run.trace, reduced=False, outputs=lambda: run.outputs
    )
    golden.has = lambda _: True
    monkeypatch.setattr(another_gpu, "has_golden", lambda _: True)
    monkeypatch.setattr(another_gpu, "golden_of", lambda _: golden)
    monkeypatch.setattr(another_gpu, "fingerprint", lambda _: {"device_name": "NVIDIA H200"})
    elsewhere: Any = golden_of_another_gpu(micro_case(), CUDA)
    assert elsewhere is golden
    assert golden_of_another_gpu(micro_case(), torch.device("cpu")) is None
    found = compare_golden(elsewhere, run, subset=None)
    assert found.bit_equal and found.metrics["drift.block.video.ff.first_step"] == 0.0
    monkeypatch.setattr(another_gpu, "fingerprint", lambda _: environment)
    assert golden_of_another_gpu(micro_case(), CUDA) is None


def test_what_another_gpus_golden_lacks_still_has_a_limit_and_what_others_lack_has_none() -> None:
    plain = {"video_latent.relative_l2": 0.01, "drift.text": 0.02}
    populations = Populations(
        case="c",
        floor={
            "a": plain,
            "b": plain,
            ANOTHER_GPU: {"video_latent.relative_l2": 0.03},
            "steps": {"isolated.sigmas": 0.0},
        },
        defects={},
        findings={},
        shown_at={},
    )
    limits = limits_of(populations, "now")
    assert limits["video_latent.relative_l2"].floor == 0.03 and limits["drift.text"].floor == 0.02
    assert "isolated.sigmas" in limits
    lacking = replace(populations, floor={**populations.floor, "b": {"video_latent.relative_l2": 0.01}})
    assert "drift.text" not in limits_of(lacking, "now")
