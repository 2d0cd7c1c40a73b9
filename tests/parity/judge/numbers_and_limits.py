"""Numbers of a made case and limits for them, which tests of the judge change in one place each."""

from collections.abc import Mapping

import msgspec

from parity.diff.comparison import MEASURED, Comparison, EvidenceLevel, Finding
from parity.diff.metric import BIT_EQUALITIES, METRICS
from parity.judge.limit import Calibration, Limit, derive_limit, exact_limit
from parity.judge.registry import Registry
from parity.judge.rules import judge
from parity.judge.strength import Strength
from parity.judge.verdict import MetricRow, Verdict

ERROR = "video_latent.relative_l2"
LEVEL = "frames.psnr_db.min"
COUNT = "frames.count.difference"
HERE = {"torch": "2.13.0"}
GOOD: dict[str, float | None] = {ERROR: 0.05, LEVEL: 35.0, COUNT: 0.0}
EQUAL: dict[str, float | None] = dict.fromkeys(BIT_EQUALITIES, 1.0)
DRIFT, ALONE = "drift.text", "isolated.decode.mel"
ALL = {"outputs": MEASURED, "drift": MEASURED, "isolated": MEASURED}


def limit(metric: str, floor: float, defect: float) -> Limit:
    return derive_limit(METRICS[metric], floor={"threads": [floor] * 2}, defects={"gelu": [defect]}, calibration="c")


def registry(**changes: object) -> Registry:
    calibration = Calibration(
        date="2026-11-23",
        command="make thresholds",
        runs=("runs/a",),
        environment=HERE,
        expires_with=("torch",),
        padded_text=False,
    )
    defaults = {
        ERROR: limit(ERROR, 0.01, 1.0),  # 0.1
        LEVEL: limit(LEVEL, 40.0, 20.0),  # 30 dB
        COUNT: exact_limit(METRICS[COUNT]),
    }
    return msgspec.structs.replace(Registry(calibrations={"c": calibration}, defaults=defaults), **changes)


def by_limits(metrics: dict[str, float | None], limits: Registry | None = None, *findings: Finding) -> Verdict:
    return judge(
        Comparison(case="astronaut", metrics=metrics, findings=findings, environment_of_candidate=HERE),
        "limits",
        registry=limits or registry(),
    )


def row(verdict: Verdict, metric: str) -> MetricRow:
    return next(row for row in verdict.rows if row.metric == metric)


def changes(verdict: Verdict, metric: str) -> list[str]:
    return [str(change) for change in row(verdict, metric).expired]


def on(device_name: str, metrics: dict[str, float | None], limits: Registry) -> Verdict:
    environment = {**HERE, "device": "cuda", "device_name": device_name}
    return judge(
        Comparison(case="astronaut", metrics=metrics, environment_of_candidate=environment), "limits", registry=limits
    )


def with_internals() -> Registry:
    limits = registry()
    return msgspec.structs.replace(
        limits, defaults={**limits.defaults, DRIFT: limit(DRIFT, 0.01, 1.0), ALONE: limit(ALONE, 0.001, 0.1)}
    )


def on_levels(levels: Mapping[str, EvidenceLevel], strength: Strength | None = None, **changes: float) -> Verdict:
    metrics = (
        GOOD | {DRIFT: 0.05, ALONE: 0.005} | {DRIFT if name == "drift" else ALONE: x for name, x in changes.items()}
    )
    return judge(
        Comparison(case="astronaut", metrics=metrics, environment_of_candidate=HERE, levels=levels),
        "limits",
        registry=with_internals(),
        strength=strength,
    )
