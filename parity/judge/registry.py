"""The registry of limits, `thresholds/consistency_threshold.json`: for each case and metric a limit, with its origin.

Limits hold where they were measured: those of a CPU stand under the case's id, those of a GPU under `ID on DEVICE`, so
that several devices can each have their own. A metric that a case does not list takes its default; a metric with
neither is an error unless `unjudged` says why it is left out. The "exact" profile needs no entries: each metric of
direction "exact" has one wanted value. Limits are derived in `parity.judge.limit`; here they are looked up, checked
against their own samples, and replaced.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from parity.diff.metric import DRIFT, METRICS, metric_named
from parity.judge.document import Strict, load_document
from parity.judge.limit import METHOD, Calibration, Limit, again, contradiction, looser
from parity.trace.atomic import write_json_atomic
from runners.errors import RegistryError

SCHEMA_VERSION: Final = 1
DEFAULTS: Final = "defaults"  # stands for the defaults wherever a case is named
ON: Final = " on "  # between a case and a device; no case id holds a space

ChangeKind = Literal["new", "unchanged", "tightened", "loosened", "removed"]


def device_of(environment: Mapping[str, object]) -> str:
    """Whose limits hold in an environment: a GPU's by its name, "" for a CPU."""
    return "" if environment.get("device", "cpu") == "cpu" else str(environment.get("device_name"))


def table_named(case: str, device: str) -> str:
    """Under which name a case's limits of a device stand."""
    return f"{case}{ON}{device}" if device else case


class Waiver(Strict, frozen=True, kw_only=True):
    """Permission for one metric of one case to be beyond its limit. One that permits nothing fails the gate."""

    case: str
    metric: str
    reason: str

    def __post_init__(self) -> None:
        """Refuse a waiver that does not say why. Raises: RegistryError."""
        if not self.reason.strip():
            raise RegistryError(f"The waiver of {self.metric} in case {self.case!r} needs a reason.")


class Registry(Strict, frozen=True, kw_only=True):
    """All limits."""

    schema_version: Literal[1] = SCHEMA_VERSION
    method: str = METHOD
    calibrations: dict[str, Calibration] = msgspec.field(default_factory=dict)
    defaults: dict[str, Limit] = msgspec.field(default_factory=dict)
    cases: dict[str, dict[str, Limit]] = msgspec.field(default_factory=dict)
    unjudged: dict[str, str] = msgspec.field(default_factory=dict)  # metric -> why it is measured but not judged
    waivers: tuple[Waiver, ...] = ()

    def __post_init__(self) -> None:
        """Refuse names that nothing measures and references to nothing. Raises: RegistryError."""
        if DEFAULTS in self.cases:
            raise RegistryError(f"A case cannot be called {DEFAULTS!r}; default limits stand under the key 'defaults'.")
        for metric, why in self.unjudged.items():
            metric_named(metric)
            if not why.strip():
                raise RegistryError(f"unjudged.{metric} needs a reason.")
        for where, limits in self.tables().items():
            for metric, limit in limits.items():
                metric_named(metric)
                if metric in self.unjudged:
                    raise RegistryError(f"{where}: {metric} has a limit and stands under unjudged; remove one.")
                if limit.calibration is not None and limit.calibration not in self.calibrations:
                    raise RegistryError(
                        f"{where}: {metric} names calibration {limit.calibration!r}, which is not here."
                    )
        pairs = [(waiver.case, waiver.metric) for waiver in self.waivers]
        for case, metric in pairs:
            metric_named(metric)
            if pairs.count((case, metric)) > 1:
                raise RegistryError(f"{metric} is waived twice in case {case!r}.")

    def tables(self) -> dict[str, dict[str, Limit]]:
        """Every table of limits by where it stands: `defaults`, then each case."""
        return {DEFAULTS: self.defaults, **self.cases}

    def limits_of(self, case: str, device: str = "") -> dict[str, Limit]:
        """The limits that hold for a case on a device: its own, and the defaults for what it does not list."""
        return {**self.defaults, **self.cases.get(table_named(case, device), {})}

    def devices_of(self, case: str) -> tuple[str, ...]:
        """The devices on which limits of a case were measured; "" is a CPU."""
        return tuple(device for name, _, device in (where.partition(ON) for where in self.cases) if name == case)

    def floors_of(self, case: str, device: str = "") -> dict[str, tuple[float, float]]:
        """Floor and limit, relative L2, of each group of taps whose drift is judged in a case.

        That of text is left out if it was measured on padded prompts, which no comparison is of any more.
        """
        return {
            metric.removeprefix(DRIFT): (limit.floor, limit.value)
            for metric, limit in self.limits_of(case, device).items()
            if metric.startswith(DRIFT) and limit.floor is not None and not self._of_padded_text(metric, limit)
        }

    def _of_padded_text(self, metric: str, limit: Limit) -> bool:
        origin = self.calibrations.get(limit.calibration or "")
        return origin is not None and bool(origin.changed_text(metric, padded_text=False))

    def verify(self) -> None:
        """Work every limit out again from its own samples; CI runs this.

        Raises: RegistryError listing each limit that its samples contradict, and calibrations that nothing uses.
        """
        complaints = [
            f"{where}: {metric} {wrong}"
            for where, limits in self.tables().items()
            for metric, limit in limits.items()
            if (wrong := contradiction(METRICS[metric], limit))
        ]
        if self.method != METHOD:
            complaints.append(f"method says {self.method!r}; this version derives limits so: {METHOD!r}")
        used = {limit.calibration for limits in self.tables().values() for limit in limits.values()}
        complaints += [f"calibration {name!r} is used by no limit" for name in self.calibrations if name not in used]
        if complaints:
            raise RegistryError(
                "The registry contradicts itself: " + "; ".join(complaints) + ". Regenerate it with `make thresholds`; "
                "limits are not edited by hand."
            )


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One limit before and after. `where` is a case id or `defaults`; a default that a case took counts as its own."""

    where: str
    metric: str
    kind: ChangeKind
    old: Limit | None
    new: Limit | None


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A new registry beside the old one, to be shown before it is accepted."""

    registry: Registry
    changes: tuple[Change, ...]

    def loosened(self) -> tuple[Change, ...]:
        """The changes that let more pass than before."""
        return tuple(change for change in self.changes if change.kind in ("loosened", "removed"))

    def accept(self, reason: str | None) -> Registry:
        """The registry to write. Loosened limits carry the reason from here on.

        Raises: RegistryError if a limit is loosened without a reason.
        """
        loosened = self.loosened()
        given = (reason or "").strip()
        if loosened and not given:
            names = ", ".join(f"{change.where}: {change.metric} ({change.kind})" for change in loosened)
            raise RegistryError(f"This would loosen {len(loosened)} limits ({names}); say why with --reason.")
        tables = {where: dict(limits) for where, limits in self.registry.tables().items()}
        for change in loosened:
            if change.new is not None and change.metric in tables[change.where]:
                stamped = msgspec.structs.replace(change.new, reason=f"loosened: {given} ({change.new.reason})")
                tables[change.where][change.metric] = stamped
        defaults = tables.pop(DEFAULTS)
        return msgspec.structs.replace(self.registry, defaults=defaults, cases=tables)


