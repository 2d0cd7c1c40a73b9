"""Traces on disk: all sketches of a run as columns of one safetensors file, and the reader.

Axes: N tap, in the order recorded; K bucket.

`trace.safetensors` holds, for N taps: `buckets` float32 (N, K); `l2`, `max_abs`, `mean` float32 (N,); `checksum`,
`nan_count`, `inf_count` int64 (N,); `shape_index` int32 and `dtype_index` uint8 (N,), which point into the lists
`shapes` and `dtypes` of the metadata; `names`, the tap names joined by newlines, as uint8. At 64 buckets a tap takes
about 350 bytes. The metadata also says the version of the sketches, the pattern that chose the taps, whether the run
came to its end, and that its text taps are of real tokens; traces that do not say so are older, and theirs hold the
padding, too.

While a run goes on, `trace.journal` collects the same tables step by step; a run that crashed leaves only that.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from parity.taps.pattern import MAX_LENGTH, chosen
from parity.trace.atomic import write_bytes_atomic
from parity.trace.checksums import CHECKSUMS_FILE, TapChecksums, names_of, read_checksums, tap_digest
from parity.trace.consistency import contradictions
from parity.trace.journal import scan
from parity.trace.sketch import (
    FLOAT_STATISTICS,
    INTEGER_STATISTICS,
    SPECIFICATION_VERSION,
    TapSketch,
    from_row,
    require_buckets,
)
from runners.errors import ConfigError, RunError
from runners.files import HeldFile, opened, read_bytes
from runners.load import parse

TRACE_FILE: Final = "trace.safetensors"
TRACE_JOURNAL: Final = "trace.journal"
_T = TypeVar("_T")
MOST_TAPS: Final = 1 << 22  # where the case is not known: a thousand steps of the deepest model
BYTES_PER_TAP: Final = 1024  # three times what one takes
MAX_HEADER_BYTES: Final = 4 << 20  # it lists every shape once
_FORMAT: Final = "parity-trace-1"
_FLOAT_COLUMNS: Final = ("l2", "max_abs", "mean")  # in the order of `sketch_into`
_INTEGER_COLUMNS: Final = ("checksum", "nan_count", "inf_count")
_TEXT_TOKENS: Final = "text_tokens"  # key of the metadata, which older traces do not have
_REAL: Final = "real"


@dataclass(kw_only=True)
class SketchTable:
    """Sketches as columns. `floats` is float32 (N, K + 3) and `integers` int64 (N, 3), rows as in `sketch_into`."""

    buckets: int
    pattern: str | None = None
    complete: bool = True
    padded_text: bool = False  # whether `text/*/hidden` hold padding beside the prompt's tokens, as they once did
    names: list[str] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    floats: Tensor = field(default_factory=lambda: torch.empty(0))
    integers: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    def __post_init__(self) -> None:
        require_buckets(self.buckets)
        self.floats = self.floats.reshape(len(self.names), self.buckets + FLOAT_STATISTICS)
        self.integers = self.integers.reshape(len(self.names), INTEGER_STATISTICS)


class Trace(Mapping[str, TapSketch]):
    """All taps of a run, by name, in the order recorded.

    `complete` is False for a run that did not come to its end; what it holds is good. `pattern` chose the taps; None
    means all of them. `checksums` are of the taps of a golden, also of those whose sketches it did not keep; None for a
    trace that has every sketch it ever had. `padded_text` is True for an older trace, whose `text/*/hidden` hold the
    padding of the prompt beside its tokens.
    """

    def __init__(self, table: SketchTable, checksums: TapChecksums | None = None) -> None:
        self._table = table
        self.checksums = checksums
        self._rows = {name: row for row, name in enumerate(table.names)}
        self.complete = table.complete
        self.buckets = table.buckets
        self.pattern = table.pattern
        self.padded_text = table.padded_text

    def __getitem__(self, name: str) -> TapSketch:
        row, table = self._rows[name], self._table
        return from_row(table.shapes[row], table.dtypes[row], table.floats[row], table.integers[row])

    def part(self, pattern: str | None) -> SketchTable:
        """The sketches of the taps that a pattern chooses, as a table of its own."""
        table = self._table
        rows = [row for row, name in enumerate(table.names) if chosen(name, pattern)]
        return SketchTable(
            buckets=table.buckets,
            pattern=pattern,
            complete=table.complete,
            padded_text=table.padded_text,
            names=[table.names[row] for row in rows],
            shapes=[table.shapes[row] for row in rows],
            dtypes=[table.dtypes[row] for row in rows],
            floats=table.floats[rows],
            integers=table.integers[rows],
        )

    @cached_property
    def bits(self) -> Mapping[str, int]:
        """The checksum that stands for the bits of each tap, also of those whose sketches are not here."""
        if self.checksums is not None:
            return self.checksums.digests
        table = self._table
        rows = zip(table.names, table.dtypes, table.shapes, table.integers[:, 0].tolist(), strict=True)
        return {name: tap_digest(dtype, shape, checksum) for name, dtype, shape, checksum in rows}

    @cached_property
    def clean_bits(self) -> Mapping[str, tuple[tuple[int, ...], str, int]]:
        """Shape, dtype and checksum of each tap with a sketch, elements, and nothing in it that is not finite.

        Read off the columns at once: taken one by one, 55,092 sketches cost seconds.
        """
        table = self._table
        clean = table.floats.isfinite().all(dim=1) & (table.integers[:, 1:] == 0).all(dim=1)
        rows = zip(table.names, table.shapes, table.dtypes, table.integers[:, 0].tolist(), clean.tolist(), strict=True)
        return {
            name: (shape, dtype, checksum) for name, shape, dtype, checksum, good in rows if good and 0 not in shape
        }

    @cached_property
    def contradictions(self) -> Mapping[str, str]:
        """The taps whose statistics cannot all be true of one tensor, and in what."""
        table = self._table
        found = contradictions(table.shapes, table.floats, table.integers)
        return {table.names[row]: words for row, words in sorted(found.items())}

    def rows_of(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Floats (N, K + 3) and integers (N, 3) of taps, as `sketch_into` has them."""
        rows = [self._rows[name] for name in names]
        return self._table.floats[rows], self._table.integers[rows]

    @property
    def pattern_of_bits(self) -> str | None:
        """The pattern that chose the taps of `bits`; None means all of them."""
        return self.pattern if self.checksums is None else self.checksums.pattern

    def __contains__(self, name: object) -> bool:
        return name in self._rows  # Mapping's own would build the sketch to see whether it is there

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def read_trace(folder: Path, most_taps: int = MOST_TAPS) -> Trace:
    """Read what was recorded into a folder: a whole trace, checksums beside it, or of a crashed run what it had.

    Args:
        folder: of the run.
        most_taps: that its case leaves; files larger than those of so many are not read.
    Raises: RunError if there is no trace, or as `trace_in`.
    """
    file, journal = folder / TRACE_FILE, folder / TRACE_JOURNAL
    if file.is_file():
        checksums = folder / CHECKSUMS_FILE
        return trace_in(file, most_taps, checksums if checksums.is_file() else None)
    if journal.is_file():
        table = journal_table(journal, most_taps)
        table.complete = False
        return Trace(table)
    raise RunError(f"{folder} holds neither {TRACE_FILE} nor {TRACE_JOURNAL}; record it again with taps on.")


