"""`parity perf`: what it asks for, what it keeps in a user's project, and which exit code says what."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from parity.cli.app import app
from parity.suite.project import begin_project

LeaveRun = Callable[..., Path]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engineer's own project, on an idle machine."""
    monkeypatch.delenv("PARITY_ROOT", raising=False)
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    begin_project(folder)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    return folder / "parity" / "thresholds"


def perf(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["perf", *map(str, arguments)], env={"COLUMNS": "300"})
    return result.exit_code, result.output


def runs_of(leave_run: LeaveRun, name: str, denoising_s: float, count: int = 3, **changes: object) -> list[Path]:
    """Runs whose denoising took a little more each."""
    return [
        leave_run(f"{name}{index}", stage_s={"denoising": denoising_s + 0.001 * index}, **changes)
        for index in range(count)
    ]


def test_a_run_without_a_baseline_is_told_what_to_type(leave_run: LeaveRun, project: Path) -> None:
    run = leave_run("run")
    code, said = perf(run)
    assert code == 2
    assert f"`parity perf {run} RUN2 RUN3 --update`" in said and f"`parity perf --compare OTHER {run}`" in said
    assert str(project / "perf_baselines.json") in said


def test_three_runs_make_a_baseline_in_the_users_project_and_a_line_of_history(
    leave_run: LeaveRun, project: Path
) -> None:
    runs = runs_of(leave_run, "a", 2.0)
    code, said = perf(*runs[:2], "--update")
    assert code == 2 and "wants 3 runs of each kind; got 2" in said and not list(project.iterdir())
    code, said = perf(runs[0], runs[0], runs[1], "--update")
    assert code == 2 and "named twice" in said
    assert perf(*runs, "--update")[0] == 0
    assert (project / "perf_baselines.json").is_file()
    (line,) = (project / "perf_history.jsonl").read_text().splitlines()
    assert json.loads(line)["baseline"] is True and len(json.loads(line)["runs"]) == 3
    assert perf(*runs)[0] == 0
    slow = runs_of(leave_run, "b", 2.9)
    code, said = perf(*slow, "--save")
    assert code == 1 and "stage.denoising" in said
    assert perf(*slow, "--fail-at", "50%")[0] == 0
    assert perf(*slow, "--fail-at", "1s")[0] == 0 and perf(*slow, "--fail-at", "0.5s")[0] == 1
    code, said = perf("--history")
    assert code == 0 and said.count("█") >= 2 and " *" in said and "medians over runs" in said
    assert len(json.loads(perf("--history", "--json")[1])) == 2
    other = leave_run("other", runner="native")
    code, said = perf("--history", other)
    assert code == 2 and "no history of that" in said


def test_runs_with_taps_are_no_baseline_of_runs_without(leave_run: LeaveRun) -> None:
    assert perf(*runs_of(leave_run, "bare", 2.0, blocks=None), "--update")[0] == 0
    traced = runs_of(leave_run, "traced", 2.0)
    code, said = perf(*traced)
    assert code == 2 and "trace: no taps -> taps recorded" in said and "--update" in said
    assert perf(*traced, "--update")[0] == 0 and perf(*traced)[0] == 0


def test_a_busy_machine_is_said(leave_run: LeaveRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    runs = runs_of(leave_run, "a", 2.0)
    assert "warning:" not in perf(*runs, "--update")[1]
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 3.7, 0.1))
    code, said = perf(*runs)
    assert code == 0 and "load 3.7 of the last 5 minutes on 2 cores, the runs took 2 threads" in said


def test_two_runs_or_folders_of_runs_are_compared(leave_run: LeaveRun, tmp_path: Path) -> None:
    fast, slow = runs_of(leave_run, "fast", 2.0), runs_of(leave_run, "slow", 3.0)
    assert perf("--compare", fast[0], fast[1])[0] == 0
    assert perf("--compare", slow[0], fast[1])[0] == 0
    code, said = perf("--compare", fast[0], slow[0])
    assert code == 1 and "no confidence interval" in said
    for name, runs in (("before", fast), ("after", slow)):
        (tmp_path / name).mkdir()
        for run in runs:
            run.rename(tmp_path / name / run.name)
    code, said = perf("--compare", tmp_path / "before", tmp_path / "after", "--fail-at", "10%")
    assert code == 1 and "no confidence interval" not in said
    document = json.loads(perf("--compare", tmp_path / "before", tmp_path / "after", "--json")[1])
    row = next(row for row in document["rows"] if row["quantity"] == "stage.denoising")
    assert row["baseline"] == pytest.approx(2.001) and row["value"] == pytest.approx(3.001)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Name runs to judge"),
        (["--fail-at", "ten", "--history"], "a share such as 10%"),
        (["--update", "--history"], "three questions; ask one"),
        (["x", "--compare", "a", "b"], "names both sides"),
    ],
)
def test_a_question_that_is_none_is_refused(arguments: list[str], said: str) -> None:
    code, output = perf(*arguments)
    assert code == 2 and said in output
