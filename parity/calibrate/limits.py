"""Calibration: from harmless variations of the official run and defects of the native one to limits of a case.

Both populations are measured now, on this machine, against the same plain official run. An output metric answers for
the defects that are bound to show in what it measures (`parity.defects.defect.Facet`), decided before
measuring: no limit is fitted to catch what it happens to catch. Weak defects are the business of single modules, not of
outputs.

A group of taps answers, in the free run, for the defects that depart first there, and from the second step on for those
that are bound to spoil the final latent of its stream. In isolation it answers for the defects that lie there, and each
group for one that needs no run: its output scaled by 1 %, which is a relative L2 of 0.01 whatever it holds. What is
harmless there is a property of the place (`parity.calibrate.isolated_floors`): a few ULP where arithmetic is
elementwise, which needs no measurement, and what other exact kernels and rewrites of that place measure where sums are
long.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from typing import Final

import msgspec
import torch

from parity.calibrate.checkpoint import CalibrationCheckpoint, Member
from parity.calibrate.drift import CandidateDrift, SketchedRun, compare_with_golden, drift, same_bits, sketched_run
from parity.calibrate.harmless import Variation, variations
from parity.calibrate.isolated_errors import added_alone
from parity.calibrate.isolated_floors import place_of_group
from parity.calibrate.rewrites import ALL_AT_ONCE, REWRITES, Rewrite, rewritten
from parity.defects.catalogue import CATALOGUE, defects_of
from parity.defects.defect import Defect, Facet, present
from parity.diff.comparison import OUTPUTS, level_of
from parity.diff.isolated import isolated_numbers
from parity.diff.metric import DRIFT, ISOLATED, METRICS, Metric
from parity.diff.runs import GoldenSubset, subset_of, subset_phrase
from parity.isolate.error import IsolatedError
from parity.judge.limit import Calibration, Limit, derive_limit, exact_limit
from parity.judge.limit_table import TableKey
from parity.judge.proposal import LimitChange, Proposal, propose
from parity.judge.registry import DEFAULTS, Registry, device_of
from parity.runs.environment import fingerprint
from parity.runs.folder import Run
from parity.runs.in_memory import CPU
from parity.taps.dataflow import Dataflow
from parity.taps.group import RANGES, drift_group, isolated_group
from runners.case import Case
from runners.errors import RegistryError
from runners.releases import reference_of
from runners.weights import Weights

SCALED: Final = "scaled_by_1_percent"
SCALED_BY: Final = 0.01
CALIBRATION_DRAWS: Final = range(4)  # seeds of the ULP moves; `parity mutate` takes others
# Neither threads nor the capability of a CPU: both are varied in the harmless population.
EXPIRES_WITH: Final = ("device", "device_name", "driver", "torch", "sdpa_backends")
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
    shown_at: dict[str, frozenset[str]]  # defect -> metrics of groups in which it departs first, or adds its error
    release: str = "1.0.0"  # which the case follows
    known_defects: int = 0  # how many defects matter to the case; fewer may have been measured
    compared_on: str = ""  # what was compared, if not everything


def facet_of(metric: str) -> Facet | None:
    """The facet that a metric looks at; None for groups of taps that no facet stands for."""
    level = level_of(metric)
    if level == "isolated":
        return None
    if level == "drift":
        return _facet_of_drift(metric.removeprefix(DRIFT))
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


def _facet_of_drift(group: str) -> Facet | None:
    """A defect that spoils a final latent spoiled that stream at the first step; before, it shows where it lies."""
    if group.startswith("decode."):
        return "frames" if group == "decode.frames" else "audio"
    if not group.endswith(RANGES[1:]):
        return None
    return "video_latent" if group.split(".")[1] == "video" else "audio_latent"


def measure(
    weights: Weights,
    case: Case,
    say: Say,
    golden: Run | None = None,
    compiled: bool = False,
    *,
    device: torch.device = CPU,
    subset: GoldenSubset | None = None,
    checkpoint: CalibrationCheckpoint | None = None,
) -> Populations:
    """Run both populations of a case.

    Args:
        weights: the model's files.
        case: the request.
        say: told what is run.
        golden: an official run of the case, where official code of its release cannot run here; native, held to its
            every bit, then stands for it, also in the harmless variations. If it is reduced, outputs are before they
            are compared, since that is how candidates will be judged.
        compiled: add a run with compiled branches to the harmless ones.
        device: where everything runs. A GPU does not hold a large model twice: defects are not tried part by part
            there, and parts only in the first two steps.
        subset: what candidates will be judged by if the case's golden is reduced; outputs are reduced so, and drift
            is of those taps alone.
        checkpoint: which members are measured, and for how long; None takes all of them.
    Raises: RegistryError if the native run is not the official one, a harmless variation spoils a metric, or the
        time given is over.
    """
    runner = "official" if golden is None else "native"
    subset = subset or (None if golden is None else subset_of(golden))
    checkpoint = checkpoint or CalibrationCheckpoint()
    harmless = variations(CALIBRATION_DRAWS, case.reference, compiled, device)
    known = defects_of(case)
    ids = [variation.id for variation in harmless] + [rewrite.id for rewrite in (*REWRITES, ALL_AT_ONCE)]
    checkpoint.require_known([*ids, *(defect.id for defect in known)])
    reference = sketched_run(weights, case, runner, device=device)

    def native_as_it_is() -> Member:
        if golden is None:
            same = drift(weights, case, reference, device=device).bit_equal
        else:
            same = same_bits(compare_with_golden(golden, reference))
        if not same:
            raise RegistryError(
                f"The native run of {case.id!r} is not the official one bit for bit, so defects in it would be "
                "measured together with what is wrong already. Mend it first; `parity diff` shows where."
            )
        return Member(metrics={})

    checkpoint.take("native_as_it_is", native_as_it_is)
    floor = measure_floor(
        weights,
        case,
        reference,
        harmless,
        say,
        official=golden is None,
        subset=subset,
        device=device,
        checkpoint=checkpoint,
    )

    def spoiled(defect: Defect) -> Member:
        say(f"{case.id}: defect {defect.id}")
        with present(defect):
            drifted = drift(weights, case, reference, subset=subset, device=device)
        rows: tuple[IsolatedError, ...] = ()
        if defect.alone and golden is None and device.type == "cpu":
            with present(defect, must_reach=False):
                rows = added_alone(weights, case)
        alone = isolated_numbers([(row.where, row.error, row.note) for row in rows])
        found = (*drifted.outputs.findings, *drifted.taps.findings, *alone.findings)
        return Member(
            metrics=dict(_worth_keeping(defect, {**drifted.metrics, **alone.metrics})),
            findings=tuple(sorted({finding.code for finding in found})),
            shown_at=tuple(sorted(set(_shown_at(defect, reference.flow, rows)))),
        )

    members = {
        defect.id: checkpoint.take(defect.id, partial(spoiled, defect))
        for defect in known
        if checkpoint.wants(defect.id)
    }
    return Populations(
        case=case.id,
        release=case.reference,
        floor=floor,
        defects={name: member.numbers for name, member in members.items()},
        findings={name: member.findings for name, member in members.items()},
        shown_at={name: frozenset(member.shown_at) for name, member in members.items()},
        known_defects=len(known),
        compared_on=subset_phrase(subset),
    )


def measure_floor(
    weights: Weights,
    case: Case,
    reference: SketchedRun,
    harmless: Iterable[Variation],
    say: Say,
    *,
    official: bool = True,
    subset: GoldenSubset | None = None,
    device: torch.device = CPU,
    checkpoint: CalibrationCheckpoint | None = None,
) -> dict[str, dict[str, float]]:
    """Distances that harmless variations and rewrites move each metric, and the errors that rewrites add by themselves.

    Args:
        weights: the model's files.
        case: the request.
        reference: its run that is taken as true.
        harmless: the variations.
        say: told what is run.
        official: whether official code of the case's release can run here: variations of it are, and parts are tried
            alone beside it.
        subset: what is compared, if not everything.
        device: where everything runs.
        checkpoint: which of them are measured; None takes all.
    Raises: RegistryError if one of them spoils a comparison, or the time given is over.
    """
    checkpoint = checkpoint or CalibrationCheckpoint()

    def varied(variation: Variation) -> Member:
        say(f"{case.id}: harmless, {variation.description}")
        runner = "official" if official and not variation.native_only else "native"
        with variation.apply():
            drifted = drift(
                weights,
                case,
                reference,
                variation.dtype,
                runner,
                subset=subset,
                device=device,
                variables=variation.variables,
            )
        rows: tuple[IsolatedError, ...] = ()
        if official and variation.alone:
            rows = added_alone(weights, case, every_step=device.type == "cpu", device=device, around=variation.apply)
        return Member(metrics=dict(_harmless(variation.id, case, drifted, rows)))

    def rewritten_by(rewrite: Rewrite) -> Member:
        say(f"{case.id}: harmless, {rewrite.description}")
        with rewritten(rewrite):
            drifted = drift(weights, case, reference, subset=subset, device=device)
        rows: tuple[IsolatedError, ...] = ()
        if official:
            with rewritten(rewrite):
                rows = added_alone(weights, case, every_step=device.type == "cpu", device=device)
        return Member(metrics=dict(_harmless(rewrite.id, case, drifted, rows)))

    work = {one.id: partial(varied, one) for one in harmless}
    work |= {one.id: partial(rewritten_by, one) for one in (*REWRITES, ALL_AT_ONCE)}
    return {name: checkpoint.take(name, measured).numbers for name, measured in work.items() if checkpoint.wants(name)}


def _harmless(name: str, case: Case, drifted: CandidateDrift, rows: tuple[IsolatedError, ...]) -> dict[str, float]:
    alone = isolated_numbers([(row.where, row.error, row.note) for row in rows])
    if found := (*drifted.outputs.findings, *drifted.taps.findings, *alone.findings):
        what = "; ".join(f"{finding.code} at {finding.where}" for finding in found)
        raise RegistryError(f"The harmless variation {name!r} of {case.id!r} cannot be compared: {what}.")
    return {name: _rounded(name, value) for name, value in (drifted.metrics | dict(alone.metrics)).items()}


def _worth_keeping(defect: Defect, metrics: dict[str, float]) -> dict[str, float]:
    """The numbers of a defect to keep as samples: of outputs if it should show there, of groups if not zero."""
    return {
        name: _rounded(name, value)
        for name, value in metrics.items()
        if not math.isnan(value) and (defect.shows_in if level_of(name) == OUTPUTS else value != 0)
    }


def _rounded(metric: str, value: float) -> float:
    """Errors of groups to five digits: there are many of them, and a sketch is no more exact than that."""
    return value if level_of(metric) == OUTPUTS else float(f"{value:.5g}")


def _shown_at(defect: Defect, flow: Dataflow, rows: tuple[IsolatedError, ...]) -> Iterator[str]:
    """Metrics of the groups in which a defect is bound to show: where it departs first, and where it adds its error."""
    for tap in flow.taps:
        if any(fnmatchcase(tap, pattern) for pattern in defect.first_taps):
            yield f"{DRIFT}{drift_group(tap, flow.steps)}"
    for row in rows:
        group = isolated_group(row.where)
        if group is not None and any(fnmatchcase(row.where, pattern) for pattern in defect.places):
            yield f"{ISOLATED}{group}"


def limits_of(populations: Populations, calibration: str) -> dict[str, Limit]:
    """A limit for every metric of a case that is judged."""
    limits: dict[str, Limit] = {}
    for name, metric in METRICS.items():
        floor = {who: (values[name],) for who, values in populations.floor.items() if name in values}
        # Rewrites and other kernels are tried part by part: else a part fed the reference's own inputs gives its bits.
        measured = bool(floor) if level_of(name) == "isolated" else len(floor) == len(populations.floor)
        if name in UNJUDGED or not measured:
            continue
        limits[name] = (
            exact_limit(metric) if metric.direction == "exact" else _derived(metric, floor, populations, calibration)
        )
    return limits


def _derived(
    metric: Metric, floor: Mapping[str, tuple[float, ...]], populations: Populations, calibration: str
) -> Limit:
    facet = facet_of(metric.name)
    equality = BIT_EQUALITY_OF.get(facet) if facet and level_of(metric.name) == OUTPUTS else None
    shown = {defect.id for defect in CATALOGUE if facet in defect.shows_in}
    shown |= {name for name, metrics in populations.shown_at.items() if metric.name in metrics}
    # Without V2A, say, nothing of video reaches sound: a defect that leaves every bit alone is not there to be seen.
    shown -= {name for name, values in populations.defects.items() if equality and values.get(equality) == 1.0}
    defects = {name: (values[metric.name],) for name, values in populations.defects.items() if metric.name in values}
    place = None
    if level_of(metric.name) == "isolated":
        defects[SCALED] = (SCALED_BY,)
        shown.add(SCALED)
        group = metric.name.removeprefix(ISOLATED)
        place = place_of_group(group, guidance_fp32=reference_of(populations.release).guidance_fp32)
    return derive_limit(
        metric,
        floor=floor,
        defects=defects,
        targets=[name for name in defects if name in shown],
        calibration=calibration,
        bound=None if place is None else place.bound,
        bound_from="" if place is None else place.bound_from,
    )


def calibration_of(
    weights: Weights, cases: Mapping[str, Populations], command: str, device: torch.device = CPU
) -> Calibration:
    """The provenance of limits measured now."""
    environment = {key: str(value) for key, value in fingerprint(device).items()}
    environment["weights_sha256"] = weights.hash
    return Calibration(
        date=datetime.now(UTC).date().isoformat(),
        command=command,
        runs=tuple(
            f"{case}: {len(found.floor)} harmless variations and {len(found.defects)} of {found.known_defects} "
            "defects, in memory"
            for case, found in cases.items()
        ),
        environment=environment,
        expires_with=tuple(key for key in EXPIRES_WITH if key in environment),
        compared_on={case: found.compared_on for case, found in cases.items() if found.compared_on},
        padded_text=False,
    )


def propose_limits(
    old: Registry,
    weights: Weights,
    populations: Mapping[str, Populations],
    command: str,
    device: torch.device = CPU,
) -> Proposal:
    """The registry with new limits of these cases on a device, beside the old one.

    A limit of a metric that is not judged any more is removed in every case, and listed as removed.
    """
    calibration = calibration_of(weights, populations, command, device)
    where = device_of(calibration.environment)
    name = f"{calibration.date} {' '.join(populations)}{f' on {where}' if where else ''}"
    tables = {TableKey(case, where): limits_of(found, name) for case, found in populations.items()}
    judged = {
        where: {metric: limit for metric, limit in limits.items() if metric not in UNJUDGED}
        for where, limits in old.tables().items()
    }
    dropped = tuple(
        LimitChange(where=where, metric=metric, kind="removed", old=limit, new=None)
        for where, limits in old.tables().items()
        for metric, limit in limits.items()
        if metric in UNJUDGED
    )
    subset = msgspec.structs.replace(
        old, unjudged={**old.unjudged, **UNJUDGED}, defaults=judged.pop(DEFAULTS), cases=judged
    )
    proposal = propose(subset, tables, {name: calibration})
    return msgspec.structs.replace(proposal, changes=(*proposal.changes, *dropped))
