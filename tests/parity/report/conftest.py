"""One verdict that has everything: a failure, a miss, a waived miss, an uncalibrated limit and an infinite value."""

import math

import pytest

from parity.diff.comparison import Comparison, Finding
from parity.diff.metric import METRICS
from parity.judge.limit import Calibration, Limit, derive_limit, exact_limit
from parity.judge.perf import Baseline, Machine, PerfRegistry, PerfVerdict, Times, TimeSubject, judge_perf
from parity.judge.registry import Registry, Waiver
from parity.judge.rules import judge
from parity.judge.verdict import Verdict

HOSTILE = "\x1b[2J<b>|[link](x)\u202e ]]> & ::error::%0A"


def limit(metric: str, floor: float, defect: float, reason: str | None = None) -> Limit:
    return derive_limit(
        METRICS[metric],
        floor={"threads": [floor] * 2},
        defects={"gelu": [defect]},
        calibration="c",
        reason=reason,
    )


@pytest.fixture
def registry() -> Registry:
    calibration = Calibration(
        date="2026-11-23", command="make", runs=("a",), environment={"torch": "2.13.0"}, expires_with=("torch",)
    )
    return Registry(
        calibrations={"c": calibration},
        defaults={
            "video_latent.relative_l2": limit("video_latent.relative_l2", 0.01, 1.0),
            "video_latent.cosine": limit("video_latent.cosine", 0.9, 0.91),
            "frames.psnr_db.min": limit("frames.psnr_db.min", 40.0, 20.0, reason="loosened: fused norm"),
            "frames.ssim.min": limit("frames.ssim.min", 0.99, 0.84),
            "frames.count.difference": exact_limit(METRICS["frames.count.difference"]),
        },
        unjudged={"frames.max_abs": "one byte says nothing"},
        waivers=(Waiver(case="astronaut", metric="frames.ssim.min", reason="known, see notes"),),
    )


@pytest.fixture
def verdict(registry: Registry) -> Verdict:
    return judge(
        Comparison(
            case="astronaut",
            metrics={
                "video_latent.relative_l2": 0.123456789,
                "video_latent.cosine": 0.95,
                "frames.psnr_db.min": math.inf,
                "frames.ssim.min": 0.5,
                "frames.count.difference": 0.0,
                "frames.max_abs": 3.0,
            },
            findings=(Finding(code="missing_channel", where="audio_waveform", message=HOSTILE),),
            environment_of_candidate={"torch": "2.13.0"},
        ),
        "limits",
        registry=registry,
    )


@pytest.fixture
def passing() -> Verdict:
    metrics = {name: 1.0 for name in METRICS if ".bit_equal." in name}
    return judge(Comparison(case="astronaut", metrics=metrics), "exact")


@pytest.fixture
def slow() -> PerfVerdict:
    def times(end_to_end_s: float) -> Times:
        return Times(end_to_end_s=end_to_end_s, stage_s={"load": 1.0}, step_s=(2.5, 2.0), peak_bytes=3 << 30)

    machine = Machine(device="NVIDIA H100", driver="570.1", cpu="Xeon", threads=16, torch="2.13.0")
    baseline = Baseline(
        case="astronaut",
        runner="native",
        tier="fast",
        machine=machine,
        work={},
        runs=(times(10.0), times(10.1), times(10.2)),
        warmup_runs=1,
        date="2026-11-23",
        command="parity perf",
        code_version="abc",
        reason="first",
    )
    return judge_perf(
        PerfRegistry(baselines=(baseline,)),
        TimeSubject(case="astronaut", runner="native", tier="fast", machine=machine, work={}),
        [times(12.12)] * 3,
    )
