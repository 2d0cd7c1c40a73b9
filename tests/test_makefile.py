"""The cases that the Makefile names, each with a whole golden: a folder that is gone would be judged by nobody."""

import subprocess
from pathlib import Path

import pytest

from parity.runs.golden import golden_of

ROOT = Path(__file__).parents[1]
VARIABLES = {"CASES": 2, "WIDE_CASES": 3, "RELEASE_CASES": 7, "GPU_CASES": 3}


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


def test_every_tiny_case_is_judged_by_the_gate() -> None:
    judged = {name for variable in ("CASES", "WIDE_CASES", "RELEASE_CASES") for name in cases_of(variable)}
    assert judged == {path.parent.name for path in (ROOT / "golden").glob("*tiny_*/case.toml")}
