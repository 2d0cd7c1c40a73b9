"""The limits of one case on one device as files: a table that people review, and the samples that it follows from.

The table stands in the registry, one line a limit: what decides, and why. Raw samples, and the calibrations that they
are of, are several times as much. They lie beside it in `thresholds/samples/`, in a file whose name ends in the SHA-256
of its bytes. The table names that file, so it is bound to these very samples, and a new file never overwrites one that
a registry still names.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from parity.diff.metric import METRICS, Direction, metric_named
from parity.judge.document import as_form, document_text, json_value, naming
from parity.judge.limit import Calibration, Limit, Samples, Status, reason_of_populations
from parity.judge.reach import distances_of
from parity.trace.atomic import plain, write_bytes_atomic
from runners.errors import RegistryError
from runners.files import read_bytes
from runners.strict import Strict

SAMPLES_FOLDER: Final = "samples"  # beside the registry
SAMPLES_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,180}-([0-9a-f]{64})\.json"  # no folder can be said in it
MAX_SAMPLES_BYTES: Final = 4 << 20  # ten times the largest there is
SAMPLES_WANTED: Final = "file of samples"
SAID: Final = "(...)"  # ends a reason in the file, for what the samples of its limit say
SAMPLES_LINES_AT: Final = 2  # how deep in the file a value takes one line: each calibration, each metric


@dataclass(frozen=True, order=True)
class TableKey:
    """The place of a table of limits: limits hold for the case and the device that they were measured on."""

    case: str
    device: str = ""  # name of a GPU; a CPU has none

    def __str__(self) -> str:
        """For people and labels; nothing reads it back."""
        return f"{self.case} on {self.device}" if self.device else self.case


class LimitLine(Strict, frozen=True, kw_only=True, omit_defaults=True):
    """The part of a `Limit` that is reviewed."""

    value: float
    unit: str = ""
    direction: Direction
    status: Status
    floor: tuple[float, str | None] | None = None  # and the harmless variation it is of
    weakest_defect: tuple[float, str | None] | None = None  # and the defect it is of
    separation: float | None = None
    reason: str | None = None  # what the samples say by themselves is left out, or stands as `SAID` behind the rest


class LimitTable(Strict, frozen=True, kw_only=True, omit_defaults=True):
    """The limits of a case on a device, without what they follow from."""

    case: str
    device: str = ""
    samples: str | None = None  # name of a file in `SAMPLES_FOLDER`; None if every limit is exact
    limits: dict[str, LimitLine]


class MetricSamples(Samples, frozen=True, kw_only=True):
    """The samples of one metric, and which calibration they are of."""

    calibration: str


class TableSamples(Strict, frozen=True, kw_only=True):
    """The samples that the limits of a table follow from."""

    schema_version: Literal[1] = 1
    case: str
    device: str
    calibrations: dict[str, Calibration]
    samples: dict[str, MetricSamples]  # by metric


def split(
    key: TableKey, limits: Mapping[str, Limit], calibrations: Mapping[str, Calibration]
) -> tuple[LimitTable, bytes | None]:
    """A table to be reviewed, and the bytes of the file of samples that it names.

    Raises: RegistryError for a limit with samples of no calibration or the other way round, or too many samples.
    """
    lines: dict[str, LimitLine] = {}
    samples: dict[str, MetricSamples] = {}
    for metric in METRICS:  # outputs first, then taps as the data flows
        if metric not in limits:
            continue
        limit = limits[metric]
        lines[metric] = _line(metric, limit)
        if (limit.samples is None) != (limit.calibration is None):
            raise RegistryError(f"{key}: {metric} has samples or a calibration; it needs both, or neither.")
        if limit.samples is not None and limit.calibration is not None:
            samples[metric] = MetricSamples(calibration=limit.calibration, **_fields(limit.samples))
    if not samples:
        return LimitTable(case=key.case, device=key.device, limits=lines), None
    used = {one.calibration for one in samples.values()}
    document = TableSamples(
        case=key.case,
        device=key.device,
        calibrations={name: calibrations[name] for name in sorted(used)},
        samples=samples,
    )
    data = spread(msgspec.to_builtins(document), SAMPLES_LINES_AT)
    if len(data) > MAX_SAMPLES_BYTES:
        raise RegistryError(f"{key}: the samples take {len(data)} bytes; wanted at most {MAX_SAMPLES_BYTES}.")
    place = re.sub(r"[^A-Za-z0-9_.]+", "_", key.device)[:60]
    name = f"{key.case}{'@' if place else ''}{place}-{hashlib.sha256(data).hexdigest()}.json"
    if not re.fullmatch(SAMPLES_NAME, name):
        raise RegistryError(f"No file can be named after {key.case!r}; wanted letters, digits, `_`, `.` and `-`.")
    return LimitTable(case=key.case, device=key.device, samples=name, limits=lines), data


def joined(table: LimitTable, folder: Path) -> tuple[dict[str, Limit], dict[str, Calibration]]:
    """The limits of a table with their samples, and the calibrations that these are of.

    Args:
        table: as it stands in the registry.
        folder: where files of samples lie.
    Raises: RegistryError for a name that is not one of ours, a file that is missing, too large, changed or of another
        table, and samples of a metric without a limit.
    """
    found = None if table.samples is None else _samples_named(table.samples, folder)
    if found is not None and (found.case, found.device) != (table.case, table.device):
        key, other = TableKey(table.case, table.device), TableKey(found.case, found.device)
        raise RegistryError(f"the limits of {key} name {table.samples}, which holds the samples of {other}.")
    samples = {} if found is None else found.samples
    if stray := samples.keys() - table.limits.keys():
        raise RegistryError(f"{table.samples} has samples of {', '.join(sorted(stray))}, which has no limit.")
    limits = {metric: _limit(metric, line, samples.get(metric)) for metric, line in table.limits.items()}
    return limits, {} if found is None else found.calibrations


def write_samples(folder: Path, name: str, data: bytes) -> None:
    """Write a file of samples unless it is there already, whole or not at all."""
    path = folder / name
    if not (path.is_file() and read_bytes(path, RegistryError, max_bytes=MAX_SAMPLES_BYTES) == data):
        write_bytes_atomic(path, data)


def remove_samples(folder: Path, unless: set[str | None]) -> None:
    """Remove files of samples that no table names any more; nothing else is touched."""
    for path in folder.glob("*.json"):
        if re.fullmatch(SAMPLES_NAME, path.name) and path.name not in unless:
            path.unlink()


def spread(value: Any, lines_at: int) -> bytes:
    """JSON with a line for each value at a depth, so that a difference of two files is a line for each that changed.

    Args:
        value: plain lists, tables, text and numbers; a float reads back as the same float.
        lines_at: 0 writes all of it in one line, 1 each of its items, and so on.
    """
    return (_spread(plain(value), lines_at, "") + "\n").encode()


def _spread(value: Any, depth: int, indent: str) -> str:
    if depth == 0 or not value or not isinstance(value, dict | list):
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    deeper = indent + "  "
    if isinstance(value, list):
        items = [_spread(item, depth - 1, deeper) for item in value]
    else:
        items = [f"{json.dumps(key)}: {_spread(item, depth - 1, deeper)}" for key, item in value.items()]
    first, last = "[]" if isinstance(value, list) else "{}"
    return f"{first}\n{deeper}" + f",\n{deeper}".join(items) + f"\n{indent}{last}"


def require_samples(name: str, folder: Path) -> str:
    """The text of a file of samples. Raises: RegistryError if it is missing, too large or changed, or no such name."""
    form = re.fullmatch(SAMPLES_NAME, name)
    if form is None:
        raise RegistryError(f"{name!r} does not name a file of samples; wanted CASE-SHA256.json, without a folder.")
    if not (folder / name).is_file():
        raise RegistryError(
            f"limits name the samples {name}, which are not in {folder}. Restore the whole of thresholds/ as it was "
            "committed, or measure again with `make thresholds`."
        )
    text = document_text(folder / name, SAMPLES_WANTED, MAX_SAMPLES_BYTES)
    with naming(folder / name, SAMPLES_WANTED):
        if (found := hashlib.sha256(text.encode()).hexdigest()) != form.group(1):
            raise RegistryError(f"its bytes have the hash {found[:12]}..., not that of its name; they were changed.")
    return text


def _samples_named(name: str, folder: Path) -> TableSamples:
    text = require_samples(name, folder)
    with naming(folder / name, SAMPLES_WANTED):
        return _samples_of(text, folder / name)


@lru_cache(maxsize=64)  # a registry has a file a case, and most of them stay when it changes
def _samples_of(text: str, path: Path) -> TableSamples:
    return as_form(json_value(text, path, SAMPLES_WANTED), TableSamples)


def _line(metric: str, limit: Limit) -> LimitLine:
    line = LimitLine(
        value=limit.value,
        unit=limit.unit,
        direction=limit.direction,
        status=limit.status,
        floor=None if limit.floor is None else (limit.floor, limit.floor_from),
        weakest_defect=None if limit.weakest_defect is None else (limit.weakest_defect, limit.weakest_defect_from),
        separation=limit.separation,
        reason=limit.reason,
    )
    said = _reason_in_samples(metric, line, limit.samples)
    if said is not None and limit.reason == said:
        return msgspec.structs.replace(line, reason=None)
    if said is not None and limit.reason.endswith(f"({said})"):
        return msgspec.structs.replace(line, reason=limit.reason.removesuffix(f"({said})") + SAID)
    return line


def _limit(metric: str, line: LimitLine, samples: MetricSamples | None) -> Limit:
    reason = line.reason
    if reason is None or reason.endswith(SAID):
        said = _reason_in_samples(metric, line, samples)
        reason = said if reason is None or said is None else reason.removesuffix(SAID) + f"({said})"
    if reason is None:
        what = "a reason" if line.status == "exact" else "floor, samples and calibration, or a reason"
        raise RegistryError(f"A limit that is {line.status} needs {what}.")
    floor, floor_from = line.floor or (None, None)
    weakest_defect, weakest_defect_from = line.weakest_defect or (None, None)
    fields = {} if samples is None else _fields(samples)
    calibration = fields.pop("calibration", None)
    return Limit(
        value=line.value,
        unit=line.unit,
        direction=line.direction,
        status=line.status,
        reason=reason,
        floor=floor,
        floor_from=floor_from,
        weakest_defect=weakest_defect,
        weakest_defect_from=weakest_defect_from,
        separation=line.separation,
        calibration=calibration,
        samples=None if samples is None else Samples(**fields),
    )


def _reason_in_samples(metric: str, line: LimitLine, samples: Samples | None) -> str | None:
    """The reason that follows from the samples of a metric; None if they give none. Raises: RegistryError."""
    extremes = [(name, value) for value, name in filter(None, (line.floor, line.weakest_defect)) if name is not None]
    if samples is None or line.floor is None or len(extremes) < 1 + (line.weakest_defect is not None):
        return None
    floor, *weakest = extremes
    distances = distances_of(samples.floor, line.unit, line.direction)
    return reason_of_populations(
        metric_named(metric), floor, weakest[0] if weakest else None, line.separation, distances
    )


def _fields(samples: Samples) -> dict[str, Any]:
    return msgspec.structs.asdict(samples)
