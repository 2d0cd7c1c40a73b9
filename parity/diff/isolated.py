"""Isolated errors that `parity isolate --out` saved, read back as numbers that a gate judges.

Such a file says whose errors they are: the case, weights, environment and code must be the candidate's own, so that one
cannot stand in for another's. An isolation of some stages or blocks only is for people; a gate wants a whole one, of at
least the first two denoising steps (the second step is the first with a past).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from parity.diff.finding import Finding
from parity.diff.metric import ISOLATED
from parity.runs.environment import differences
from parity.runs.folder import Run
from parity.taps.group import isolated_group, worst_by_group
from runners.clock import STAGES
from runners.errors import RunError
from runners.load import load

SCHEMA_VERSION: Final = 1
MAX_BYTES: Final = 256 << 20
FIRST_STEPS: Final = 2  # that an isolation must hold to be judged, where a run has so many


class IsolatedRow(msgspec.Struct, frozen=True, kw_only=True):
    """The error that one place adds; the file's other keys of a row are for people."""

    where: str
    added: float  # nan where the two could not be compared
    note: str = ""


class SavedIsolation(msgspec.Struct, frozen=True, kw_only=True):
    """A saved isolation: whose it is, and every place's error. Other keys of the file are for people."""

    schema_version: int
    case: dict[str, Any]
    inputs: dict[str, str]
    runner: str
    tier: str
    dtype: str
    details: dict[str, Any]  # how the model was configured
    weights_hash: str
    environment: dict[str, Any]
    stages: tuple[str, ...]
    steps: tuple[int, ...]
    whole: bool  # whether everything within those stages and steps was measured, not some blocks only
    rows: tuple[IsolatedRow, ...]
    origins: tuple[str, ...] = ()  # places that add an error which no place before them explains

    def errors(self) -> list[tuple[str, float, str]]:
        """Place, relative L2 and note of each row; nan where the two could not be compared."""
        return [(row.where, row.added, row.note) for row in self.rows]

    @property
    def differing(self) -> tuple[str, ...]:
        """Places that do not have the reference's bits, in data-flow order."""
        return tuple(where for where, error, _ in self.errors() if error != 0)


@dataclass(frozen=True, kw_only=True)
class IsolatedNumbers:
    """The numbers a gate judges: the worst error of each group, and places that could not be compared."""

    metrics: Mapping[str, float]
    findings: tuple[Finding, ...]


def isolated_numbers(errors: Sequence[tuple[str, float, str]]) -> IsolatedNumbers:
    """The metrics of an isolation, from place, error and note of each row in data-flow order.

    A place that could not be compared is a finding, and so is one of no known group that differs.
    """
    worst = worst_by_group(
        (group, error)
        for where, error, _ in errors
        if not math.isnan(error) and (group := isolated_group(where)) is not None
    )
    findings = tuple(
        Finding(code="not_isolated", where=where, message=note or "could not be compared")
        for where, error, note in errors
        if math.isnan(error) or (isolated_group(where) is None and error != 0)
    )
    return IsolatedNumbers(metrics={f"{ISOLATED}{group}": error for group, error in worst.items()}, findings=findings)


def read_isolated(path: Path, candidate: Run) -> SavedIsolation:
    """Isolated errors for a run under test, fit for a gate.

    Raises: RunError if the file is none, is not a whole isolation, or is not of this run's request, weights,
        environment and code.
    """
    remedy = "isolated errors come from `parity isolate REF --out FILE`"
    found = load(path, SavedIsolation, RunError, remedy, max_bytes=MAX_BYTES, version=SCHEMA_VERSION, floats=("rows",))
    _require_of(path, found, candidate)
    count = len(candidate.record.step_s)
    missing = [stage for stage in STAGES if stage not in found.stages]
    if missing or not found.whole or not set(range(min(FIRST_STEPS, count))) <= set(found.steps) or not found.rows:
        raise RunError(
            f"{path} is an isolation of some parts only (stages {', '.join(found.stages)}; steps {found.steps}); a "
            "gate wants all stages and blocks and at least the first two steps: run `parity isolate` without them."
        )
    return found


def _require_of(path: Path, found: SavedIsolation, candidate: Run) -> None:
    record = candidate.record
    pairs: dict[str, tuple[Any, Any]] = {
        "case": (found.case, record.case),
        "pictures": (found.inputs, record.inputs),
        "runner": (found.runner, record.runner),
        "tier": (found.tier, record.tier),
        "dtype": (found.dtype, record.dtype),
        "weights": (found.weights_hash, record.weights_hash),
        "configuration": (found.details, {name: record.details.get(name) for name in found.details}),
        "code": (found.environment.get("source_hash"), record.environment.get("source_hash")),
    }
    wrong = [name for name, (theirs, ours) in pairs.items() if theirs != ours]
    # Both sides of an isolation are computed on as many threads; how many is harmless.
    elsewhere = differences(found.environment, record.environment, without=("threads",))
    wrong += [one.beside for one in elsewhere]
    if wrong:
        raise RunError(
            f"{path} holds isolated errors of another run than {candidate.folder}: they differ in {'; '.join(wrong)}. "
            "Isolate what was run: the same code, case, weights and machine."
        )
