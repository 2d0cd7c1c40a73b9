"""Append-only journals: records that are whole or absent, so that a crashed run keeps what it had finished.

A journal is the 8 bytes `MAGIC`, then records: length (8 bytes, little-endian), CRC-32 of the payload (4 bytes),
payload.
A record that a crash tore is told by its length or its CRC; it and whatever follows are dropped, and the journal is not
`whole`. Records reach the operating system before `append` returns: they survive the end of the process, if not a power
cut.
"""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from runners.errors import RunError

MAGIC: Final = b"PARJRNL1"
_PREFIX: Final = 12  # bytes of length and CRC
MOST_RECORDS: Final = 1 << 18  # of whole taps, one each; of sketches, one a step
_CHUNK: Final = 1 << 20  # bytes read at a time while checking


@dataclass(frozen=True, kw_only=True)
class Extent:
    """The place of the payload of one whole record in its journal, in bytes."""

    offset: int
    length: int


class JournalWriter:
    """Writes a new journal. Raises RunError if the file exists: a journal belongs to one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: BinaryIO = path.open("xb")
        except FileExistsError:
            raise RunError(f"{path} exists already; record into a fresh folder, or read what it holds first.") from None
        self._file.write(MAGIC)
        self._file.flush()

    def append(self, payload: bytes) -> None:
        """Add one record."""
        self._file.write(len(payload).to_bytes(8, "little") + zlib.crc32(payload).to_bytes(4, "little"))
        self._file.write(payload)
        self._file.flush()

    def close(self) -> None:
        """Close the file; the journal stays readable."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def scan(file: BinaryIO, origin: str) -> tuple[list[Extent], bool]:
    """Find the whole records of a journal, checking every length against the file and every CRC.

    Args:
        file: open at its beginning.
        origin: what an error calls it.
    Returns: the records in order, and whether the file ends with the last of them.
    Raises: RunError if the file is no journal, or holds more records than a run leaves.
    """
    size = os.fstat(file.fileno()).st_size
    extents: list[Extent] = []
    if file.read(len(MAGIC)) != MAGIC:
        raise RunError(f"{origin} is not a journal of this program: it does not begin with {MAGIC!r}.")
    offset = len(MAGIC)
    while offset < size:
        prefix = file.read(_PREFIX)
        length = int.from_bytes(prefix[:8], "little")
        if len(prefix) < _PREFIX or length > size - offset - _PREFIX:
            return extents, False
        if _crc(file, length) != int.from_bytes(prefix[8:], "little"):
            return extents, False
        if len(extents) == MOST_RECORDS:
            raise RunError(f"{origin} has more than {MOST_RECORDS} records; no run leaves so many. Record it again.")
        extents.append(Extent(offset=offset + _PREFIX, length=length))
        offset += _PREFIX + length
    return extents, True


def _crc(file: BinaryIO, length: int) -> int:
    crc = 0
    while length > 0:
        part = file.read(min(length, _CHUNK))
        if not part:
            return -1  # the file became shorter meanwhile: no CRC is right
        crc = zlib.crc32(part, crc)
        length -= len(part)
    return crc
