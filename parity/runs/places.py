"""The places of the project's data: goldens and limits, in the checkout one works in."""

import os
from pathlib import Path

import parity
from runners.errors import RunError


def project_root() -> Path:
    """The folder with `golden/` and `thresholds/`: $PARITY_ROOT, else a parent that has both, else the checkout.

    Raises: RunError if there is none.
    """
    given = os.environ.get("PARITY_ROOT")
    here = Path.cwd()
    candidates = [Path(given)] if given else [here, *here.parents, Path(parity.__file__).parent.parent]
    for folder in candidates:
        if (folder / "golden").is_dir():
            return folder
    raise RunError("No golden/ and thresholds/ found here or above; work in a checkout, or set PARITY_ROOT to one.")


def limits_path() -> Path:
    """The threshold registry."""
    return project_root() / "thresholds" / "consistency_threshold.json"


def form_limits_path(form: str) -> Path:
    """The threshold registry of outputs in a lossy form; `form` is a label that `parity.runs.encoding` has read."""
    return project_root() / "thresholds" / "forms" / form / "consistency_threshold.json"


def baselines_path() -> Path:
    """The performance baselines."""
    return project_root() / "thresholds" / "perf_baselines.json"


def mutation_path() -> Path:
    """The last saved mutation score: how many known defects each level of evidence catches."""
    return project_root() / "docs" / "measurements" / "mutation_tiny.json"


def form_mutation_path(form: str) -> Path:
    """The last count of known defects that outputs in a lossy form give away; `form` as `form_limits_path` has it."""
    return project_root() / "docs" / "measurements" / f"form_{form}.json"
