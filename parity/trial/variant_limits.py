"""Limits for a variant of a case: the case's own, widened where harmless runs of the variant itself go farther.

A keyframe or a skipped step changes how far noise grows, and the registry holds limits of whole cases only.
"""

from collections.abc import Mapping

import msgspec

from parity.diff.metric import METRICS
from parity.judge.limit import Limit, derive_limit
from parity.judge.registry import Registry


def widened(registry: Registry, case: str, floor: Mapping[str, Mapping[str, float]]) -> Registry:
    """The registry with one case's limits at `MARGIN` times a floor, where that lets more pass.

    Args:
        registry: limits, the case's among them.
        case: its id.
        floor: harmless run of the variant -> metric -> value.
    Raises: RegistryError for a harmless value that is NaN or bounds nothing.
    """
    limits = {name: _looser_of(name, limit, floor) for name, limit in registry.limits_of(case).items()}
    return msgspec.structs.replace(registry, cases={**registry.cases, case: limits})


def _looser_of(name: str, limit: Limit, floor: Mapping[str, Mapping[str, float]]) -> Limit:
    if limit.calibration is None or not all(name in values for values in floor.values()):
        return limit
    own = derive_limit(
        METRICS[name],
        floor={run: (values[name],) for run, values in floor.items()},
        defects={},
        calibration=limit.calibration,
    )
    farther = max if limit.direction == "lower" else min
    return msgspec.structs.replace(limit, value=farther(limit.value, own.value))
