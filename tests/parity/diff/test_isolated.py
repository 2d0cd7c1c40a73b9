"""Saved isolated errors are judged only if they are whole and of the very run under test."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.diff.isolated import isolated_numbers, read_isolated
from parity.runs.folder import Run, read_run
from runners.clock import STAGES
from runners.errors import RunError

LeaveRun = Callable[..., Path]
Write = Callable[..., Path]
ROWS = [("denoise/000/cond/block/00/video/ff", 0.01), ("denoise/001/cond/block/02/video/ff", 0.03), ("sigmas", 0.0)]


@pytest.fixture
def candidate(leave_run: LeaveRun) -> Run:
    return read_run(leave_run("native", runner="native"))


@pytest.fixture
def write(tmp_path: Path, candidate: Run) -> Write:
    """A saved isolation of the candidate, with changes."""

    def save(**changes: Any) -> Path:
        record = candidate.record
        document = {
            "schema_version": 1,
            "case": record.case,
            "inputs": record.inputs,
            "runner": "native",
            "tier": "exact",
            "dtype": "bf16",
            "details": {},
            "weights_hash": record.weights_hash,
            "environment": record.environment,
            "stages": list(STAGES),
            "steps": [0, 1],
            "whole": True,
            "rows": [{"where": where, "added": added, "note": "", "harmless": None} for where, added in ROWS],
        }
        path = tmp_path / "isolated.json"
        path.write_text(json.dumps({**document, **changes}))
        return path

    return save


def test_the_worst_place_of_each_group_is_its_number(write: Write, candidate: Run) -> None:
    read = read_isolated(write(), candidate)
    found = isolated_numbers(read.errors())
    assert read.differing == tuple(where for where, added in ROWS if added)
    assert found.metrics == {"isolated.block.video.ff": 0.03, "isolated.sigmas": 0.0} and found.findings == ()


def test_what_could_not_be_compared_is_a_finding_and_never_a_small_number() -> None:
    found = isolated_numbers(
        [("decode/mel", 0.01, ""), ("decode/mel", math.nan, "other shape"), ("denoise/000/uncond", math.nan, "no pass")]
    )
    assert found.metrics == {"isolated.decode.mel": 0.01}
    assert [(one.code, one.where) for one in found.findings] == [
        ("not_isolated", "decode/mel"),
        ("not_isolated", "denoise/000/uncond"),
    ]
    assert [one.where for one in isolated_numbers([("made/up", 0.1, ""), ("made/up", 0.0, "")]).findings] == ["made/up"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"weights_hash": "cd" * 32}, "weights"),
        ({"runner": "diffusers"}, "runner"),
        ({"dtype": "fp32"}, "dtype"),
        ({"case": {}}, "case"),
        ({"inputs": {"a.png": "00"}}, "pictures"),
        ({"details": {"behaviours": {"x": True}}}, "configuration"),
        ({"environment": {"torch": "1.0"}}, "torch: 1.0 against 2.13.0"),
        ({"stages": ["denoising"]}, "some parts only"),
        ({"steps": [1]}, "some parts only"),
        ({"whole": False}, "some parts only"),
        ({"rows": []}, "some parts only"),
        ({"schema_version": 2}, "schema version 2"),
        ({"rows": [{"where": "x", "added": "much"}]}, "does not have its form"),
        ({"rows": 3}, "does not have its form"),
    ],
)
def test_another_runs_errors_or_a_part_of_them_are_refused(
    write: Write, candidate: Run, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(RunError, match=why):
        read_isolated(write(**changes), candidate)


def test_other_code_is_another_candidate(write: Write, leave_run: LeaveRun) -> None:
    newer = read_run(leave_run("newer", runner="native", environment={"source_hash": "ff"}))
    with pytest.raises(RunError, match="code"):
        read_isolated(write(), newer)


def test_no_file_is_no_isolation(tmp_path: Path, candidate: Run) -> None:
    with pytest.raises(RunError, match="isolated errors come from `parity isolate"):
        read_isolated(tmp_path / "none.json", candidate)
