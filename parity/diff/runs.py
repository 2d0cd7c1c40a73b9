"""Two run folders against each other: first whether they may be compared at all, then every number.

The result holds numbers only and can be saved, so that a run is judged again later without its tensors.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from parity.diff.comparable import environment_differences, require_comparable, sigma_findings, weights_findings
from parity.diff.compared import Comparison
from parity.diff.drift_level import drift_level, drift_metrics, isolated_level, trace_damage, without_trace
from parity.diff.finding import Finding
from parity.diff.identity import identity_findings, side_of
from parity.diff.imported import import_findings, losses_of, outputs_level
from parity.diff.isolated import isolated_numbers, places_of, read_isolated
from parity.diff.left_out import LeftOut
from parity.diff.levels import MEASURED, NOT_ISOLATED, OUTPUTS, EvidenceLevel
from parity.diff.metric import METRICS
from parity.diff.outputs import compare_outputs
from parity.diff.reduced_outputs import compare_reduced
from parity.diff.side import Side, Sides
from parity.diff.tapped_outputs import output_findings
from parity.diff.traces import TraceDiff, compare_traces
from parity.runs.case import flow_of
from parity.runs.difference import Difference, read_beside
from parity.runs.folder import TRACE_FILE, Run
from parity.runs.golden import golden_of, has_golden, stays_whole
from parity.runs.reduced import ReducedOutputs, default_box_px, kept_taps_of, read_reduced, reduce_outputs
from parity.taps.dataflow import Dataflow
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
    left_out: LeftOut = field(default_factory=LeftOut)  # taps of both runs that could not be compared

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
    if misshapen := candidate.misshapen_outputs():
        return _without_numbers(reference, candidate, misshapen)
    imported = candidate.imported
    compared_on = subset_phrase(subset or subset_of(reference) or subset_of(candidate))
    reduced = bool(compared_on)
    told: tuple[Finding, ...] = ()
    if imported is not None and (not reduced or not imported.encoding.lossless):
        old, new, reduced = losses_of(reference, imported), candidate.outputs(), False
        outputs, told = compare_outputs(old, new), import_findings(old, new, imported)
        compared_on = "" if imported.encoding.lossless else imported.form
    elif reduced:
        old_reduced, new_reduced = reduced_alike(reference, candidate, subset)
        if imported is not None and not imported.latents:
            old_reduced = replace(old_reduced, video_latent=None, audio_latent=None)
        outputs = compare_reduced(old_reduced, new_reduced)
    else:
        outputs = compare_outputs(reference.outputs(), candidate.outputs())
    small = "small_" if reduced else ""
    metrics = dict(outputs.metrics)
    findings = [*identity_findings(reference, candidate), *weights_findings(reference, candidate)]
    findings += [*_not_whole(candidate), *told, *outputs.findings]
    levels = {OUTPUTS: outputs_level(imported), "isolated": isolated_level(NOT_ISOLATED, candidate)}
    omitted = LeftOut()
    traced = reference.has(TRACE_FILE) and candidate.has(TRACE_FILE)
    if traced and (damage := trace_damage(reference, candidate)) is not None:
        findings.append(damage)
        levels["drift"] = EvidenceLevel(
            measured=False, why="the candidate's trace cannot be compared", lacking=len(reference.trace.bits)
        )
    elif traced:
        traces, flow = _compare_taps(reference, candidate)
        omitted = traces.left_out
        findings += [*traces.findings, *omitted.owed]
        for side, run, other in (("reference", reference, candidate), ("candidate", candidate, reference)):
            made = reduced_of(run) if run.reduced else run.outputs()
            findings += output_findings(side, run, made, flow.steps, other.trace)
        metrics["taps.bit_different"] = float(traces.bit_different)
        pattern = None if subset is None else subset.pattern
        metrics |= drift_metrics(traces, flow, pattern)
        levels["drift"] = drift_level(traces, flow, candidate.offers, pattern)
        levels["drift"] = replace(
            levels["drift"],
            why=_counted(traces, flow)
            if levels["drift"].measured and traces.compared < len(flow.taps)
            else levels["drift"].why,
            compared=traces.compared,
            drifting=sum(chosen(tap, pattern) for tap in traces.taps),
            of=len(flow.taps),
            lacking=_lacking(reference.trace, traces, flow),
        )
    else:
        levels["drift"] = without_trace(reference, candidate)
    if isolated is not None:
        try:
            saved = read_isolated(isolated, [reference], candidate)
            alone = isolated_numbers(saved.errors(), places_of(saved, reference, candidate))
        except RunError as error:
            # What cannot be read, or is of another run, is no evidence, and must not keep what the runs show from
            # deciding.
            findings.append(Finding(code="not_isolated", where="isolated", message=str(error)))
            levels["isolated"] = EvidenceLevel(measured=False, why="what was given is not of these runs, or not whole")
        else:
            findings += alone.findings
            metrics |= alone.metrics
            levels["isolated"] = MEASURED
    findings += sigma_findings(reference, candidate)
    return RunsDiff(
        case=reference.case_id,
        reference=side_of(reference),
        candidate=side_of(candidate),
        environment=tuple(environment_differences(reference, candidate)),
        environment_of_candidate=candidate.manifest.environment,
        metrics=metrics,
        findings=tuple(findings),
        per_frame={
            f"{small}psnr_db": [float(value) for value in outputs.frames.psnr_db],
            f"{small}ssim": [float(value) for value in outputs.frames.ssim],
            f"{small}mad": [float(value) for value in outputs.frames.mad],
            f"{small}flicker": [float(value) for value in outputs.frames.flicker],  # one fewer: changes
        },
        levels=levels,
        compared_on=compared_on,
        form="" if imported is None else imported.form,
        left_out=omitted,
    )


def _without_numbers(reference: Run, candidate: Run, misshapen: Iterable[tuple[str, str]]) -> RunsDiff:
    """A comparison with outputs that have another shape than any, which is the difference; no number is of them."""
    wrong = [
        Finding(code="shape_mismatch", where=name, message=f"of the candidate {words}") for name, words in misshapen
    ]
    why = "the candidate's outputs have other shapes than any, so nothing else was compared"
    return RunsDiff(
        case=reference.case_id,
        reference=side_of(reference),
        candidate=side_of(candidate),
        environment=tuple(environment_differences(reference, candidate)),
        environment_of_candidate=candidate.manifest.environment,
        metrics={},
        findings=(*identity_findings(reference, candidate), *weights_findings(reference, candidate), *wrong),
        per_frame={},
        levels={OUTPUTS: MEASURED} | dict.fromkeys(("drift", "isolated"), EvidenceLevel(measured=False, why=why)),
    )


def _not_whole(candidate: Run) -> Iterable[Finding]:
    """A finding of a candidate that is reduced: only a blessing vouches for hashes of what is no longer there."""
    if candidate.reduced:
        message = f"{candidate.folder} is reduced as goldens are, which are references; run the case again"
        yield Finding(code="reduced_candidate", where="outputs", message=message)


def _lacking(reference: Trace, traces: TraceDiff, flow: Dataflow) -> int:
    """Number of the reference's taps that were not compared, but for those that cannot be."""
    excused = {*traces.taps, *traces.by_bits, *traces.left_out.taps}
    return sum(tap in reference.bits and tap not in excused for tap in flow.taps)


def _counted(traces: TraceDiff, flow: Dataflow) -> str:
    count = f"{traces.compared} of {len(flow.taps)} taps were compared"
    return f"{count}; {traces.left_out.words}" if traces.left_out.taps else count


def _compare_taps(reference: Run, candidate: Run) -> tuple[TraceDiff, Dataflow]:
    """Both traces; a difference of environment is named beside the numbers, not among the findings."""
    old, new = reference.trace, candidate.trace
    flow = flow_of(reference, candidate, old)
    return compare_traces(old, new, flow, offered=candidate.offers), flow


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
        pattern = kept_taps_of(run.trace, len(run.manifest.step_s), run.manifest.num_blocks)
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
