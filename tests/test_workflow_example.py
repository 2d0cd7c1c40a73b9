"""The workflow in docs/ is one that would run: its commands, options, targets and cases exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import typer.main
import yaml

from parity.cli.app import app
from parity.suite.new_runner import write_runner

ROOT = Path(__file__).parent.parent
WORKFLOW = ROOT / "docs" / "github-actions.yml"


def workflow() -> Any:
    return yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))


def steps() -> list[tuple[str, dict[str, Any]]]:
    return [(name, step) for name, job in workflow()["jobs"].items() for step in job["steps"]]


def commands(script: str) -> list[list[str]]:
    return [shlex.split(line) for line in script.replace("\\\n", " ").splitlines() if line.strip()]


def wrong_with(words: list[str]) -> str:
    """The reason for which a `parity` command line would be refused, or ""."""
    command = typer.main.get_command(app)
    verbs: dict[str, Any] = getattr(command, "commands", {})
    if words[1] not in verbs:
        return f"there is no verb {words[1]}"
    known = {option: one for one in verbs[words[1]].params for option in one.opts}
    options = [word for word in words[2:] if word.startswith("--")]
    if unknown := [option for option in options if option not in known]:
        return f"{words[1]} has no {', '.join(unknown)}"
    missing = [one.name for one in known.values() if one.required and not set(one.opts) & {*options, "run", "runs"}]
    return f"{words[1]} lacks {', '.join(map(str, missing))}" if missing else ""


def test_every_command_of_the_workflow_is_one_that_exists() -> None:
    verbs = []
    for job, step in steps():
        for words in commands(step.get("run", "").replace("||", "\n")):
            if words[0] == "parity":
                verbs.append((job, words[1]))
                assert wrong_with(words) == "", words
    run = ("forge", "run", "run", "gate", "explain", "report")
    assert verbs == [*(("tiny", verb) for verb in run), *(("full", verb) for verb in run[1:])]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("parity judge x", "there is no verb judge"),
        ("parity gate x --strict", "gate has no --strict"),
        ("parity run --runner native", "run lacks case, weights, folder"),
    ],
)
def test_a_command_that_would_be_refused_is_noticed(line: str, wrong: str) -> None:
    assert wrong_with(shlex.split(line)) == wrong


def test_cases_of_the_workflow_are_in_the_repository() -> None:
    text = WORKFLOW.read_text(encoding="utf-8")
    cases = {*re.findall(r"--case (\w[\w.]*)", text), *re.findall(r"CASE: (\S+)", text)}
    assert cases == {"tiny_ti2v", "ltx_2.3_one_stage_ti2v"}
    assert all((ROOT / "golden" / case / "case.toml").is_file() for case in cases)


def test_the_workflow_may_read_and_nothing_more() -> None:
    found = workflow()
    assert found["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 120 for job in found["jobs"].values())
    for _, step in steps():
        assert "${{" not in step.get("run", ""), "an expression in a script runs what a stranger put into a title"
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False
        assert re.fullmatch(r"actions/[a-z-]+@v\d+", step.get("uses", "actions/x@v1"))


def test_a_report_is_drawn_of_runs_that_are_there_and_files_are_kept_when_the_gate_fails() -> None:
    for job in ("tiny", "full"):
        names = [step.get("name", "") for one, step in steps() if one == job]
        after = next(index for index, name in enumerate(names) if name.startswith("Gate")) + 1
        late = [step for one, step in steps() if one == job][after:]
        explain, report, keep = (step["if"] for step in late)
        assert explain == "${{ failure() && steps.gate.outcome == 'failure' }}"
        assert report == "${{ !cancelled() && steps.engine.outcome == 'success' }}"
        assert keep == "${{ !cancelled() }}"


def test_the_reference_is_kept_by_what_it_follows_from() -> None:
    kept = next(step for job, step in steps() if job == "tiny" and "cache" in step.get("uses", ""))
    assert kept["with"]["path"].split() == ["weights", "runs/official"]
    assert kept["with"]["key"].endswith("${{ steps.reference.outputs.key }}")
    made = [step for job, step in steps() if job == "tiny" and "cache-hit" in step.get("if", "")]
    assert [step["name"] for step in made] == ["Forge weights", "Run the official model"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the workflow's cache: it holds nothing until a job has ended well."""
    return tmp_path_factory.mktemp("cache") / "kept"


