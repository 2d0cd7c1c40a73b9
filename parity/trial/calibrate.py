"""Calibration: from harmless variations of the official run and defects of the native one to limits of a case.

Both populations are measured now, on this machine, against the same plain official run. An output metric answers for
the defects that are bound to show in what it measures (`parity.trial.defect.Facet`), decided before measuring: no limit
is fitted to catch what it happens to catch. Weak defects are the business of single modules, not of outputs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import msgspec
import torch

from parity.diff.metric import METRICS, Metric
from parity.diff.outputs import OutputsDiff, compare_outputs
from parity.diff.reduced_outputs import compare_reduced
from parity.diff.runs import reduced_of
from parity.judge.limit import Calibration, Limit, derive_limit, exact_limit
from parity.judge.registry import DEFAULTS, Change, Proposal, Registry, propose
from parity.trace.bundle import Outputs, Run
from parity.trace.environment import fingerprint
from parity.trace.reduced import reduce_outputs
from parity.trial.benign import Variation, variations
from parity.trial.catalogue import CATALOGUE
from parity.trial.defect import Defect, Facet, present
from parity.trial.execute import execute
from runners.case import Case
from runners.errors import RegistryError
from runners.weights import WeightsFolder

CALIBRATION_DRAWS: Final = range(4)  # seeds of the ULP moves; `parity mutate` takes others
EXPIRES_WITH: Final = ("device", "device_name", "driver", "torch", "sdpa_backends", "threads")
TAIL: Final = "rounding changes the sign of values near zero, which is as far apart as ULPs go: the tail says nothing"
ROUNDING: Final = "counts elements that rounding alone changes almost all of; bit equality is judged by the exact tier"
UNJUDGED: Final[dict[str, str]] = {
    **{
        name: "whether bits are equal is judged by the exact tier; limits are for candidates with other bits"
        for name in METRICS
        if ".bit_equal." in name or name == "taps.bit_different"
    },
    **{
        f"{latent}.{name}": reason
        for latent in ("video_latent", "audio_latent")
        for names, reason in (
            (("value_mismatches", "bit_mismatches"), ROUNDING),
            (("ulp.p99", "ulp.p100"), TAIL),
        )
        for name in names
    },
}
BIT_EQUALITY_OF: Final[dict[Facet, str]] = {
    "frames": "outputs.bit_equal.frames",
    "audio": "outputs.bit_equal.audio",
    "video_latent": "outputs.bit_equal.video_latent",
    "audio_latent": "outputs.bit_equal.audio_latent",
}
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Populations:
    """The two populations of one case, metric by metric."""

    case: str
    floor: dict[str, dict[str, float]]  # variation -> metric -> value
    defects: dict[str, dict[str, float]]  # defect -> metric -> value, where it could be computed
    findings: dict[str, tuple[str, ...]]  # defect -> what the comparison refused outright


def facet_of(metric: str) -> Facet:
    """What a metric looks at."""
    if metric.startswith("av."):
        return "av_offset"
    if metric.startswith("audio.lag"):
        return "audio_lag"
    if metric.startswith("audio.level"):
        return "audio_level"
    facets: dict[str, Facet] = {
        "frames": "frames",
        "small_frames": "frames",
        "audio": "audio",
        "video_latent": "video_latent",
        "audio_latent": "audio_latent",
    }
    return facets[metric.partition(".")[0]]


def defects_of(case: Case) -> tuple[Defect, ...]:
    """The defects that output metrics answer for and that matter to a case as it stands."""
    return tuple(defect for defect in CATALOGUE if defect.shows_in and defect.variant.fits(case))


def compare_in_dtype(reference: Outputs, candidate: Outputs) -> OutputsDiff:
    """Compare outputs, the candidate's latents rounded to the reference's dtype first."""
    return compare_outputs(reference, in_dtype_of(reference, candidate))


def in_dtype_of(reference: Outputs, candidate: Outputs) -> Outputs:
    """The candidate with its latents rounded to the reference's dtype."""
    return replace(
        candidate,
        video_latent=candidate.video_latent.to(reference.video_latent.dtype),
        audio_latent=candidate.audio_latent.to(reference.audio_latent.dtype),
    )


