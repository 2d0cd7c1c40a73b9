"""Two run folders against each other: first whether they may be compared at all, then every number.

The result holds numbers only and can be saved, so that a run is judged again later without its tensors.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from parity.diff.comparable import (
    flow_of,
    identity_findings,
    output_findings,
    require_comparable,
    sides_of,
    sigma_findings,
)
from parity.diff.comparison import MEASURED, NOT_ISOLATED, OUTPUTS, Comparison, EvidenceLevel, Finding, Side, Sides
from parity.diff.imported import import_findings, losses_of, outputs_level
from parity.diff.isolated import isolated_numbers, places_of, read_isolated
from parity.diff.metric import DRIFT, METRICS
from parity.diff.outputs import OutputsDiff, compare_outputs, compare_reduced
from parity.diff.traces import OmittedTaps, TraceDiff, compare_traces
from parity.runs.difference import Difference, read_beside
from parity.runs.folder import TRACE_FILE, Run
from parity.runs.golden import golden_of, has_golden, stays_whole
from parity.runs.reduced import ReducedOutputs, default_box_px, kept_taps_of, read_reduced, reduce_outputs
from parity.taps.dataflow import Dataflow
from parity.taps.group import DRIFT_GROUPS, drift_group, worst_by_group
from parity.taps.pattern import chosen
from parity.trace.file import Trace
from runners.errors import RunError
from runners.load import load

SCHEMA_VERSION = 1
MAX_NUMBERS_BYTES = 8 << 20  # fifty times those of the longest case


@dataclass(frozen=True, kw_only=True)
class RunsDiff(Comparison):
    """All numbers and findings of one comparison of two runs."""

    reference: Side
    candidate: Side
    environment: tuple[Difference, ...]  # what differs between the two and can change bits
    metrics: dict[str, float]
    per_frame: dict[str, list[float]]  # for tables and reports, by metric
    left_out: OmittedTaps = field(default_factory=OmittedTaps)  # taps of both runs that could not be compared

    @property
    def sides(self) -> Sides:
        """Both runs, and what differs in where they were made."""
        return Sides(reference=self.reference, candidate=self.candidate, environment=self.environment)

    def document(self) -> dict[str, Any]:
        """As JSON data, before infinities are written as strings."""
        environment = [one.beside for one in self.environment]
        return {"schema_version": SCHEMA_VERSION, **asdict(self), "environment": environment}


@dataclass(frozen=True, kw_only=True)
class GoldenSubset:
    """The form a candidate is compared in with a reduced golden: small frames over such boxes, and sketches."""

    box_px: int
    pattern: str | None  # of the taps with sketches


@dataclass(frozen=True, kw_only=True)
class _LevelEvidence:
    """A level of evidence with its numbers and findings."""

    level: EvidenceLevel
    metrics: Mapping[str, float] = field(default_factory=dict)
    findings: Sequence[Finding] = ()


def subset_phrase(subset: GoldenSubset | None) -> str:
    """The name of what was compared, as numbers and calibrations give it; "" is everything."""
    if subset is None:
        return ""
    return f"boxes of {subset.box_px} px, " + ("no taps" if subset.pattern is None else f"taps {subset.pattern}")


def compare_runs(
    reference: Run, candidate: Run, isolated: Path | None = None, *, subset: GoldenSubset | None = None
) -> RunsDiff:
    """Compare two runs; if one holds reduced outputs, the other's are reduced in the same way first.

    Args:
        reference: run taken as true.
        candidate: run under test.
        isolated: what `parity isolate --out` left of the candidate, to be judged as well.
        subset: what two whole runs are compared by, which is what limits of their case were measured on; bits are
            compared of everything all the same. None takes everything.
    Raises: RunError as `require_comparable`, and for outputs or a file of isolated errors that cannot be read.
    """
    require_comparable(reference, candidate)
    labels = identity_findings(reference, candidate)
    old, new, environment = sides_of(reference, candidate)
    found = partial(
        RunsDiff,
        case=reference.case.id,
        reference=old,
        candidate=new,
        environment=environment,
        environment_of_candidate=candidate.manifest.environment,
    )
    if misshapen := candidate.misshapen_outputs():  # which is the difference; no number is of them
        wrong = (Finding(code="shape_mismatch", where=name, message=f"of the candidate {s}") for name, s in misshapen)
        why = "the candidate's outputs have other shapes than any, so nothing else was compared"
        unmeasured = dict.fromkeys(("drift", "isolated"), EvidenceLevel(measured=False, why=why))
        return found(metrics={}, findings=(*labels, *wrong), per_frame={}, levels={OUTPUTS: MEASURED} | unmeasured)
    outputs, told, compared_on = _compare_outputs(reference, candidate, subset)
    drift, omitted = _compare_taps(reference, candidate, None if subset is None else subset.pattern)
    alone = _isolated(reference, candidate, isolated)
    imported = candidate.imported
    small = "small_" if outputs.reduced else ""
    return found(
        metrics={**outputs.metrics, **drift.metrics, **alone.metrics},
        findings=(
            *labels,
            *_not_whole(candidate),
            *told,
            *outputs.findings,
            *drift.findings,
            *alone.findings,
            *sigma_findings(reference, candidate),
        ),
        per_frame={
            f"{small}psnr_db": [float(value) for value in outputs.frames.psnr_db],
            f"{small}ssim": [float(value) for value in outputs.frames.ssim],
            f"{small}mad": [float(value) for value in outputs.frames.mad],
            f"{small}flicker": [float(value) for value in outputs.frames.flicker],  # one fewer: changes
        },
        levels={
            OUTPUTS: MEASURED if imported is None else outputs_level(imported),
            "isolated": alone.level,
            "drift": drift.level,
        },
        compared_on=compared_on,
        form="" if imported is None else imported.form,
        left_out=omitted,
    )


def _not_whole(candidate: Run) -> Iterable[Finding]:
    """A finding of a candidate that is reduced: only a blessing vouches for hashes of what is no longer there."""
    if candidate.reduced:
        message = f"{candidate.folder} is reduced as goldens are, which are references; run the case again"
        yield Finding(code="reduced_candidate", where="outputs", message=message)


def _compare_outputs(
    reference: Run, candidate: Run, subset: GoldenSubset | None
) -> tuple[OutputsDiff, tuple[Finding, ...], str]:
    """The outputs of both, what the files of an import say wrongly of themselves, and what was compared."""
    imported = candidate.imported
    compared_on = subset_phrase(subset or subset_of(reference) or subset_of(candidate))
    if imported is not None and not (compared_on and imported.encoding.lossless):
        old, new = losses_of(reference, imported), candidate.outputs()
        form = "" if imported.encoding.lossless else imported.form
        return compare_outputs(old, new), import_findings(old, new, imported), form
    if not compared_on:
        return compare_outputs(reference.outputs(), candidate.outputs()), (), ""
    old_reduced, new_reduced = reduced_alike(reference, candidate, subset)
    if imported is not None and not imported.latents:
        old_reduced = replace(old_reduced, video_latent=None, audio_latent=None)
    return compare_reduced(old_reduced, new_reduced), (), compared_on


def _compare_taps(reference: Run, candidate: Run, pattern: str | None) -> tuple[_LevelEvidence, OmittedTaps]:
    """Both traces; a difference of environment is named beside the numbers, not among the findings."""
    if not (reference.has(TRACE_FILE) and candidate.has(TRACE_FILE)):
        return _LevelEvidence(level=_without_trace(reference, candidate)), OmittedTaps()
    old = reference.trace
    if (damage := _trace_damage(old, candidate)) is not None:
        why = "the candidate's trace cannot be compared"
        return _LevelEvidence(
            level=EvidenceLevel(measured=False, why=why, lacking=len(old.bits)), findings=[damage]
        ), OmittedTaps()
    new = candidate.trace
    flow = flow_of(reference, candidate, old)
    traces = compare_traces(old, new, flow, offered=candidate.offers)
    findings = [*traces.findings, *traces.left_out.owed]
    for side, run, other in (("reference", reference, new), ("candidate", candidate, old)):
        findings += output_findings(
            side, run, reduced_of(run) if run.reduced else run.outputs(), flow.final_latents, other
        )
    level = drift_level(traces, flow, candidate.offers, pattern)
    excused = {*traces.taps, *traces.by_bits, *traces.left_out.taps}
    level = replace(
        level,
        why=_counted(traces, flow) if level.measured and traces.compared < len(flow.taps) else level.why,
        compared=traces.compared,
        drifting=sum(chosen(tap, pattern) for tap in traces.taps),
        of=len(flow.taps),
        lacking=sum(tap in old.bits and tap not in excused for tap in flow.taps),
    )
    metrics = {"taps.bit_different": float(traces.bit_different), **drift_metrics(traces, flow, pattern)}
    return _LevelEvidence(level=level, metrics=metrics, findings=findings), traces.left_out


def drift_metrics(diff: TraceDiff, flow: Dataflow, pattern: str | None = None) -> dict[str, float]:
    """The worst error of each group of taps, by metric; of the taps that a pattern chooses, if one is given."""
    worst = worst_by_group(
        (drift_group(tap, flow.steps), error) for tap, error in diff.errors.items() if chosen(tap, pattern)
    )
    return {f"{DRIFT}{group}": error for group, error in worst.items()}


def drift_level(diff: TraceDiff, flow: Dataflow, offered: str = "*", pattern: str | None = None) -> EvidenceLevel:
    """Measured if every group of taps that the candidate can offer was recorded, at least in part, on both sides.

    With a pattern, only the taps that it chooses count as recorded. A group whose taps could not be compared
    (`parity.diff.traces`) is not measured, and nobody owes it.
    """
    wanted = {drift_group(tap, flow.steps) for tap in flow.taps}
    offers = {drift_group(tap, flow.steps) for tap in flow.taps if chosen(tap, offered)}
    there = {drift_group(tap, flow.steps) for tap in flow.taps if diff.is_wanted(tap) and chosen(tap, pattern)}
    omitted = {drift_group(tap, flow.steps) for tap in diff.left_out.taps} - there
    if missing := [group for group in DRIFT_GROUPS if group in offers - there - omitted]:
        named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more groups" if len(missing) > 3 else "")
        return EvidenceLevel(
            measured=False, why=f"the traces were recorded by a pattern that leaves out {named}", owed=True
        )
    if not there:
        why = diff.left_out.words if offers else "its runner offers no taps of this case"
        return EvidenceLevel(measured=False, why=why)
    return EvidenceLevel(
        measured=True,
        without=tuple(f"{DRIFT}{group}" for group in DRIFT_GROUPS if group in wanted - offers - there),
        left_out=tuple(f"{DRIFT}{group}" for group in DRIFT_GROUPS if group in omitted),
    )


def _without_trace(reference: Run, candidate: Run) -> EvidenceLevel:
    """The reason that there is no drift of two runs, of which one has no trace."""
    if not reference.has(TRACE_FILE):
        which = "the reference has no trace" if candidate.has(TRACE_FILE) else "neither run has a trace"
        return EvidenceLevel(
            measured=False, why=f"{which}; record {'it' if candidate.has(TRACE_FILE) else 'both'} with --taps '*'"
        )
    runner = candidate.manifest.runner
    lacking = len(reference.trace.bits)
    if candidate.offers:
        why = f"runner {runner!r} offers taps and its run has no trace; record it with --taps '*'"
        return EvidenceLevel(measured=False, why=why, owed=True, lacking=lacking)
    return EvidenceLevel(measured=False, why=f"runner {runner!r} offers no internals", lacking=lacking)


def _trace_damage(reference: Trace, candidate: Run) -> Finding | None:
    """The reason that a candidate's trace is no evidence, though it has one; None if it can be compared.

    What its outputs show is there all the same, and decides if it fails.
    """
    try:
        buckets = candidate.trace.buckets
    except RunError as error:
        return Finding(code="unreadable_trace", where="drift", message=str(error))
    if buckets == reference.buckets:
        return None
    message = (
        f"its sketches have {buckets} buckets, the reference's {reference.buckets}; record it with the same number"
    )
    return Finding(code="unreadable_trace", where="drift", message=message)


def _counted(traces: TraceDiff, flow: Dataflow) -> str:
    count = f"{traces.compared} of {len(flow.taps)} taps were compared"
    return f"{count}; {traces.left_out.words}" if traces.left_out.taps else count


def _isolated(reference: Run, candidate: Run, isolated: Path | None) -> _LevelEvidence:
    """The isolated errors of the candidate; of the official code, which it compares with, there is none."""
    if isolated is None:
        official = candidate.manifest.runner == "official"
        why = "the official code is what isolation compares with" if official else NOT_ISOLATED.why
        return _LevelEvidence(level=replace(NOT_ISOLATED, why=why))
    try:
        saved = read_isolated(isolated, [reference], candidate)
        alone = isolated_numbers(saved.errors(), places_of(saved, reference, candidate))
    except RunError as error:
        # What cannot be read, or is of another run, is no evidence, and must not keep what the runs show from deciding.
        why = "what was given is not of these runs, or not whole"
        finding = Finding(code="not_isolated", where="isolated", message=str(error))
        return _LevelEvidence(level=EvidenceLevel(measured=False, why=why), findings=[finding])
    return _LevelEvidence(level=MEASURED, metrics=alone.metrics, findings=alone.findings)


def reduced_of(run: Run, box_px: int | None = None) -> ReducedOutputs:
    """The outputs of a run, reduced over boxes of that size if they are not yet."""
    if run.reduced:
        return run.once("reduced", lambda: read_reduced(run.file, run.manifest.frame_rate, run.manifest.sample_rate_hz))
    return run.once(("reduced", box_px), lambda: reduce_outputs(run.outputs(), box_px))


def subset_of_case(case_id: str) -> GoldenSubset | None:
    """The part that a case's golden keeps and its limits are measured on; None if that is whole, or there is none."""
    return subset_of(golden_of(case_id)) if has_golden(case_id) else None


