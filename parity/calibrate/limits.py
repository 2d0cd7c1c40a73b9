"""Calibration: from harmless variations of the official run and defects of the native one to limits of a case.

Both populations are measured by `parity.calibrate.populations`. An output metric answers for the defects that are bound
to show in what it measures (`parity.defects.defect.Facet`), decided before measuring: no limit is fitted to catch what
it happens to catch. Weak defects are the business of single modules, not of outputs.

A group of taps answers, in the free run, for the defects that depart first there, and from the second step on for those
that are bound to spoil the final latent of its stream. In isolation it answers for the defects that lie there, and each
group for one that needs no run: its output scaled by 1 %, which is a relative L2 of 0.01 whatever it holds. What is
harmless there is a property of the place (`parity.calibrate.isolated_floors`): a few ULP where arithmetic is
elementwise, which needs no measurement, and what other exact kernels and rewrites of that place measure where sums are
long.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec
import torch

from parity.calibrate.another_gpu import ANOTHER_GPU
from parity.calibrate.isolated_floors import place_of_group
from parity.calibrate.populations import Populations
from parity.defects.catalogue import CATALOGUE
from parity.defects.defect import Facet
from parity.diff.comparison import OUTPUTS, level_of
from parity.diff.metric import DRIFT, ISOLATED, METRICS, Metric
from parity.judge.limit import Calibration, Limit, derive_limit, exact_limit
from parity.judge.limit_table import TableKey
from parity.judge.proposal import LimitChange, Proposal, propose
from parity.judge.registry import DEFAULTS, Registry, device_of
from parity.runs.environment import fingerprint
from parity.runs.in_memory import CPU
from parity.taps.group import RANGES
from runners.releases import reference_of
from runners.weights import Weights

SCALED: Final = "scaled_by_1_percent"
SCALED_BY: Final = 0.01
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


def limits_of(populations: Populations, calibration: str) -> dict[str, Limit]:
    """A limit for every metric of a case that is judged."""
    limits: dict[str, Limit] = {}
    free = {who for who, values in populations.floor.items() if any(level_of(name) != "isolated" for name in values)}
    free.discard(ANOTHER_GPU)  # of whose golden not all is comparable
    for name, metric in METRICS.items():
        floor = {who: (values[name],) for who, values in populations.floor.items() if name in values}
        # Rewrites and other kernels are tried part by part: else a part fed the reference's own inputs gives its bits.
        measured = bool(floor) and (level_of(name) == "isolated" or floor.keys() >= free)
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
