"""The registry of limits, `thresholds/consistency_threshold.json`: for each case and metric a limit, with its origin.

Limits hold where they were measured, so their key is a case and a device. A metric that a case does not list takes its
default; a metric with neither is an error unless `unjudged` says why it is left out. The "exact" profile needs no
entries: each metric of direction "exact" has one wanted value. Limits are derived in `parity.judge.limit`, replaced in
`parity.judge.proposal`; here they are looked up, checked against their own samples, read and written. How a table of
them lies in files is said in `parity.judge.limit_table`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from parity.diff.metric import DRIFT, METRICS, metric_named
from parity.judge.document import as_form, document_text, json_value, naming
from parity.judge.limit import METHOD, Calibration, Limit, contradiction
from parity.judge.limit_table import (
    SAMPLES_FOLDER,
    LimitTable,
    TableKey,
    joined,
    remove_samples,
    require_samples,
    split,
    spread,
    write_samples,
)
from parity.runs.places import data_roots, form_limits_path, limits_path
from parity.trace.atomic import write_bytes_atomic
from runners.errors import RegistryError
from runners.strict import Strict

SCHEMA_VERSION: Final = 3
WANTED: Final = "threshold registry"
LIMITS_LINES_AT: Final = 4  # how deep in the file a value takes one line: tables, one of them, its limits, one of them
MOST_COMPLAINTS: Final = 5  # that are said one by one
MOST_READ: Final = 8  # registries that are kept as they were read: a suite asks a dozen times for each case
DEFAULTS: Final = TableKey("defaults")  # stands for the defaults wherever a case is named


def device_of(environment: Mapping[str, object]) -> str:
    """Whose limits hold in an environment: a GPU's by its name, "" for a CPU."""
    return "" if environment.get("device", "cpu") == "cpu" else str(environment.get("device_name"))


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

    method: str = METHOD
    calibrations: dict[str, Calibration] = msgspec.field(default_factory=dict)
    defaults: dict[str, Limit] = msgspec.field(default_factory=dict)
    cases: dict[TableKey, dict[str, Limit]] = msgspec.field(default_factory=dict)
    unjudged: dict[str, str] = msgspec.field(default_factory=dict)  # metric -> why it is measured but not judged
    waivers: tuple[Waiver, ...] = ()

    def __post_init__(self) -> None:
        """Refuse names that nothing measures and references to nothing. Raises: RegistryError."""
        if any(key.case == DEFAULTS.case for key in self.cases):
            raise RegistryError(f"A case cannot be called {DEFAULTS.case!r}: default limits stand under that name.")
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

    def tables(self) -> dict[TableKey, dict[str, Limit]]:
        """Every table of limits by its key: `DEFAULTS`, then each case."""
        return {DEFAULTS: self.defaults, **self.cases}

    def limits_of(self, case: str, device: str = "") -> dict[str, Limit]:
        """The limits that hold for a case on a device: its own, and the defaults for what it does not list."""
        return {**self.defaults, **self.cases.get(TableKey(case, device), {})}

    def devices_of(self, case: str) -> tuple[str, ...]:
        """The devices on which limits of a case were measured; "" is a CPU."""
        return tuple(key.device for key in self.cases if key.case == case)

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

        Raises: RegistryError listing limits that their samples contradict, and calibrations that nothing uses.
        """
        complaints = self._contradictions(self.tables())
        if self.method != METHOD:
            complaints.append(f"method says {self.method!r}; this version derives limits so: {METHOD!r}")
        used = {limit.calibration for limits in self.tables().values() for limit in limits.values()}
        complaints += [f"calibration {name!r} is used by no limit" for name in self.calibrations if name not in used]
        self._refuse(complaints)

    def verify_case(self, case: str) -> None:
        """Work the limits of one case out again, on every device, and the defaults: all that a verdict on it may use.

        Raises: RegistryError listing limits that their samples contradict.
        """
        self._refuse(self._contradictions(key for key in self.tables() if key == DEFAULTS or key.case == case))

    def _contradictions(self, keys: Iterable[TableKey]) -> list[str]:
        tables = self.tables()
        return [
            f"{key}: {metric} {wrong}"
            for key in keys
            for metric, limit in tables[key].items()
            if (wrong := contradiction(METRICS[metric], limit))
        ]

    def _refuse(self, complaints: list[str]) -> None:
        if complaints:
            more = f"; and {len(complaints) - MOST_COMPLAINTS} more" if len(complaints) > MOST_COMPLAINTS else ""
            raise RegistryError(
                f"The registry contradicts itself: {'; '.join(complaints[:MOST_COMPLAINTS])}{more}. Restore it as it "
                "was committed, or regenerate it with `make thresholds`; limits are not edited by hand."
            )


class Document(Strict, frozen=True, kw_only=True):
    """The registry as it is kept: tables without their samples, which each of them names.

    In schema version 2 every limit gave its reason; since then one that its samples say is left out.
    """

    schema_version: Literal[2, 3] = SCHEMA_VERSION
    method: str
    unjudged: dict[str, str]
    waivers: tuple[Waiver, ...]
    tables: tuple[LimitTable, ...]


class Document1(Strict, frozen=True, kw_only=True):
    """The registry in schema version 1: samples in every limit, and `ID on DEVICE` for a key."""

    schema_version: Literal[1]
    method: str
    calibrations: dict[str, Calibration]
    defaults: dict[str, Limit]
    cases: dict[str, dict[str, Limit]]
    unjudged: dict[str, str]
    waivers: tuple[Waiver, ...]


_READ: dict[str, tuple[Registry, tuple[str, ...]]] = {}  # by their text


def root_of_limits(case: str, form: str = "") -> Path:
    """The root of data whose registry judges a case: one's own if it has limits of it, else what ships.

    Args:
        case: id.
        form: of lossy outputs, which have registries of their own; "" for what loses nothing.
    Returns: the first root that has limits of the case, else the first with a registry, else the first.
    Raises: RegistryError for a registry on the way that cannot be read.
    """
    roots = data_roots()
    paths = {root: form_limits_path(form, root) if form else limits_path(root) for root in roots}
    there = [root for root in roots if paths[root].is_file()]
    if len(there) > 1:
        for root in there:
            if any(key.case == case for key in load_registry(paths[root]).cases):
                return root
    return next(iter((*there, *roots)))


def load_registry(path: Path) -> Registry:
    """Read the registry and the samples that it names; one of schema version 1, too. Raises: RegistryError."""
    while True:
        text = document_text(path, WANTED)
        try:
            found, names = _read(text, path)
            with naming(path, WANTED):
                for name in names:
                    require_samples(name, path.parent / SAMPLES_FOLDER)
            return found
        except RegistryError:  # a writer takes away the samples of the registry that it has just replaced
            if document_text(path, WANTED) == text:
                raise


def _read(text: str, path: Path) -> tuple[Registry, tuple[str, ...]]:
    """The registry that a text holds, and the files of samples that it names; their names are their hashes."""
    found = _READ.get(text)
    if found is None:
        value = json_value(text, path, WANTED)
        with naming(path, WANTED):
            found = _registry_of(value, path.parent / SAMPLES_FOLDER)
        if len(_READ) == MOST_READ:
            _READ.clear()
        _READ[text] = found
    return found


def save_registry(path: Path, registry: Registry) -> None:
    """Write the registry after checking that it can be derived again; the caller holds `changing(path)`.

    Samples are written first, to names that no registry had, and then the registry itself: a writer that is killed
    leaves the old registry or the new one, each with all of its samples. Raises: RegistryError.
    """
    registry.verify()
    folder = path.parent / SAMPLES_FOLDER
    keys = ([DEFAULTS] if registry.defaults else []) + sorted(registry.cases)
    tables = []
    for key in keys:
        table, samples = split(key, registry.tables()[key], registry.calibrations)
        if table.samples is not None and samples is not None:
            write_samples(folder, table.samples, samples)
        tables.append(table)
    document = Document(
        method=registry.method, unjudged=registry.unjudged, waivers=registry.waivers, tables=tuple(tables)
    )
    write_bytes_atomic(path, spread(msgspec.to_builtins(document), LIMITS_LINES_AT))
    remove_samples(folder, unless={table.samples for table in tables})


def _registry_of(value: Any, folder: Path) -> tuple[Registry, tuple[str, ...]]:
    if isinstance(value, dict) and value.get("schema_version") == 1:
        return _registry_of_version_1(value), ()
    document = as_form(value, Document)
    tables: dict[TableKey, dict[str, Limit]] = {}
    calibrations: dict[str, Calibration] = {}
    for table in document.tables:
        key = TableKey(table.case, table.device)
        if key in tables:
            raise RegistryError(f"the limits of {key} stand here twice.")
        tables[key], its = joined(table, folder)
        for name, calibration in its.items():
            if calibrations.setdefault(name, calibration) != calibration:
                raise RegistryError(f"calibration {name!r} of {key} is another one elsewhere.")
    registry = Registry(
        method=document.method,
        calibrations=calibrations,
        defaults=tables.pop(DEFAULTS, {}),
        cases=tables,
        unjudged=document.unjudged,
        waivers=document.waivers,
    )
    return registry, tuple(table.samples for table in document.tables if table.samples is not None)


def _registry_of_version_1(value: dict[str, Any]) -> Registry:
    """Read the old words, too: `CALIBRATION_NEEDED` is `OVERLAP` since version 2."""
    old, new = "CALIBRATION_NEEDED", "OVERLAP"
    if isinstance(method := value.get("method"), str):
        value["method"] = method.replace(old, new)
    # Whatever has not its form is left as it is, for the form to refuse.
    tables = [value.get("defaults"), *(cases.values() if isinstance(cases := value.get("cases"), dict) else ())]
    for limits in (table.values() for table in tables if isinstance(table, dict)):
        for limit in limits:
            if isinstance(limit, dict) and limit.get("status") == old:
                limit["status"] = new
    document = as_form(value, Document1)
    keys = {where: where.partition(" on ") for where in document.cases}
    return Registry(
        method=document.method,
        calibrations=document.calibrations,
        defaults=document.defaults,
        cases={TableKey(keys[where][0], keys[where][2]): limits for where, limits in document.cases.items()},
        unjudged=document.unjudged,
        waivers=document.waivers,
    )