def trace_in(file: Path | HeldFile, most_taps: int = MOST_TAPS, checksums: Path | HeldFile | None = None) -> Trace:
    """Read a whole trace.

    Args:
        file: `trace.safetensors`.
        most_taps: that its case leaves; files larger than those of so many are not read.
        checksums: of a golden, those of all its taps.
    Raises: RunError if it is damaged, of another version, names a tap twice, or has other checksums than those.
    """
    data = read_bytes(file, RunError, "record the run again", max_bytes=most_taps * BYTES_PER_TAP)
    table = decode(data, origin=str(file))
    return Trace(table) if checksums is None else _with_checksums(table, checksums, most_taps)


def _with_checksums(table: SketchTable, path: Path | HeldFile, most_taps: int) -> Trace:
    checksums = read_checksums(path, most_taps)
    if wrong := [name for name, digest in Trace(table).bits.items() if checksums.digests.get(name) != digest]:
        raise RunError(f"{path} has another checksum of {wrong[0]} than the sketch beside it; restore the golden.")
    return Trace(table, checksums)


def write_trace(folder: Path, table: SketchTable) -> None:
    """Write `trace.safetensors`, whole or not at all."""
    write_bytes_atomic(folder / TRACE_FILE, encode(table))


def journal_table(journal: Path, most_taps: int = MOST_TAPS) -> SketchTable:
    """Join the tables of a journal; incomplete if its last record was torn.

    Args:
        journal: of a run that goes on, or crashed.
        most_taps: that its case leaves.
    Raises: RunError if it holds no table, tables that do not form one trace, or more than so many taps take.
    """
    tables = []
    with opened(journal, RunError, "record the run again", max_bytes=most_taps * BYTES_PER_TAP) as file:
        extents, whole = scan(file, str(journal))
        for extent in extents:
            file.seek(extent.offset)
            tables.append(decode(file.read(extent.length), origin=str(journal)))
    if len({(table.buckets, table.pattern, table.padded_text) for table in tables}) != 1:
        raise RunError(f"{journal} holds {len(tables)} tables that do not form one trace; record the run again.")
    return _checked(
        SketchTable(
            buckets=tables[0].buckets,
            pattern=tables[0].pattern,
            complete=whole and all(table.complete for table in tables),
            padded_text=tables[0].padded_text,
            names=[name for table in tables for name in table.names],
            shapes=[shape for table in tables for shape in table.shapes],
            dtypes=[dtype for table in tables for dtype in table.dtypes],
            floats=torch.cat([table.floats for table in tables]),
            integers=torch.cat([table.integers for table in tables]),
        ),
        str(journal),
    )