def propose(
    old: Registry, tables: Mapping[str, Mapping[str, Limit]], calibrations: Mapping[str, Calibration]
) -> Proposal:
    """Replace whole tables of limits.

    Args:
        old: what holds now; its other tables, its waivers and what it leaves unjudged stay.
        tables: for each case id, or `defaults`, all its limits from now on.
        calibrations: where the new limits came from, by name.
    Raises: RegistryError for a metric that does not exist or a calibration that is not given.
    """
    old_tables = old.tables()
    new_tables = {where: dict(limits) for where, limits in old_tables.items()}
    for where, limits in tables.items():
        before = old_tables.get(where, {})
        new_tables[where] = {metric: _keeping_reason(before.get(metric), limit) for metric, limit in limits.items()}
    used = {limit.calibration for limits in new_tables.values() for limit in limits.values()}
    known = {**old.calibrations, **calibrations}
    defaults = new_tables.pop(DEFAULTS)
    new = Registry(
        calibrations={name: value for name, value in known.items() if name in used},
        defaults=defaults,
        cases=new_tables,
        unjudged=old.unjudged,
        waivers=old.waivers,
    )
    return Proposal(registry=new, changes=_changes(old, new))


def rederived(old: Registry, cases: Sequence[str] | None = None) -> Proposal:
    """Limits worked out again by today's method from the samples that they hold; None means those of every case.

    Raises: RegistryError for a case without limits.
    """
    known = {where: where.partition(ON)[0] for where in old.cases}
    if unknown := sorted(set(cases or ()) - set(known.values())):
        raise RegistryError(f"No limits of {', '.join(unknown)}; there are some of {', '.join(old.cases)}.")
    tables = {
        where: {metric: again(METRICS[metric], limit) for metric, limit in limits.items()}
        for where, limits in old.cases.items()
        if cases is None or known[where] in cases
    }
    return propose(old, tables, {})


def _keeping_reason(old: Limit | None, new: Limit) -> Limit:
    """A limit that did not move keeps the reason it was given when it last did."""
    if old is None or old.reason == new.reason or old.value != new.value or looser(old, new):
        return new
    return msgspec.structs.replace(new, reason=old.reason)


def _changes(old: Registry, new: Registry) -> tuple[Change, ...]:
    changes = []
    for where in {**old.tables(), **new.tables()}:
        own = {**old.tables().get(where, {}), **new.tables().get(where, {})}
        before, after = (
            one.defaults if where == DEFAULTS else {**one.defaults, **one.cases.get(where, {})} for one in (old, new)
        )
        for metric in own:
            was, becomes = before.get(metric), after.get(metric)
            changes.append(Change(where=where, metric=metric, kind=_kind(was, becomes), old=was, new=becomes))
    return tuple(changes)


def _kind(old: Limit | None, new: Limit | None) -> ChangeKind:
    if new is None:
        return "removed"
    if old is None:
        return "new"
    if looser(old, new):
        return "loosened"
    return "unchanged" if (old.value, old.status) == (new.value, new.status) else "tightened"


def load_registry(path: Path) -> Registry:
    """Read the registry. Raises: RegistryError."""
    return load_document(path, Registry, "threshold registry")


def save_registry(path: Path, registry: Registry) -> None:
    """Write the registry, whole or not at all, after checking that it can be derived again. Raises: RegistryError."""
    registry.verify()
    write_json_atomic(path, msgspec.to_builtins(registry))
