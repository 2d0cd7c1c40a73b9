"""Run folders to an explanation: read both traces, lay out their case, gather floors, explain."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from parity.diff.comparable import (
    environment_differences,
    flow_of,
    manifest_findings,
    require_comparable,
    require_same_weights,
)
from parity.diff.isolated import read_isolated
from parity.diff.traces import compare_traces, left_out
from parity.explain.explanation import Explanation, explain
from parity.explain.floors import Floors
from parity.explain.hints import Cause, shared_by_blocks
from parity.explain.matching_tap import matching_tap
from parity.explain.oracle import arbitrate
from parity.runs.attention_kernels import kernel_differences
from parity.runs.folder import TRACE_FILE, Run
from runners.errors import ParityError, RunError
from runners.load import load

FLOORS_SCHEMA_VERSION: Final = 1
NO_TRACES: Final = "a trace of both runs is needed to tell where it departs; record them with --taps '*'"


def diagnosed_or_refused(
    reference: Run,
    candidate: Run,
    *,
    floors: Path | None = None,
    calibrated: Mapping[str, tuple[float, float]] | None = None,
    isolated: Path | None = None,
) -> Explanation | str:
    """The diagnosis, or why there can be none, for who goes on all the same; arguments as `diagnose`."""
    if not (reference.has(TRACE_FILE) and candidate.has(TRACE_FILE)):
        return NO_TRACES
    try:
        return diagnose(reference, candidate, floors=floors, calibrated=calibrated, isolated=isolated)
    except ParityError as error:
        return str(error)


def diagnose(
    reference: Run,
    candidate: Run,
    *,
    floors: Path | None = None,
    calibrated: Mapping[str, tuple[float, float]] | None = None,
    oracle: Run | None = None,
    isolated: Path | None = None,
) -> Explanation:
    """Diagnose a run by its trace.

    Args:
        reference: run taken as true, with a trace.
        candidate: run under test, with a trace.
        floors: a file of measured floors, as `parity amplify` writes it.
        calibrated: the registry's floor and limit of each group of taps, for taps that `floors` says nothing of;
            without either, floors are by rule.
        oracle: the official run in fp32, with a trace, to say who is nearer to it.
        isolated: what `parity isolate --out` left of the candidate, to tell what all blocks share.
    Raises: RunError if the runs are not of one request, a trace is missing or damaged, or floors are another case's.
    """
    require_comparable(reference, candidate)
    old, new = reference.trace, candidate.trace
    flow = flow_of(reference, candidate, old)
    environment = environment_differences(reference, candidate)
    diff = compare_traces(old, new, flow, offered=candidate.offers, environment=environment)
    diff = replace(diff, findings=(*manifest_findings(reference, candidate), *diff.findings))
    measured = None if floors is None else read_floors(floors, candidate)
    exact_runners = candidate.manifest.runner in ("native", "official") and reference.manifest.runner == "official"
    same_kind = candidate.manifest.tier == "exact" and candidate.manifest.dtype == reference.manifest.dtype
    arbitrations = None
    if oracle is not None:
        require_comparable(reference, oracle)
        require_same_weights(reference, oracle)
        if (oracle.manifest.runner, oracle.manifest.dtype) != ("official", "fp32"):
            raise RunError(f"{oracle.folder} is no oracle: wanted an official run with --dtype fp32.")
        truth = oracle.trace
        omitted = {tap for one in (old, new) for tap in left_out(truth, one, flow).taps}
        arbitrations = {tap: one for tap, one in arbitrate(truth, old, new).items() if tap not in omitted}
    return explain(
        diff,
        flow,
        Floors(flow, candidate.manifest.dtype, measured, calibrated),
        bits_expected=exact_runners and same_kind and not environment,
        arbitrations=arbitrations,
        matching=lambda tap: matching_tap(tap, old, new),
        runner=candidate.manifest.runner,
        tier=candidate.manifest.tier,
        kernels=kernel_differences(reference.manifest.details, candidate.manifest.details),
        shared=None if isolated is None else _shared(isolated, reference, candidate),
    )


def _shared(isolated: Path, reference: Run, candidate: Run) -> Cause | None:
    found = read_isolated(isolated, [reference], candidate)
    return shared_by_blocks(found.origins, {where: error for where, error, _ in found.errors()})


class MeasuredFloors(msgspec.Struct, frozen=True, kw_only=True):
    """The floors that `parity amplify --out` saved; other keys of the file are for people."""

    schema_version: int
    case: dict[str, Any]
    dtype: str
    floors: dict[str, float]  # tap to relative L2


def read_floors(path: Path, run: Run) -> dict[str, float]:
    """Measured floors for a run. Raises: RunError if the file is none, or was measured on another case or dtype."""
    remedy = "floors come from `parity amplify --out FILE`"
    found = load(path, MeasuredFloors, RunError, remedy, version=FLOORS_SCHEMA_VERSION, floats=("floors",))
    if found.case != run.manifest.case or found.dtype != run.manifest.dtype:
        raise RunError(
            f"{path} was measured on case {found.case.get('id')!r} in {found.dtype}; "
            f"{run.folder} is a run of {run.case_id!r} in {run.manifest.dtype}. Measure floors for that."
        )
    return found.floors
