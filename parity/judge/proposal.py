"""A new registry beside the old one: which limits were tightened, loosened or removed, and why that may be.

A limit is loosened only with a reason, which it carries from then on.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from parity.diff.metric import METRICS
from parity.judge.limit import Calibration, Limit, again, looser
from parity.judge.limit_table import TableKey
from parity.judge.reach import distance
from parity.judge.registry import DEFAULTS, Registry
from runners.errors import RegistryError

ChangeKind = Literal["new", "unchanged", "tightened", "loosened", "removed"]


class LimitChange(msgspec.Struct, frozen=True, kw_only=True):
    """One limit before and after. `where` may be `DEFAULTS`; a default that a case took counts as its own."""

    where: TableKey
    metric: str
    kind: ChangeKind
    old: Limit | None
    new: Limit | None

    @property
    def factor(self) -> float:
        """By how many times the distance from perfect agreement that a limit allows changed, up or down.

        It is infinite for a limit that is new or gone, or that allows something in place of nothing.
        """
        if self.old is None or self.new is None:
            return math.inf
        old, new = (distance(limit.value, limit.unit, limit.direction) for limit in (self.old, self.new))
        if old == new:
            return 1.0
        return max(old, new) / min(old, new) if min(old, new) > 0 else math.inf


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A new registry beside the old one, to be shown before it is accepted."""

    registry: Registry
    changes: tuple[LimitChange, ...]

    def loosened(self) -> tuple[LimitChange, ...]:
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
    old: Registry, tables: Mapping[TableKey, Mapping[str, Limit]], calibrations: Mapping[str, Calibration]
) -> Proposal:
    """Replace whole tables of limits.

    Args:
        old: what holds now; its other tables, its waivers and what it leaves unjudged stay.
        tables: for each case and device, or `DEFAULTS`, all its limits from now on.
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
    if unknown := sorted(set(cases or ()) - {where.case for where in old.cases}):
        there = ", ".join(map(str, old.cases))
        raise RegistryError(f"No limits of {', '.join(unknown)}; there are some of {there}.")
    tables = {
        where: {metric: again(METRICS[metric], limit) for metric, limit in limits.items()}
        for where, limits in old.cases.items()
        if cases is None or where.case in cases
    }
    return propose(old, tables, {})


def _keeping_reason(old: Limit | None, new: Limit) -> Limit:
    """A limit that did not move keeps the reason it was given when it last did."""
    if old is None or old.reason == new.reason or old.value != new.value or looser(old, new):
        return new
    return msgspec.structs.replace(new, reason=old.reason)


def _changes(old: Registry, new: Registry) -> tuple[LimitChange, ...]:
    changes = []
    for where in {**old.tables(), **new.tables()}:
        own = {**old.tables().get(where, {}), **new.tables().get(where, {})}
        before, after = (
            one.defaults if where == DEFAULTS else {**one.defaults, **one.cases.get(where, {})} for one in (old, new)
        )
        for metric in own:
            was, becomes = before.get(metric), after.get(metric)
            changes.append(LimitChange(where=where, metric=metric, kind=_kind(was, becomes), old=was, new=becomes))
    return tuple(changes)


def _kind(old: Limit | None, new: Limit | None) -> ChangeKind:
    if new is None:
        return "removed"
    if old is None:
        return "new"
    if looser(old, new):
        return "loosened"
    return "unchanged" if (old.value, old.status) == (new.value, new.status) else "tightened"
