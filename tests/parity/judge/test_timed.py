"""Times gathered as samples: read back as they were, grouped by what they are times of."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from parity.cli.app import app
from parity.judge.perf import Machine, Times, load_perf_registry
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


def test_tiers_by_turns_become_baselines_of_their_own_and_each_is_held_to_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "golden").mkdir()
    (tmp_path / "thresholds").mkdir()
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path))
    seconds = {
        ("official", "exact"): 57.0,
        ("native", "exact"): 46.0,
        ("native", "fast"): 36.0,
        ("native", "fp8"): 33.0,
    }

    def file_of(name: str, **slower: float) -> Path:
        turns = [
            replace(timed(runner, (whole_s + turn / 10) * slower.get(tier, 1.0)), tier=tier)
            for turn in range(3)
            for (runner, tier), whole_s in seconds.items()
        ]
        write_json_atomic(tmp_path / name, samples(*turns).document())
        return tmp_path / name

    def perf(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["perf", *map(str, arguments)], env={"COLUMNS": "300"})
        return result.exit_code, result.output

    assert perf(file_of("first.json"), "--update", "--reason", "first samples by turns")[0] == 0
    registry = load_perf_registry(tmp_path / "thresholds" / "perf_baselines.json")
    assert {(one.runner, one.tier): len(one.runs) for one in registry.baselines} == dict.fromkeys(seconds, 3)
    assert perf(file_of("again.json"))[0] == 0
    code, said = perf(file_of("slower.json", fast=1.2))
    assert code == 1
    slower = next(line for line in said.splitlines() if "slower" in line)
    assert "43.3" in slower, "36.1 s of native:fast, a fifth longer"
    code, said = perf(file_of("as_exact.json", fast=46.0 / 36.0))
    assert code == 1, "the exact tier's time is no time of the fast one"
