"""Limits for a variant of a case: the case's own, widened where harmless runs of the variant itself go farther.

Groups of taps that the variant does not have, such as those of V2A where that is off, have no limit there.

A keyframe or a skipped step changes how far noise grows, and the registry holds limits of whole cases only.
"""

from collections.abc import Mapping

import msgspec

from parity.diff.comparison import OUTPUTS, level_of
from parity.diff.metric import METRICS
from parity.judge.limit import Limit, derive_limit
from parity.judge.limit_table import TableKey
from parity.judge.registry import Registry


def widened(registry: Registry, case: str, floor: Mapping[str, Mapping[str, float]], device: str = "") -> Registry:
    """The registry with one case's limits at the reach of harmless variation, where that lets more pass.

    Args:
        registry: limits, the case's among them.
        case: its id.
        floor: harmless run of the variant -> metric -> value.
        device: whose limits they are, "" for a CPU.
    Raises: RegistryError for a harmless value that is NaN or bounds nothing.
    """
    measured = {name for values in floor.values() for name in values}
    limits = {
        name: _looser_of(name, limit, floor)
        for name, limit in registry.limits_of(case, device).items()
        if level_of(name) == OUTPUTS or name in measured
    }
    return msgspec.structs.replace(registry, cases={**registry.cases, TableKey(case, device): limits})


def _looser_of(name: str, limit: Limit, floor: Mapping[str, Mapping[str, float]]) -> Limit:
    samples = {run: (values[name],) for run, values in floor.items() if name in values}
    if limit.calibration is None or not samples:
        return limit
    own = derive_limit(
        METRICS[name],
        floor=samples,
        defects={},
        calibration=limit.calibration,
    )
    farther = max if limit.direction == "lower" else min
    assert limit.floor is not None and own.floor is not None
    return msgspec.structs.replace(limit, value=farther(limit.value, own.value), floor=farther(limit.floor, own.floor))
