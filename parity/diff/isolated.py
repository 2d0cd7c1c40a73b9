"""Isolated errors that `parity isolate --out` saved, read back as numbers that a gate judges.

Such a file says whose errors they are: it names the two runs by the hash of their run.json, and the case, weights,
environment and code must be the candidate's own, so that one cannot stand in for another's. An isolation of some stages
or blocks only is for people; a gate wants a whole one, of at least the first two denoising steps (the second step is
the first with a past). Which places a whole one has follows from the case (`parity.taps.isolated_places`): each of them
stands there once, and nothing else does.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from parity.diff.comparable import flow_of
from parity.diff.comparison import Finding
from parity.diff.metric import ISOLATED
from parity.runs.environment import differences
from parity.runs.folder import TRACE_FILE, Run
from parity.taps.group import isolated_group, worst_by_group
from parity.taps.isolated_places import isolated_places
from runners.clock import STAGES, UPSAMPLING
from runners.errors import RunError
from runners.load import load

SCHEMA_VERSION: Final = 2
MAX_BYTES: Final = 32 << 20  # sixteen times those of the released model
FIRST_STEPS: Final = 2  # that an isolation must hold to be judged, where a run has so many


class IsolatedRow(msgspec.Struct, frozen=True, kw_only=True):
    """The error that one place adds; the file's other keys of a row are for people."""

    where: str
    added: float  # nan where the two could not be compared
    note: str = ""


class BoundRuns(msgspec.Struct, frozen=True, kw_only=True):
    """The runs that an isolation is evidence for, each by the SHA-256 of its run.json."""

    reference: tuple[str, ...]  # a run and the golden of its case may both be judged by
    candidate: str


def bound_runs(references: Iterable[Run], candidate: Run) -> BoundRuns:
    """The hashes of runs on disk."""
    hashes = tuple(run.sha256 for run in references)
    return BoundRuns(reference=hashes, candidate=candidate.sha256)


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
    runs: BoundRuns | None = None  # None if nobody said whose gate may judge it
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


def isolated_numbers(errors: Sequence[tuple[str, float, str]], places: Sequence[str] | None = None) -> IsolatedNumbers:
    """The metrics of an isolation, from place, error and note of each row in data-flow order.

    A place that could not be compared is a finding; so are one of no known group that differs, an error below zero and,
    where the places are given that there must be, one that is not among them, missing, or there twice.
    """
    wanted = None if places is None else frozenset(places)
    findings = []
    good: list[tuple[str, float]] = []
    seen: set[str] = set()
    for where, error, note in errors:
        group = isolated_group(where)
        if math.isnan(error):
            wrong = note or "could not be compared"
        elif error < 0:
            wrong = f"adds {error:g}: no error is below zero"
        elif where in seen and wanted is not None:
            wrong = "stands there twice"
        elif (wanted is not None and where not in wanted) or (group is None and error != 0):
            wrong = "is no place of this case"
        else:
            wrong = ""
        if wrong:
            findings.append(Finding(code="not_isolated", where=where, message=wrong))
        elif group is not None:
            good.append((group, error))
        seen.add(where)
    if missing := [place for place in places or () if place not in seen]:
        more = f", and {len(missing) - 1} more are missing" if len(missing) > 1 else ""
        findings.append(Finding(code="not_isolated", where=missing[0], message=f"was not measured{more}"))
    return IsolatedNumbers(
        metrics={f"{ISOLATED}{group}": error for group, error in worst_by_group(good).items()},
        findings=tuple(findings),
    )


def places_of(found: SavedIsolation, reference: Run, candidate: Run) -> tuple[str, ...]:
    """The places that an isolation of two runs must have, for the steps that it says it measured.

    Raises: RunError if there are no such steps, or nothing says how many blocks the model has.
    """
    flow = flow_of(reference, candidate, reference.trace if reference.has(TRACE_FILE) else None)
    if len(set(found.steps)) != len(found.steps) or not set(found.steps) <= set(range(flow.steps)):
        raise RunError(f"It says that it measured steps {found.steps}; the case has steps 0 to {flow.steps - 1}.")
    return isolated_places(flow, found.steps)


def read_isolated(path: Path, references: Sequence[Run], candidate: Run) -> SavedIsolation:
    """Isolated errors for a run under test, fit for a gate.

    Args:
        path: of the file.
        references: the runs that it must have been made for, together with the candidate.
        candidate: the run under test.
    Raises: RunError if the file is none, is not a whole isolation, or is not of these runs, or of another request,
        weights, environment or code than the candidate.
    """
    remedy = "isolated errors for a gate come from `parity isolate REF RUN --weights W --out FILE`"
    found = load(path, SavedIsolation, RunError, remedy, max_bytes=MAX_BYTES, version=SCHEMA_VERSION, floats=("rows",))
    _require_of(path, found, references, candidate)
    count = len(candidate.manifest.step_s)
    had = [stage for stage in STAGES if stage != UPSAMPLING or len(candidate.case.plans) > 1]
    missing = [stage for stage in had if stage not in found.stages]
    if missing or not found.whole or not set(range(min(FIRST_STEPS, count))) <= set(found.steps) or not found.rows:
        raise RunError(
            f"{path} is an isolation of some parts only (stages {', '.join(found.stages)}; steps {found.steps}); a "
            "gate wants all stages and blocks and at least the first two steps: run `parity isolate` without them."
        )
    return found


def _require_of(path: Path, found: SavedIsolation, references: Sequence[Run], candidate: Run) -> None:
    record = candidate.manifest
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
    bound, wanted = found.runs, bound_runs(references, candidate)
    if bound is None or bound.candidate != wanted.candidate or not set(wanted.reference) <= set(bound.reference):
        whose = "no run in particular" if bound is None else "other runs"
        raise RunError(
            f"{path} was made for {whose}, not for {candidate.folder} beside "
            f"{' and '.join(str(run.folder) for run in references)}. Name both, with `parity isolate REF "
            "--against RUN --out FILE`; REF is a run, or a case for its golden."
        )
