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
    if given:
        if (Path(given) / "golden").is_dir():  # one that is being set up has no limits yet
            return Path(given)
        raise RunError(f"PARITY_ROOT is {given}, which has no folder golden/; set it to a checkout, or not at all.")
    here = Path.cwd()
    for folder in (here, *here.parents, _own_root()):
        if (folder / "golden").is_dir() and (folder / "thresholds").is_dir():
            return folder
    raise RunError("No golden/ and thresholds/ found here or above; work in a checkout, or set PARITY_ROOT to one.")


def foreign_root() -> Path | None:
    """The project's root where its goldens and limits are not those of the checkout that this code is of; else None."""
    root = project_root().absolute()
    return None if root.resolve() == _own_root() else root


def _own_root() -> Path:
    return Path(parity.__file__).resolve().parent.parent


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
