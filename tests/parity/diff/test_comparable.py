"""Which differences of environment count between two runs."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from parity.diff.comparable import environment_differences, require_comparable
from parity.trace.bundle import Run, read_run
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
        return Run(folder=found.folder, record=msgspec.structs.replace(found.record, reference=release))

    phrases = environment_differences(run("reference", "official", "5"), run("candidate", runner, "4"))
    assert phrases == [f"{package}: 5 against 4" for package in named]


def test_two_cases_are_told_apart_by_the_key_and_both_values(leave_run: LeaveRun) -> None:
    run = read_run(leave_run("reference"))
    case = dict(run.record.case)
    case["request"] = {**case["request"], "seed": 11, "prompt": "x" * 99}
    other = Run(folder=run.folder, record=msgspec.structs.replace(run.record, case=case))
    with pytest.raises(RunError, match=r"request\.prompt \('.*\.\.\. and 'x{39}\.\.\.\); request\.seed \(\d+ and 11\)"):
        require_comparable(run, other)