def encode(table: SketchTable) -> bytes:
    """Return a table as the bytes of a safetensors file."""
    shapes = {shape: index for index, shape in enumerate(dict.fromkeys(table.shapes))}
    dtypes = {dtype: index for index, dtype in enumerate(dict.fromkeys(table.dtypes))}
    columns = {
        "buckets": table.floats[:, : table.buckets],
        "names": torch.from_numpy(np.array(bytearray("\n".join(table.names).encode()))),
        "shape_index": torch.tensor([shapes[shape] for shape in table.shapes], dtype=torch.int32),
        "dtype_index": torch.tensor([dtypes[dtype] for dtype in table.dtypes], dtype=torch.uint8),
    }
    columns |= {name: table.floats[:, table.buckets + place] for place, name in enumerate(_FLOAT_COLUMNS)}
    columns |= {name: table.integers[:, place] for place, name in enumerate(_INTEGER_COLUMNS)}
    metadata = {
        "format": _FORMAT,
        "sketch_version": str(SPECIFICATION_VERSION),
        "complete": json.dumps(table.complete),
        "pattern": json.dumps(table.pattern),
        "bucket_count": str(table.buckets),
        "shapes": json.dumps([list(shape) for shape in shapes]),
        "dtypes": json.dumps(list(dtypes)),
    }
    if not table.padded_text:
        metadata[_TEXT_TOKENS] = _REAL
    data: bytes = safetensors.torch.save({name: c.contiguous() for name, c in columns.items()}, metadata=metadata)
    return data


