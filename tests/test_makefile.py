"""The cases that the Makefile names, each with a whole golden: a folder that is gone would be judged by nobody."""

import subprocess
from pathlib import Path

import pytest

from parity.judge.registry import load_registry
from parity.runs.golden import golden_of
from parity.runs.places import limits_path

ROOT = Path(__file__).parents[1]
JUDGED = {"CASES": 2, "WIDE_CASES": 4, "STAGED_CASES": 4, "RELEASE_CASES": 7, "STAGED_RELEASE_CASES": 5}
VARIABLES = JUDGED | {"GPU_CASES": 3}


def cases_of(variable: str) -> list[str]:
    """A variable as make itself expands it."""
    recipe = f"shown: ; @echo $({variable})"
    shown = subprocess.run(
        ["make", "--silent", "--eval", recipe, "shown"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return shown.stdout.split()


@pytest.mark.parametrize("variable", VARIABLES)
def test_every_case_of_the_makefile_has_a_whole_golden(variable: str) -> None:
    names = cases_of(variable)
    assert len(names) == VARIABLES[variable]
    for name in names:
        golden = golden_of(name)
        assert golden.manifest.case["id"] == name and golden.manifest.runner == "official"


@pytest.mark.parametrize(
    ("fails", "code"),
    [("nothing", 0), ("tiny_text_only", 2), ("tiny_keyframes", 2), ("release_1.1.2", 2), ("rejudge", 2)],
)
def test_the_gate_fails_with_any_part_side_by_side(fails: str, code: int, tmp_path: Path) -> None:
    parity = tmp_path / "parity"
    parity.write_text(f'#!/bin/sh\necho "called: $*"\ncase "$*" in *{fails}*) exit 1;; esac\n')
    parity.chmod(0o755)
    command = ["make", "--jobs=2", "--output-sync=target", "gate", f"PARITY={parity}", "INTERPRETER=none"]
    done = subprocess.run([*command, f"WEIGHTS={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done
    calls = [line.split() for line in done.stdout.splitlines() if line.startswith("called: ")]
    judged = [words[i + 1] for words in calls for i, word in enumerate(words) if word == "--case"]
    if code == 0:
        named = [name for variable in JUDGED for name in cases_of(variable)]
        assert sorted(judged) == sorted(named)
        assert sorted(words[1] for words in calls) == ["forge", "rejudge", *["suite"] * 4]
        assert all("--golden" in words for words in calls if words[1] == "suite")


def test_every_tiny_case_that_has_limits_is_judged_by_the_gate() -> None:
    judged = {name for variable in JUDGED for name in cases_of(variable)}
    assert judged <= {key.case for key in load_registry(limits_path()).cases}
    assert judged == {path.parent.name for path in (ROOT / "golden").glob("*tiny_*/case.toml")}


def test_limits_from_kept_samples_run_nothing_and_minutes_keep_samples() -> None:
    def recipe(*arguments: str) -> str:
        command = ["make", "--dry-run", "--always-make", "SYSTEM_TORCH=", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    quick = recipe("thresholds-quick", "REASON=as before")
    assert '-m parity.cli.app calibrate --from-samples --reason "as before"' in quick and "--weights" not in quick
    pieces = [line for line in recipe("thresholds", "MINUTES=7").splitlines() if " calibrate " in line]
    assert len(pieces) == 2 and all("--limits-only --minutes 7 --samples build/samples" in line for line in pieces)
    whole = recipe("thresholds")
    assert "--minutes" not in whole and "--samples" not in whole and whole.count("--limits-only") == 1