def measure(
    weights: WeightsFolder, case: Case, say: Say, recorded: Run | None = None, compiled: bool = False
) -> Populations:
    """Run both populations of a case.

    Args:
        weights: the model's files.
        case: the request.
        say: told what is run.
        recorded: an official run of the case, where official code of its release cannot run here; native, held to its
            every bit, then stands for it, also in the harmless variations. If it is reduced, outputs are before they
            are compared, since that is how candidates will be judged.
        compiled: add a run with compiled blocks to the harmless ones.
    Raises: RegistryError if the native run is not the official one, or a harmless variation spoils a metric.
    """
    reference = execute("official" if recorded is None else "native", weights, case)
    reduced = recorded is not None and recorded.reduced
    if recorded is None:
        plain = compare_outputs(reference, execute("native", weights, case))
    elif reduced:
        plain = compare_reduced(reduced_of(recorded), reduce_outputs(reference))
    else:
        plain = compare_outputs(recorded.outputs(), reference)
    if not all(value == 1.0 for name, value in plain.metrics.items() if ".bit_equal." in name):
        raise RegistryError(
            f"The native run of {case.id!r} is not the official one bit for bit, so defects in it would be measured "
            "together with what is wrong already. Mend it first; `parity diff` shows where."
        )
    floor = {}
    for variation in variations(CALIBRATION_DRAWS, case.reference, compiled):
        say(f"{case.id}: harmless, {variation.description}")
        runner = "native" if variation.native_only or recorded is not None else "official"
        with variation.apply():
            candidate = execute(runner, weights, case, variation.dtype)
        floor[variation.id] = _harmless(case, variation, _compared(reference, candidate, reduced))
    defects, findings = {}, {}
    for defect in defects_of(case):
        say(f"{case.id}: defect {defect.id}")
        with present(defect):
            candidate = execute("native", weights, case)
        found = _compared(reference, candidate, reduced)
        defects[defect.id] = {name: value for name, value in found.metrics.items() if value == value}  # without nan
        findings[defect.id] = tuple(sorted({finding.code for finding in found.findings}))
    return Populations(case=case.id, floor=floor, defects=defects, findings=findings)


def _compared(reference: Outputs, candidate: Outputs, reduced: bool) -> OutputsDiff:
    if not reduced:
        return compare_in_dtype(reference, candidate)
    return compare_reduced(reduce_outputs(reference), reduce_outputs(in_dtype_of(reference, candidate)))


def _harmless(case: Case, variation: Variation, found: OutputsDiff) -> dict[str, float]:
    if found.findings:
        what = "; ".join(f"{finding.code} at {finding.where}" for finding in found.findings)
        raise RegistryError(f"The harmless variation {variation.id!r} of {case.id!r} cannot be compared: {what}.")
    return dict(found.metrics)


def limits_of(populations: Populations, calibration: str) -> dict[str, Limit]:
    """A limit for every metric of a case that is judged."""
    limits: dict[str, Limit] = {}
    for name, metric in METRICS.items():
        measured = all(name in values for values in populations.floor.values())
        if name in UNJUDGED or not measured:
            continue
        limits[name] = (
            exact_limit(metric) if metric.direction == "exact" else _derived(metric, populations, calibration)
        )
    return limits


def _derived(metric: Metric, populations: Populations, calibration: str) -> Limit:
    facet = facet_of(metric.name)
    equality = BIT_EQUALITY_OF.get(facet)
    shown = {defect.id for defect in CATALOGUE if facet in defect.shows_in}
    # Without V2A, say, nothing of video reaches sound: a defect that leaves every bit alone is not there to be seen.
    shown -= {name for name, values in populations.defects.items() if equality and values.get(equality) == 1.0}
    defects = {name: (values[metric.name],) for name, values in populations.defects.items() if metric.name in values}
    return derive_limit(
        metric,
        floor={name: (values[metric.name],) for name, values in populations.floor.items()},
        defects=defects,
        targets=[name for name in defects if name in shown],
        calibration=calibration,
    )


def calibration_of(weights: WeightsFolder, cases: Mapping[str, Populations], command: str) -> Calibration:
    """Where limits measured now come from."""
    environment = {key: str(value) for key, value in fingerprint(torch.device("cpu")).items()}
    environment["weights_sha256"] = weights.hash
    return Calibration(
        date=datetime.now(UTC).date().isoformat(),
        command=command,
        runs=tuple(
            f"{case}: {len(found.floor)} harmless variations and {len(found.defects)} defects, in memory"
            for case, found in cases.items()
        ),
        environment=environment,
        expires_with=tuple(key for key in EXPIRES_WITH if key in environment),
    )


def propose_limits(
    old: Registry, weights: WeightsFolder, populations: Mapping[str, Populations], command: str
) -> Proposal:
    """The registry with new limits of these cases, beside the old one.

    A limit of a metric that is not judged any more is removed in every case, and listed as removed.
    """
    calibration = calibration_of(weights, populations, command)
    name = f"{calibration.date} {' '.join(populations)}"
    tables = {case: limits_of(found, name) for case, found in populations.items()}
    judged = {
        where: {metric: limit for metric, limit in limits.items() if metric not in UNJUDGED}
        for where, limits in old.tables().items()
    }
    dropped = tuple(
        Change(where=where, metric=metric, kind="removed", old=limit, new=None)
        for where, limits in old.tables().items()
        for metric, limit in limits.items()
        if metric in UNJUDGED
    )
    kept = msgspec.structs.replace(
        old, unjudged={**old.unjudged, **UNJUDGED}, defaults=judged.pop(DEFAULTS), cases=judged
    )
    proposal = propose(kept, tables, {name: calibration})
    return msgspec.structs.replace(proposal, changes=(*proposal.changes, *dropped))
