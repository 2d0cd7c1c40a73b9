"""Differences between two runs that count: of environment, case, weights and records."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from parity.diff.comparable import (
    environment_differences,
    manifest_findings,
    require_comparable,
    require_same_weights,
)
from parity.runs.difference import Difference
from parity.runs.folder import Run, read_run
from runners.errors import RunError

LeaveRun = Callable[..., Path]


@pytest.mark.parametrize(
    ("release", "runner", "device", "named"),
    [
        ("1.2.0", "native", "cpu", ["torch"]),  # its official code cannot run with our transformers
        ("1.1.2", "native", "cpu", ["torch", "transformers", "tokenizers"]),
        ("1.2.0", "official", "cpu", ["torch", "transformers", "tokenizers"]),  # two of them may well agree
        ("1.2.0", "native", "cuda", ["torch", "transformers", "tokenizers"]),  # nobody has shown equal bits there
    ],
)
def test_packages_that_a_release_brings_along_are_no_other_environment(
    leave_run: LeaveRun, release: str, runner: str, device: str, named: list[str]
) -> None:
    def run(name: str, runner: str, version: str) -> Run:
        packages = {"transformers": version, "tokenizers": version, "torch": version, "device": device}
        found = read_run(leave_run(name, runner=runner, environment=packages))
        return Run(folder=found.folder, manifest=msgspec.structs.replace(found.manifest, reference=release))

    found = environment_differences(run("reference", "official", "5"), run("candidate", runner, "4"))
    assert found == [Difference(key=package, old="5", new="4") for package in named]


def test_two_cases_are_told_apart_by_the_key_and_both_values(leave_run: LeaveRun) -> None:
    run = read_run(leave_run("reference"))
    case = dict(run.manifest.case)
    case["request"] = {**case["request"], "seed": 11, "prompt": "x" * 99}
    other = Run(folder=run.folder, manifest=msgspec.structs.replace(run.manifest, case=case))
    with pytest.raises(RunError, match=r"request\.prompt \('.*\.\.\. and 'x{39}\.\.\.\); request\.seed \(\d+ and 11\)"):
        require_comparable(run, other)


def test_weights_kept_in_another_way_and_other_loras_are_other_models(leave_run: LeaveRun) -> None:
    plain = read_run(leave_run("reference"))

    def changed(**changes: Any) -> Run:
        return Run(folder=plain.folder, manifest=msgspec.structs.replace(plain.manifest, **changes))

    cast = changed(case={**plain.manifest.case, "quantization": "fp8_cast"})
    for one, other in ((plain, cast), (cast, plain)):
        require_comparable(one, other)  # measured, and named
        (finding,) = manifest_findings(one, other)
        assert finding.code == "quantization_mismatch" and "fp8_cast" in finding.message
        with pytest.raises(RunError, match="neither is the other's reference"):
            require_same_weights(one, other)
    assert manifest_findings(cast, cast) == ()
    old, new = (changed(loras={"style.safetensors": digit * 64}) for digit in "ab")
    (finding,) = manifest_findings(old, new)
    assert (finding.code, finding.where) == ("identity_mismatch", "weights") and "style.safetensors" in finding.message
    assert manifest_findings(old, old) == ()


def test_what_no_tap_shows_is_found_in_the_records(leave_run: LeaveRun) -> None:
    run = read_run(leave_run("reference"))
    assert manifest_findings(run, run) == ()
    sigmas = [level * (0.5 if index == 1 else 1.0) for index, level in enumerate(run.manifest.sigmas)]
    record = msgspec.structs.replace(run.manifest, sigmas=sigmas, sample_rate_hz=44100)
    schedule, rate = manifest_findings(run, Run(folder=run.folder, manifest=record))
    assert schedule.code == "sigma_mismatch" and schedule.message.startswith("farthest apart at level 1: reference has")
    assert (rate.code, rate.where) == ("rate_mismatch", "sample_rate_hz")
    assert rate.message.endswith("candidate has 44100 samples a second")
    for rounding, seen in ((2e-7, False), (2e-6, True), (float("nan"), True)):
        moved = msgspec.structs.replace(run.manifest, sigmas=[level + rounding for level in run.manifest.sigmas])
        assert bool(manifest_findings(run, Run(folder=run.folder, manifest=moved))) == seen
    shorter = msgspec.structs.replace(run.manifest, sigmas=run.manifest.sigmas[:-1])
    (found,) = manifest_findings(run, Run(folder=run.folder, manifest=shorter))
    assert "noise levels, candidate has" in found.message
