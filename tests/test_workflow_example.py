"""The workflow in docs/ is one that would run: its commands, options, targets and cases exist."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from parity.cli.app import app

ROOT = Path(__file__).parent.parent
WORKFLOW = ROOT / "docs" / "github-actions.yml"


def workflow() -> Any:
    return yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))


def steps() -> list[tuple[str, dict[str, Any]]]:
    return [(name, step) for name, job in workflow()["jobs"].items() for step in job["steps"]]


def commands(script: str) -> list[list[str]]:
    return [shlex.split(line) for line in script.replace("\\\n", " ").splitlines() if line.strip()]


def wrong_with(words: list[str]) -> str:
    """Why a `parity` command line would be refused, or ""."""
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
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for job, step in steps():
        for words in commands(step.get("run", "")):
            if words[0] == "parity":
                verbs.append((job, words[1]))
                assert wrong_with(words) == "", words
            elif words[0] == "make":
                assert words[3] in targets
    assert verbs == [
        *(("tiny", verb) for verb in ("forge", "run", "run", "gate", "report")),
        *(("full", verb) for verb in ("run", "gate", "report")),
    ]


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


def test_report_and_files_are_kept_when_the_gate_fails() -> None:
    for job in ("tiny", "full"):
        names = [step.get("name", "") for one, step in steps() if one == job]
        after = next(index for index, name in enumerate(names) if name.startswith("Gate")) + 1
        late = [step for one, step in steps() if one == job][after:]
        assert len(late) == 2 and all(step["if"] == "${{ !cancelled() }}" for step in late)
