"""Saved isolated errors are judged only if they are whole and of the very run under test."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from parity.diff.comparable import flow_of
from parity.diff.isolated import bound_runs, isolated_numbers, places_of, read_isolated
from parity.runs.folder import Run, read_run
from parity.taps.isolated_places import isolated_places
from runners.clock import STAGES
from runners.errors import RunError

LeaveRun = Callable[..., Path]
Write = Callable[..., Path]
ADDED = {"denoise/000/cond/block/00/video/ff": 0.01, "denoise/001/cond/block/02/video/ff": 0.03}


@pytest.fixture
def reference(leave_run: LeaveRun) -> Run:
    return read_run(leave_run("official"))


@pytest.fixture
def candidate(leave_run: LeaveRun) -> Run:
    return read_run(leave_run("native", runner="native"))


@pytest.fixture
def places(reference: Run, candidate: Run) -> tuple[str, ...]:
    """The places of two steps of the micro case on three blocks."""
    return isolated_places(flow_of(reference, candidate, reference.trace), (0, 1))


@pytest.fixture
def write(tmp_path: Path, reference: Run, candidate: Run, places: tuple[str, ...]) -> Write:
    """A saved isolation of the candidate, with changes."""

    def save(**changes: Any) -> Path:
        record = candidate.manifest
        document = {
            "schema_version": 2,
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
            "runs": msgspec.to_builtins(bound_runs([reference], candidate)),
            "rows": [{"where": one, "added": ADDED.get(one, 0.0), "note": "", "harmless": None} for one in places],
        }
        path = tmp_path / "isolated.json"
        path.write_text(json.dumps({**document, **changes}))
        return path

    return save


def test_the_worst_place_of_each_group_is_its_number(
    write: Write, reference: Run, candidate: Run, places: tuple[str, ...]
) -> None:
    read = read_isolated(write(), [reference], candidate)
    assert read.differing == tuple(ADDED) and places_of(read, reference, candidate) == places
    found = isolated_numbers(read.errors(), places)
    assert {name for name, error in found.metrics.items() if error} == {"isolated.block.video.ff"}
    assert found.metrics["isolated.block.video.ff"] == 0.03 and found.findings == ()


@pytest.mark.parametrize(
    ("change", "where", "said"),
    [
        (lambda rows: rows[1:], "text/pos/mask", "was not measured"),
        (lambda rows: rows[:1], "text/pos/hidden", "more are missing"),
        (lambda rows: [*rows, rows[0]], "text/pos/mask", "stands there twice"),
        (lambda rows: [*rows, ("nowhere", 0.0, "")], "nowhere", "is no place of this case"),
        (
            lambda rows: [*rows, ("denoise/000/cond/block/03/video/ff", 0.0, "")],
            "denoise/000/cond/block/03/video/ff",
            "is no place of this case",
        ),
        (lambda rows: [(rows[0][0], -1.0, ""), *rows[1:]], "text/pos/mask", "no error is below zero"),
        (lambda rows: [(rows[0][0], math.nan, ""), *rows[1:]], "text/pos/mask", "could not be compared"),
    ],
)
def test_every_place_of_the_case_stands_there_once_and_no_other(
    write: Write,
    reference: Run,
    candidate: Run,
    places: tuple[str, ...],
    change: Callable[[list[Any]], list[Any]],
    where: str,
    said: str,
) -> None:
    rows = read_isolated(write(), [reference], candidate).errors()
    assert isolated_numbers(rows, places).findings == ()
    (finding,) = isolated_numbers(change(rows), places).findings
    assert (finding.code, finding.where) == ("not_isolated", where) and said in finding.message


def test_an_infinite_error_is_a_number_that_no_limit_passes(places: tuple[str, ...]) -> None:
    rows = [(place, math.inf if place == "decode/mel" else 0.0, "") for place in places]
    assert isolated_numbers(rows, places).metrics["isolated.decode.mel"] == math.inf


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
        ({"schema_version": 1}, "schema version 1"),
        ({"rows": [{"where": "x", "added": "much"}]}, "does not have its form"),
        ({"rows": 3}, "does not have its form"),
    ],
)
def test_another_runs_errors_or_a_part_of_them_are_refused(
    write: Write, reference: Run, candidate: Run, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(RunError, match=why):
        read_isolated(write(**changes), [reference], candidate)


def test_other_code_is_another_candidate(write: Write, reference: Run, leave_run: LeaveRun) -> None:
    newer = read_run(leave_run("newer", runner="native", environment={"source_hash": "ff"}))
    with pytest.raises(RunError, match="code"):
        read_isolated(write(), [reference], newer)


def test_it_is_of_the_two_runs_that_it_names(write: Write, reference: Run, candidate: Run, leave_run: LeaveRun) -> None:
    again, other = read_run(leave_run("again", runner="native")), read_run(leave_run("other"))
    for references, run in (([reference], again), ([other], candidate), ([reference, other], candidate)):
        with pytest.raises(RunError, match="was made for other runs"):
            read_isolated(write(), references, run)
    both = msgspec.to_builtins(bound_runs([reference, other], candidate))
    for references in ([reference], [other], [reference, other]):
        read_isolated(write(runs=both), references, candidate)
    with pytest.raises(RunError, match="no run in particular"):
        read_isolated(write(runs=None), [reference], candidate)


def test_steps_that_the_case_does_not_have_cannot_have_been_measured(
    write: Write, reference: Run, candidate: Run
) -> None:
    for steps in ([0, 1, 2], [0, 1, 1], [-1, 0, 1]):
        with pytest.raises(RunError, match="steps 0 to 1"):
            places_of(read_isolated(write(steps=steps), [reference], candidate), reference, candidate)


def test_no_file_is_no_isolation(tmp_path: Path, reference: Run, candidate: Run) -> None:
    with pytest.raises(RunError, match="isolated errors for a gate come from `parity isolate"):
        read_isolated(tmp_path / "none.json", [reference], candidate)