def subset_of(run: Run) -> GoldenSubset | None:
    """The part that a golden keeps, or a run reduced like one; None if it is whole."""
    if not run.reduced:
        return None
    pattern = run.trace.pattern if run.has(TRACE_FILE) else None
    return GoldenSubset(box_px=reduced_of(run).box_px, pattern=pattern)


def subset_of_new(run: Run, reduced: bool) -> GoldenSubset | None:
    """The part that the golden made of a run will keep; None if it stays whole."""
    if not run.reduced and stays_whole(run, reduced):
        return None
    box_px = reduced_of(run).box_px if run.reduced else default_box_px(*run.outputs().video_frames.shape[1:3])
    pattern = None
    if run.has(TRACE_FILE):
        pattern = kept_taps_of(run.trace, run.case.plans, run.manifest.num_blocks)
    return GoldenSubset(box_px=box_px, pattern=pattern)


def reduced_alike(
    reference: Run, candidate: Run, subset: GoldenSubset | None = None
) -> tuple[ReducedOutputs, ReducedOutputs]:
    """The outputs of two runs, reduced as one of them already is, or else as the golden of their case is."""
    if reference.reduced:
        old = reduced_of(reference)
        return old, reduced_of(candidate, old.box_px)
    new = reduced_of(candidate, None if subset is None else subset.box_px)
    return reduced_of(reference, new.box_px), new


