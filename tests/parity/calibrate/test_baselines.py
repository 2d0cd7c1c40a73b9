from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.calibrate import baselines
from parity.judge.perf import PerfRegistry
from runners.case import Case
from runners.errors import RegistryError
from runners.weights import WeightsFolder

SHORT = {"request.num_inference_steps": 1}


@pytest.mark.slow
def test_runs_go_by_turns_and_the_first_of_each_is_thrown_away(
    micro_weights: WeightsFolder, micro_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    order: list[str] = []
    timed: Callable[..., Any] = baselines.timed_once

    def watched(runner: str, *rest: Any) -> Any:
        order.append(runner)
        return timed(runner, *rest)

    monkeypatch.setattr(baselines, "timed_once", watched)
    monkeypatch.setattr(baselines, "RUNS", 2)
    found = baselines.measure_baselines(micro_weights, micro_case(SHORT), "a command", lambda _: None)
    assert order == ["official", "native", "native", "official", "official", "native"]
    assert [(one.runner, len(one.runs), one.warmup_runs) for one in found] == [("official", 2, 1), ("native", 2, 1)]
    registry, changes = baselines.update_all(PerfRegistry(), found, None)
    assert len(registry.baselines) == 2 and not any(change.loosened for change in changes)
    slower = [_slowed(one) for one in found]
    with pytest.raises(RegistryError, match="--reason"):
        baselines.update_all(registry, slower, None)
    again, _ = baselines.update_all(registry, slower, "another disk")
    assert all(one.reason == "loosened: another disk" for one in again.baselines)


def _slowed(baseline: Any) -> Any:
    import msgspec

    runs = tuple(
        msgspec.structs.replace(run, end_to_end_s=10 * run.end_to_end_s, step_s=tuple(10 * s for s in run.step_s))
        for run in baseline.runs
    )
    return msgspec.structs.replace(baseline, runs=runs)
