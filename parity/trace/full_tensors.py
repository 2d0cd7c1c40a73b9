"""Whole tensors of chosen taps: a journal while the run goes on, one safetensors file when it has ended.

A safetensors file begins with the sizes of everything in it, which a run knows only at its end. So each tap is appended
to `tensors.journal` as a safetensors file of its own, and `assemble_tensors` copies them into `tensors.safetensors`
without holding more than a small part in memory. After a crash the same call saves the taps that were finished.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import safetensors.torch
from torch import Tensor

from parity.trace.atomic import file_atomic
from parity.trace.journal import Extent, JournalWriter, scan
from runners.errors import RunError
from runners.files import opened

TENSORS_FILE: Final = "tensors.safetensors"
TENSORS_JOURNAL: Final = "tensors.journal"
LARGEST_JOURNAL: Final = 1 << 42  # written by this very process, whatever it keeps
_CHUNK: Final = 1 << 22  # bytes copied at a time
_LARGEST_ELEMENT: Final = 8  # bytes


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One tensor in the journal; `extent` is where its elements lie."""

    name: str
    dtype: str  # as safetensors spells it
    shape: list[int]
    element_bytes: int
    extent: Extent


def append_tensor(journal: JournalWriter, name: str, tensor: Tensor) -> None:
    """Add one tap; waits for its device."""
    metadata = {"element_bytes": str(tensor.element_size())}
    journal.append(safetensors.torch.save({name: tensor.detach().cpu().contiguous()}, metadata=metadata))


def assemble_tensors(folder: Path) -> bool:
    """Turn `tensors.journal` into `tensors.safetensors`, whole or not at all, and remove it.

    Returns: whether every record was whole; a torn last one is left out.
    Raises: RunError if the journal is damaged or names a tap twice.
    """
    journal = folder / TENSORS_JOURNAL
    with opened(journal, max_bytes=LARGEST_JOURNAL) as source:
        extents, whole = scan(source, str(journal))
        entries = [_entry(source, extent, journal) for extent in extents]
        if len({entry.name for entry in entries}) < len(entries):
            raise RunError(f"{journal} names a tap twice; which of them was meant cannot be told.")
        entries.sort(key=lambda entry: -entry.element_bytes)  # so that every tensor begins at a multiple of its element
        with file_atomic(folder / TENSORS_FILE) as new, new.open("wb") as target:
            target.write(_header(entries))
            for entry in entries:
                _copy(source, entry.extent, target)
    journal.unlink()
    return whole


def _entry(source: BinaryIO, record: Extent, journal: Path) -> _Entry:
    """Read where the one tensor of a record lies. Its CRC was right, so a contradiction here is not a crash's doing."""
    source.seek(record.offset)
    header_bytes = int.from_bytes(source.read(8), "little")
    try:
        if header_bytes > record.length - 8:
            raise ValueError(f"header of {header_bytes} bytes in a record of {record.length}")
        header: dict[str, Any] = json.loads(source.read(header_bytes))
        element_bytes = int(header.pop("__metadata__")["element_bytes"])
        ((name, fields),) = header.items()
        begin, end = fields["data_offsets"]
        if not 0 <= begin <= end <= record.length - 8 - header_bytes or not 1 <= element_bytes <= _LARGEST_ELEMENT:
            raise ValueError(f"bytes {begin} to {end} of a record of {record.length}")
        extent = Extent(offset=record.offset + 8 + header_bytes + begin, length=end - begin)
        return _Entry(
            name=name, dtype=fields["dtype"], shape=fields["shape"], element_bytes=element_bytes, extent=extent
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"{journal} is damaged ({error}); record the run again.") from error


def _header(entries: list[_Entry]) -> bytes:
    table, offset = {}, 0
    for entry in entries:
        offsets = [offset, offset + entry.extent.length]
        table[entry.name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": offsets}
        offset += entry.extent.length
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LARGEST_ELEMENT)
    return len(text).to_bytes(8, "little") + text


def _copy(source: BinaryIO, extent: Extent, target: BinaryIO) -> None:
    source.seek(extent.offset)
    left = extent.length
    while left > 0:
        part = source.read(min(left, _CHUNK))
        if not part:
            raise RunError(
                "The journal of tensors became shorter while it was copied; is another process writing there?"
            )
        target.write(part)
        left -= len(part)