@pytest.mark.slow
@pytest.mark.package
@pytest.mark.parametrize("planted", [False, True])
def test_the_steps_run_with_a_toy_engine(tmp_path: Path, planted: bool, kept: Path, warm: Path) -> None:
    """Every step of the job `tiny` but those that install, in order, as the workflow's shell runs them."""
    tools, variables = tmp_path / "tools", tmp_path / "output"
    tools.mkdir()
    for name, command in (("parity", f"{warm} -m parity"), ("pip", f"{sys.executable} -m pip")):
        (tools / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (tools / name).chmod(0o755)
    (tmp_path / "repo" / ".parity" / "engine" / "bin").mkdir(parents=True)
    python = tmp_path / "repo" / ".parity" / "engine" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    write_runner("toy", tmp_path / "repo")
    if planted:
        source = (tmp_path / "repo" / "toy.py").read_text()
        tap = 'tap("guided/audio", guided[1])'
        wrong = source.replace(tap, f"guided = (guided[0], guided[1] * 1.5); {tap}")
        assert wrong != source
        (tmp_path / "repo" / "toy.py").write_text(wrong)
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GITHUB_")}
    environment |= {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment |= {"GITHUB_OUTPUT": str(variables), "GITHUB_PATH": os.devnull}
    environment |= {**workflow()["env"], "ENGINE": "toy.py:Toy", "CASE": workflow()["jobs"]["tiny"]["env"]["CASE"]}
    hit = kept.is_dir()
    if hit:
        copytree(kept, tmp_path / "repo", dirs_exist_ok=True)
    ended: dict[str, int] = {}
    said: dict[str, str] = {}
    for job, step in steps():
        name, wanted = step.get("name", ""), step.get("if", "")
        if job != "tiny" or "run" not in step or name.startswith("Install"):
            continue
        failed, late = any(ended.values()), any(word in wanted for word in ("failure()", "cancelled()"))
        if (failed and not late) or ("failure()" in wanted and not ended.get("Gate")):
            continue
        if hit and "cache-hit != 'true'" in wanted:
            continue
        if "steps.engine.outcome == 'success'" in wanted and ended.get("Run the engine") != 0:
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", step["run"]],
            cwd=tmp_path / "repo",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        ended[name], said[name] = done.returncode, done.stdout + done.stderr
    expected = dict.fromkeys(ended, 0) | ({"Gate": 1} if planted else {})
    assert ended == expected, said
    assert ("Explain" in ended) is planted and ("Run the official model" in ended) is not hit
    assert re.fullmatch(r"key=[0-9a-f]{32}\n", variables.read_text())
    assert all((tmp_path / "repo" / "runs" / f"parity.{ending}").is_file() for ending in ("html", "xml"))
    if not hit and not planted:
        for part in ("weights", "runs/official"):
            copytree(tmp_path / "repo" / part, kept / part)
    if planted:
        assert "first divergence at step 0 · audio · guided prediction" in said["Gate"]
        assert "`denoise/000/guided/audio`" in said["Explain"]


def test_the_other_ci_says_the_same_in_twenty_lines() -> None:
    text = (ROOT / "docs" / "gitlab-ci.yml").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 20
    script = "\n".join(yaml.safe_load(text)["parity"]["script"])
    found = [shlex.split(line) for line in re.split(r"&&|\|\||\n", script) if line.strip().startswith("parity ")]
    assert [words[1] for words in found] == ["forge", "run", "run", "gate", "explain", "report"]
    assert [wrong_with(words) for words in found] == [""] * 6


def test_the_projects_own_workflow_calls_its_script_and_nothing_else() -> None:
    found = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert found["permissions"] == {"contents": "read"}
    (job,) = found["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
