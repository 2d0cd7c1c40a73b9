"""Limits that are made up, in a registry of one case: every metric may leave agreement by a tenth."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from parity.calibrate.limits import UNJUDGED
from parity.diff.metric import DRIFT, ISOLATED, METRICS, Metric
from parity.judge.limit import Calibration, derive_limit, exact_limit
from parity.judge.limit_table import TableKey
from parity.judge.registry import Registry, save_registry
from parity.taps.dataflow import Dataflow
from parity.taps.group import ISOLATED_GROUPS, drift_group

MEASURED_UNDER = {"torch": "2.13.0"}


def at(metric: Metric, distance: float) -> float:
    """The value of a metric so far from agreement."""
    return 1 - distance if metric.direction == "higher" else distance


def save_limits(
    root: Path,
    flow: Dataflow,
    *,
    case: str = "micro",
    floor: float = 0.01,
    isolated: bool = True,
    unjudged: Mapping[str, str] = UNJUDGED,
    at: Callable[[Metric, float], float] = at,
) -> None:
    """Write the registry of a checkout whose one case has such taps.

    Args:
        root: of the checkout, with a folder `thresholds`.
        flow: of the case.
        case: its id.
        floor: of every metric; the weakest defect is at 1.
        isolated: give isolated errors limits, too.
        unjudged: metrics without a limit, and why.
        at: gives the value of a metric at a distance from agreement.
    """
    groups = {f"{DRIFT}{drift_group(tap, flow.steps)}" for tap in flow.taps}
    if isolated:
        lacking = [part for part, there in (("image", flow.images), ("upsample", len(flow.plans) > 1)) if not there]
        there = [one for one in ISOLATED_GROUPS if not one.startswith(tuple(lacking))]
        groups |= {f"{ISOLATED}{group}" for group in there}
    limits = {
        name: exact_limit(metric)
        if metric.direction == "exact"
        else derive_limit(
            metric, floor={"a": (at(metric, floor),) * 2}, defects={"d": (at(metric, 1.0),)}, calibration="c"
        )
        for name, metric in METRICS.items()
        if name not in unjudged
        and not name.startswith("small_")
        and (name in groups or not name.startswith((DRIFT, ISOLATED)))
    }
    calibration = Calibration(
        date="2026-01-02",
        command="x",
        runs=("y",),
        environment=MEASURED_UNDER,
        expires_with=("torch",),
        padded_text=False,
    )
    registry = Registry(calibrations={"c": calibration}, cases={TableKey(case): limits}, unjudged=dict(unjudged))
    save_registry(root / "thresholds" / "consistency_threshold.json", registry)


def save_score(root: Path, case: str = "micro") -> None:
    """Write how many of nine defects each set of levels catches, into docs/measurements of a checkout."""
    score = {
        "kind": "mutation",
        "limits_of": case,
        "date": "2026-01-02",
        "defects": 9,
        "killed": 9,
        "killed_by_levels": {"outputs": 4, "outputs+drift": 7, "outputs+drift+isolated": 9},
    }
    (root / "docs" / "measurements" / "mutation_tiny.json").write_text(json.dumps(score, indent=2))