def read_numbers(path: Path) -> RunsDiff:
    """Numbers saved earlier, to be judged again. Raises: RunError if the file does not have their form."""
    remedy = "saved numbers come from `parity diff REF RUN --out FILE`"
    document: dict[str, Any] = load(path, dict, RunError, remedy, max_bytes=MAX_NUMBERS_BYTES)
    return numbers_of(document, str(path))


def numbers_of(document: Any, origin: str) -> RunsDiff:
    """Numbers from what `RunsDiff.document` gave, back from JSON. Raises: RunError if it does not have that form."""
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        raise RunError(f"{origin} has another schema version than {SCHEMA_VERSION}; write the numbers again.")
    try:
        document = {name: value for name, value in document.items() if name != "schema_version"}
        document["environment"] = [asdict(read_beside(phrase)) for phrase in document["environment"]]
        document.setdefault("padded_text", True)  # as it was when this was not said
        document["metrics"] = {name: float(value) for name, value in document["metrics"].items()}
        document["per_frame"] = {
            name: [float(value) for value in values] for name, values in document["per_frame"].items()
        }
        found: RunsDiff = msgspec.convert(document, RunsDiff, strict=True)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RunError(f"{origin} does not have the form of saved numbers: {error}.") from error
    unknown = sorted(found.metrics.keys() - METRICS.keys())
    if unknown:
        raise RunError(f"{origin} holds metrics that nothing measures: {', '.join(unknown[:10])}.")
    return found
