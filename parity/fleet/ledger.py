"""The ledger of a matrix: a line a result, kept in its folder, so that whoever drives it next goes on where it ended.

A line counts once it is whole, and a row counts once: what it came to first stands, if it came to its end. Lines are
added by one driver at a time, which holds the ledger's lock; a line that a killed driver left half-written is none.
"""

import datetime
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import msgspec

from parity.fleet.row import RowResult
from parity.trace.atomic import append_text, own_folder, plain, require_target, write_bytes_atomic
from runners.errors import OutputError, ParityError, RunError
from runners.files import opened
from runners.load import parse
from runners.strict import Strict

LEDGER: Final = "ledger.jsonl"
LOCK: Final = ".ledger.lock"
LOCK_WAIT_S: Final = 2.0
MAX_BYTES: Final = 1 << 30
MAX_LINE_BYTES: Final = 16 << 20
REMEDY: Final = "name another --out, or start this one anew with --replace"


class LedgerHead(Strict, frozen=True, kw_only=True):
    """The first line: whose results follow."""

    schema_version: Literal[1] = 1
    matrix: str
    run: str  # random, hex: names this call and all that go on with it
    created_utc: str


class Ledger:
    """The ledger in a folder, held by this process."""

    def __init__(self, folder: Path, head: LedgerHead, *, resumed: bool) -> None:
        self.head = head
        self.resumed = resumed  # an earlier call has begun it
        self.folder = folder
        self._path = own_folder(folder, LEDGER)

    def add(self, result: RowResult) -> None:
        """Write a result down. Raises: OutputError."""
        text = json.dumps(plain(msgspec.to_builtins(result)), allow_nan=False)
        append_text(self._path, text + "\n")

    def results(self) -> Iterator[RowResult]:
        """Results that are written down, in order, each row once: the first one that is done, else the last."""
        last: dict[str, int] = {}
        done: set[str] = set()
        for number, result in enumerate(self._lines()):
            if result.key not in done:
                last[result.key] = number
                if result.state == "done":
                    done.add(result.key)
        wanted = set(last.values())
        yield from (result for number, result in enumerate(self._lines()) if number in wanted)

    def _lines(self) -> Iterator[RowResult]:
        for line in _whole_lines(self._path):
            try:
                yield msgspec.convert(parse(line, str(self._path), RunError, REMEDY), RowResult, strict=True)
            except (msgspec.ValidationError, ParityError):
                continue  # half-written by a driver that was killed: its row is run again


@contextmanager
def held_ledger(folder: Path, matrix: str, *, replace: bool) -> Iterator[Ledger]:
    """The ledger of a matrix in its folder, begun if there is none, held by nobody else meanwhile.

    Args:
        folder: of the matrix; absent, empty, or one that a matrix has made.
        matrix: its name.
        replace: begin anew, whatever results are there.
    Raises: OutputError if the folder is somebody else's, of another matrix, or another call drives it.
    """
    path = own_folder(folder, LEDGER)
    if folder.exists() and not (path.is_file() or (folder.is_dir() and not any(folder.iterdir()))):
        raise OutputError(f"{folder} is there and is no folder of a matrix, so nothing is written in it; {REMEDY}.")
    folder.mkdir(parents=True, exist_ok=True)
    lock = own_folder(folder, LOCK)
    require_target(lock)
    holder = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        _lock(holder, folder)
        yield _opened(folder, path, matrix, replace=replace)
    finally:
        os.close(holder)


def _lock(holder: int, folder: Path) -> None:
    """Take the lock; what a driver that was killed had just begun may hold it for a moment yet. Raises: OutputError."""
    until_s = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > until_s:
                raise OutputError(
                    f"Another call drives the matrix in {folder}; wait for its end, or end it."
                ) from error
            time.sleep(0.02)


def _opened(folder: Path, path: Path, matrix: str, *, replace: bool) -> Ledger:
    head = None if replace else _head(path)
    resumed = head is not None
    if head is None:
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        head = LedgerHead(matrix=matrix, run=secrets.token_hex(16), created_utc=created)
        write_bytes_atomic(path, json.dumps(msgspec.to_builtins(head)).encode() + b"\n")
    elif head.matrix != matrix:
        raise OutputError(f"{folder} is of the matrix {head.matrix[:60]!r}, not of {matrix!r}; {REMEDY}.")
    else:
        _end_last_line(path)
    return Ledger(folder, head, resumed=resumed)


def _head(path: Path) -> LedgerHead | None:
    """The first line; None where there is no ledger. Raises: OutputError if it is none."""
    if not path.is_file():
        return None
    try:
        first = next(_whole_lines(path), "")
        return msgspec.convert(parse(first, str(path), RunError, REMEDY), LedgerHead, strict=True)
    except (msgspec.ValidationError, ParityError) as error:
        raise OutputError(f"{path} is no ledger of a matrix ({error}); {REMEDY}.") from error


def _end_last_line(path: Path) -> None:
    """Close a line that a killed driver left half-written, so that the next one is whole."""
    with opened(path, OutputError, REMEDY, max_bytes=MAX_BYTES) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        torn = file.read(1) not in (b"\n", b"")
    if torn:
        append_text(path, "\n")


def _whole_lines(path: Path) -> Iterator[str]:
    with opened(path, OutputError, REMEDY, max_bytes=MAX_BYTES) as file:
        while line := file.readline(MAX_LINE_BYTES):
            if line.endswith(b"\n"):
                yield line.decode("utf-8", "replace")
