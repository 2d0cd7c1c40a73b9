"""Limits from a larger harmless population: what the kept samples of a case lack is measured and joined to them.

The samples of limits lie beside the registry, so a population grows without measuring all of it again: by more
draws of a variation, or a variation that is new. Both halves must be of one machine and one model, as far as limits
know it (`Calibration.expires_with`, and the hash of the weights). Defects stay as they were measured.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from parity.calibrate.harmless import Variation
from parity.calibrate.populations import Populations
from parity.diff.metric import METRICS
from parity.judge.limit import Calibration, Limit, again
from parity.judge.limit_table import TableKey
from parity.judge.proposal import Proposal, propose
from parity.judge.registry import Registry, device_of
from parity.runs.difference import Difference
from runners.errors import RegistryError

WEIGHTS: Final = "weights_sha256"


def lacking(registry: Registry, key: TableKey, known: Iterable[Variation]) -> tuple[str, ...]:
    """The ids of the harmless variations of which a case has no sample.

    Those that are tried part by part as well are left out: they are measured with the rest or not at all.
    Raises: RegistryError for a case without limits on that device.
    """
    if key not in registry.cases:
        raise RegistryError(f"There are no limits of '{key}' to extend; measure them first: `parity calibrate`.")
    limits = registry.cases[key].values()
    measured = {name for limit in limits if limit.samples is not None for name in limit.samples.floor}
    return tuple(one.id for one in known if one.id not in measured and not one.alone)


def extended(old: Registry, found: Mapping[str, Populations], environment: Mapping[str, str], command: str) -> Proposal:
    """The registry with limits of these cases from what was measured before and now.

    Args:
        old: limits with their samples.
        found: harmless variations measured now, by case.
        environment: of this process and machine, with the hash of the weights.
        command: that measured them.
    Raises: RegistryError where the older samples are of another machine or model, or nothing was compared alike.
    """
    device = device_of(environment)
    on = device or environment.get("cpu", "a CPU")
    today = datetime.now(UTC).date().isoformat()
    tables: dict[TableKey, dict[str, Limit]] = {}
    added: dict[str, Calibration] = {}
    for case, populations in found.items():
        key = TableKey(case, device)
        limits: dict[str, Limit] = {}
        for metric, limit in old.cases[key].items():
            more = {who: (values[metric],) for who, values in populations.floor.items() if metric in values}
            if limit.samples is None or limit.calibration is None or not more:
                limits[metric] = limit
                continue
            before, name = old.calibrations[limit.calibration], f"{limit.calibration}, extended {today}"
            _require_of_one_machine(before, key, environment, populations.compared_on)
            samples = msgspec.structs.replace(limit.samples, floor={**limit.samples.floor, **more})
            joined = msgspec.structs.replace(limit, samples=samples, calibration=name)
            limits[metric] = again(METRICS[metric], joined)
            added[name] = msgspec.structs.replace(
                before,
                date=today,
                command=f"{before.command}; {command}",
                runs=(*before.runs, f"{case}: {len(populations.floor)} more harmless variations on {on}, in memory"),
            )
        if not limits.keys() & set().union(*populations.floor.values()):
            raise RegistryError(f"Nothing that was measured of '{key}' has a limit there; nothing is extended.")
        tables[key] = limits
    return propose(old, tables, added)


def _require_of_one_machine(
    before: Calibration, key: TableKey, environment: Mapping[str, str], compared_on: str
) -> None:
    changed = [*before.changed(environment), *before.changed_population(key.case, compared_on)]
    weights = (before.environment.get(WEIGHTS, "not recorded"), environment[WEIGHTS])
    if len(set(weights)) > 1:
        changed.append(Difference(key=WEIGHTS, old=weights[0], new=weights[1]))
    if changed:
        raise RegistryError(
            f"The samples of '{key}' are of another machine or model ({'; '.join(map(str, changed))}); "
            "a population is of one: measure it anew with `parity calibrate`."
        )
