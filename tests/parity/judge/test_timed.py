"""Times gathered as samples: read back as they were, grouped by what they are times of."""

from pathlib import Path

import pytest

from parity.judge.perf import Machine, Times
from parity.judge.timed import TimedRun, TimedSamples, baseline_of, read_samples
from parity.trace.atomic import write_json_atomic
from runners.errors import RegistryError


def timed(runner: str, end_to_end_s: float, weights: str = "ab") -> TimedRun:
    return TimedRun(
        case="micro",
        runner=runner,
        tier="exact",
        machine=Machine(device="H100", driver="580.1", cpu="x", threads=16, torch="2.11"),
        work={"weights": weights, "dtype": "bf16"},
        times=Times(end_to_end_s=end_to_end_s, stage_s={"load": 1.5}, step_s=(1.0, 2.0), peak_bytes=7),
    )


def samples(*runs: TimedRun) -> TimedSamples:
    return TimedSamples(
        date="2026-01-02", command="c", box="b", code_version="v", warmup_runs=1, environment={"t": 1}, runs=runs
    )


def test_samples_come_back_and_runs_of_one_key_stand_together_in_order(tmp_path: Path) -> None:
    runs = (timed("official", 5.0), timed("native", 4.0), timed("native", 4.5), timed("official", 5.5))
    path = tmp_path / "samples.json"
    write_json_atomic(path, samples(*runs).document())
    found = read_samples(path)
    assert found == samples(*runs)
    times = [[run.times.end_to_end_s for run in group] for group in found.groups()]
    assert times == [[5.0, 5.5], [4.0, 4.5]]
    assert len(samples(timed("native", 4.0), timed("native", 4.0, weights="cd")).groups()) == 2
    baseline = baseline_of(found.groups()[1], date=found.date, command="c", code_version="v", reason="r", warmup_runs=1)
    assert baseline.runner == "native" and baseline.warmup_runs == 1


def test_a_file_that_holds_no_samples_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    document = samples(timed("native", 4.0)).document()
    for bad in ({**document, "kind": "capture"}, {**document, "surprise": 1}, {**document, "runs": [{}]}):
        write_json_atomic(path, bad)
        with pytest.raises(RegistryError, match="timing samples"):
            read_samples(path)
