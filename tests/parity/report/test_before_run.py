"""Limits that are missing are said before a run: for its case, release, device, environment or threads, a line each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from parity.cli.app import app
from parity.diff.metric import METRICS
from parity.judge.limit import Calibration, derive_limit
from parity.judge.limit_table import TableKey
from parity.judge.registry import Registry, save_registry
from parity.report.before_run import lacking_limits
from runners.case import Case

HERE = {"device": "cpu", "torch": "2.13.0", "threads": 1}
NAME = "video_latent.relative_l2"


@pytest.fixture
def limits(checkout: Path) -> Path:
    """A registry with limits of the micro case, measured under torch 2.13.0 on one thread of a CPU."""
    calibration = Calibration(
        date="2026-01-02",
        command="x",
        runs=("y",),
        environment={"torch": "2.13.0", "threads": "1"},
        expires_with=("torch",),
    )
    limit = derive_limit(METRICS[NAME], floor={"a": (0.02, 0.02)}, defects={"d": (1.0,)}, calibration="c")
    path = checkout / "thresholds" / "consistency_threshold.json"
    save_registry(path, Registry(calibrations={"c": calibration}, cases={TableKey("micro"): {NAME: limit}}))
    return path


def said(case: Case, **environment: Any) -> list[str]:
    return list(lacking_limits(case, {**HERE, **environment}))


def test_nothing_is_said_where_limits_hold(limits: Path, micro_case: Callable[..., Case]) -> None:
    assert said(micro_case()) == []


def test_each_thing_that_limits_are_missing_for_is_a_line(limits: Path, micro_case: Callable[..., Case]) -> None:
    [case] = said(micro_case({"id": "mine"}))
    assert case.startswith(
        "case 'mine' has no limits on a CPU (measured: nowhere), so a gate can tell equal bits alone"
    )
    [device] = said(micro_case(), device="cuda", device_name="NVIDIA H100")
    assert device.startswith("case 'micro' has no limits on NVIDIA H100 (measured: a CPU)")
    [release] = said(micro_case({"reference": "1.2.0"}))
    assert "hold at release 1.0.0, which its file names; this run follows 1.2.0" in release
    [torch_] = said(micro_case(), torch="2.14.0")
    assert "were measured elsewhere (torch: 2.13.0 against 2.14.0), so they pass nothing here" in torch_
    [threads] = said(micro_case(), threads=3)
    assert "were measured on 1 CPU thread(s), this run computes on 3: they hold, but bits equal" in threads
    assert len(said(micro_case({"reference": "1.2.0"}), torch="2.14.0", threads=3)) == 3
    # an interpreter of the engine's own: its torch is not known, its threads are
    lines = lacking_limits(micro_case(), {**HERE, "torch": "2.14.0", "threads": 3}, in_child=True)
    assert lines == (threads,)


def test_a_registry_that_is_missing_or_damaged_is_said_and_keeps_nobody_from_running(
    limits: Path, micro_case: Callable[..., Case]
) -> None:
    limits.write_text("{")
    [line] = said(micro_case())
    assert line.startswith("limits cannot be read, so a gate can tell equal bits alone: ")
    limits.unlink()
    [line] = said(micro_case())
    assert line.startswith("there are no limits here (")


def test_run_says_it_before_it_starts_and_nothing_with_quiet(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the engine's traceback is kept
    engine = tmp_path / "engine.py"
    engine.write_text("class Engine:\n    def __init__(self, weights, options):\n        raise RuntimeError('begun')\n")
    arguments = ["run", "--runner", f"{engine}:Engine", "--case", "micro", "--weights", "forge:tiny:0", "--out", "out"]
    threads = torch.get_num_threads()
    try:
        loud = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
        quiet = CliRunner().invoke(app, [*arguments, "--quiet"])
    finally:
        torch.set_num_threads(threads)
    assert (loud.exit_code, quiet.exit_code) == (2, 2)
    first, second, third, *_ = loud.stderr.splitlines()
    assert first.startswith("note: there are no limits here (") and second.endswith("micro: starting")
    assert "RuntimeError: begun" in third
    assert "note:" not in quiet.stderr and loud.stdout == quiet.stdout == ""
