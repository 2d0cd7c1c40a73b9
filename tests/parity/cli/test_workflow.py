"""`parity gate` inside a workflow: JUnit, job summary and annotations say what the exit code says."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from parity.cli.app import app

LeaveRun = Callable[..., Path]


@dataclass(frozen=True, kw_only=True)
class Said:
    """The exit code and texts that a step of a workflow left behind."""

    code: int
    output: str
    errors: str
    summary: str
    junit: ET.Element

    def annotations(self) -> list[str]:
        return [line for line in (self.output + self.errors).splitlines() if line.startswith("::error")]


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """`parity gate` as a step of a workflow runs it."""
    summary, junit = tmp_path / "summary.md", tmp_path / "junit.xml"
    summary.write_text("# an earlier step\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")

    def call(run: Path, against: object, *more: str) -> Said:
        arguments = ["gate", str(run), "--against", str(against), "--junit", str(junit), *more]
        found = CliRunner().invoke(app, arguments)
        text = summary.read_text()
        assert text.startswith("# an earlier step\n")
        return Said(
            code=found.exit_code,
            output=found.stdout,
            errors=found.stderr,
            summary=text.removeprefix("# an earlier step\n"),
            junit=ET.parse(junit).getroot(),
        )

    return call


def counts(junit: ET.Element) -> tuple[int, int]:
    return sum(int(suite.get("failures", 0)) for suite in junit), sum(int(suite.get("errors", 0)) for suite in junit)


def test_parity_is_said_without_annotations(gate: Callable[..., Said], leave_run: LeaveRun) -> None:
    said = gate(leave_run("native", runner="native"), leave_run("official"))
    assert (said.code, said.annotations(), counts(said.junit)) == (0, [], (0, 0))
    assert said.summary.startswith("### VERDICT\\: PARITY \\(judged by equality of outputs and 263 taps\\)\n")


def test_a_miss_is_one_failure_and_one_annotation_a_metric(gate: Callable[..., Said], leave_run: LeaveRun) -> None:
    def one_level(made: dict[str, Any]) -> None:
        made["video_frames"][2, 1, 1, 1] += 1

    said = gate(leave_run("native", runner="native", change=one_level), leave_run("official"))
    assert said.code == 1 and counts(said.junit) == (1, 0)
    story, line = said.annotations()
    assert story == (
        "::error title=parity micro::VERDICT: NOT AT PARITY: all 263 taps are equal in every bit, yet "
        "outputs.bit_equal.frames is 0, wanted = 1: beyond its limit"
    )
    assert line.startswith("::error title=parity micro::outputs.bit_equal.frames is 0, wanted = 1")
    assert said.summary.startswith(
        "### VERDICT\\: NOT AT PARITY\\: 1 of 12 metrics beyond their limits \\(judged by equality of "
    )
    assert "outputs.bit\\_equal.frames" in said.summary.split("<details>")[0]


def test_a_missing_frame_is_a_failure_and_a_missing_trace_an_error(
    gate: Callable[..., Said], leave_run: LeaveRun
) -> None:
    def shorter(made: dict[str, Any]) -> None:
        made["video_frames"] = made["video_frames"][:-1]

    official = leave_run("official")
    said = gate(leave_run("short", runner="native", change=shorter), official)
    assert said.code == 1
    assert any("missing_frame" in line for line in said.annotations())
    assert "**missing\\_frame**" in said.summary and counts(said.junit)[0] > 0 == counts(said.junit)[1]
    said = gate(leave_run("bare", runner="native", blocks=None), official)
    assert said.code == 2
    assert any("missing_trace" in line for line in said.annotations())
    assert "**missing\\_trace**" in said.summary and counts(said.junit)[1] == 1


@pytest.mark.parametrize("json_wanted", [False, True])
def test_what_cannot_be_judged_at_all_is_said_everywhere(
    gate: Callable[..., Said], leave_run: LeaveRun, json_wanted: bool
) -> None:
    said = gate(leave_run("native"), "no/such::run", *(["--json"] if json_wanted else []))
    assert (said.code, counts(said.junit)) == (2, (0, 1))
    assert said.summary.startswith("### VERDICT: COULD NOT JUDGE\n") and "There is no folder" in said.summary
    [line] = said.annotations()
    assert line.startswith("::error title=parity native::There is no folder no/such::run")
    if json_wanted:  # annotations keep out of the way of JSON
        assert json.loads(said.output)["exit_code"] == 2 and line in said.errors


def test_outside_a_workflow_nothing_is_annotated(leave_run: LeaveRun, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    found = CliRunner().invoke(app, ["gate", str(leave_run("native")), "--against", "no/such"])
    assert found.exit_code == 2 and "::error" not in found.output