def decode(data: bytes, *, origin: str) -> SketchTable:
    """Read what `encode` wrote, trusting none of it. Raises: RunError."""
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise RunError(f"{origin} is damaged or not a trace (header of {length} bytes); record the run again.")
    try:
        columns = safetensors.torch.load(data)  # checks every size against the data before it allocates
        header = parse(data[8 : 8 + length].decode(), origin, RunError, "record it again")
        return _checked(_table(columns, header.get("__metadata__", {}), origin), origin)
    except (safetensors.SafetensorError, ConfigError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{origin} is damaged or not a trace ({error}); record the run again.") from error


def _table(columns: dict[str, Tensor], metadata: dict[str, str], origin: str) -> SketchTable:
    versions = (metadata.get("format"), metadata.get("sketch_version"))
    if versions != (_FORMAT, str(SPECIFICATION_VERSION)):
        raise RunError(
            f"{origin} is a trace of format and sketch version {versions}; this program reads "
            f"{(_FORMAT, str(SPECIFICATION_VERSION))}. Record both runs with the same version."
        )
    count, buckets = columns["shape_index"].numel(), int(metadata["bucket_count"])
    wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]] = dict.fromkeys(_FLOAT_COLUMNS, (torch.float32, (count,)))
    wanted |= dict.fromkeys(_INTEGER_COLUMNS, (torch.int64, (count,)))
    wanted |= {"shape_index": (torch.int32, (count,)), "dtype_index": (torch.uint8, (count,))}
    wanted |= {"buckets": (torch.float32, (count, buckets)), "names": (torch.uint8, (columns["names"].numel(),))}
    for name, (dtype, shape) in wanted.items():
        if columns[name].dtype != dtype or tuple(columns[name].shape) != shape:
            raise ValueError(
                f"column {name} is {columns[name].dtype} {tuple(columns[name].shape)}, not {dtype} {shape}"
            )
    names = names_of(columns["names"].numpy().tobytes(), count)
    shapes = [tuple(_sizes(shape)) for shape in _parsed(metadata, "shapes", origin)]
    dtypes = [str(dtype) for dtype in _parsed(metadata, "dtypes", origin)]
    return SketchTable(
        buckets=buckets,
        pattern=_pattern(_parsed(metadata, "pattern", origin)),
        complete=_parsed(metadata, "complete", origin) is True,
        padded_text=_padded_text(metadata),
        names=names,
        shapes=_looked_up(shapes, columns["shape_index"]),
        dtypes=_looked_up(dtypes, columns["dtype_index"]),
        floats=torch.cat((columns["buckets"], *(columns[name][:, None] for name in _FLOAT_COLUMNS)), dim=1),
        integers=torch.stack([columns[name] for name in _INTEGER_COLUMNS], dim=1),
    )


def _parsed(metadata: dict[str, str], key: str, origin: str) -> Any:
    return parse(metadata[key], f"{key!r} in the metadata of {origin}", RunError, "record the run again")


def _looked_up(entries: list[_T], index: Tensor) -> list[_T]:
    rows: list[int] = index.tolist()
    if rows and not 0 <= min(rows) <= max(rows) < len(entries):
        raise ValueError(f"an index from {min(rows)} to {max(rows)} points outside a list of {len(entries)}")
    return [entries[row] for row in rows]


def _sizes(shape: Any) -> list[int]:
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"{shape!r} is no shape")
    return shape


def _pattern(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and len(value) <= MAX_LENGTH):
        raise ValueError(f"{str(value)[:100]!r} is no pattern")
    return value


def _padded_text(metadata: dict[str, str]) -> bool:
    if metadata.get(_TEXT_TOKENS, _REAL) != _REAL:
        raise ValueError(f"{metadata[_TEXT_TOKENS]!r} tokens of text")
    return _TEXT_TOKENS not in metadata


def _checked(table: SketchTable, origin: str) -> SketchTable:
    if len(set(table.names)) != len(table.names):
        raise RunError(f"{origin} names a tap twice; which of them was meant cannot be told.")
    return table
