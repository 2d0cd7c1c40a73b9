"""The history of a matrix in the store: what each cell came to last, since when it differs, how long rows took.

Each call of a matrix leaves one record, named by its date, that holds everything known then: cells and rows that it did
not run are carried over, so that the newest record is all that is read. A call that goes on with another one writes
the same record again, so nothing is counted twice.
"""

import datetime
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from parity.fleet.ledger import LedgerHead
from parity.fleet.row import RowResult
from parity.runs.store import Store
from runners.errors import ParityError, RunError
from runners.load import parse
from runners.strict import Strict

REMEDY: Final = "remove it from the store"
MOST_TRIED: Final = 8  # newest records that are looked at for one that can be read


class CellHistory(Strict, frozen=True, kw_only=True):
    """The outcome of a cell the last time that it was run."""

    code: int
    since: str = ""  # UTC date of the first call of those, without one between, that it was no parity in; "" at parity
    first_tap: str = ""


class History(Strict, frozen=True, kw_only=True):
    """Everything known after one call."""

    schema_version: Literal[1] = 1
    created_utc: str = ""
    cells: dict[str, CellHistory] = msgspec.field(default_factory=dict)  # by `cell_place`
    took_s: dict[str, float] = msgspec.field(default_factory=dict)  # by `Row.place`


def cell_place(result: RowResult, engine: str) -> str:
    """The key of a cell over all calls."""
    return f"{result.place}/{engine}"


def after(before: History, head: LedgerHead, results: Iterable[RowResult]) -> History:
    """The history once these results are in. Rows that did not end change nothing: they say nothing of an engine."""
    cells, took_s = dict(before.cells), dict(before.took_s)
    for result in results:
        if result.state != "done":
            continue
        took_s[result.place] = result.took_s
        for cell in result.cells:
            place = cell_place(result, cell.engine)
            old = cells.get(place)
            since = ""
            if cell.code:
                since = old.since if old is not None and old.code else head.created_utc
            cells[place] = CellHistory(code=cell.code, since=since, first_tap=cell.first_tap)
    return History(created_utc=head.created_utc, cells=cells, took_s=took_s)


def read_history(store: Store, head: LedgerHead) -> History:
    """The newest record of a matrix that is not of this call; an empty one if there is none that can be read."""
    own = record_name(head)
    names = [name for name in store.record_names(f"history/{head.matrix}") if name < own]
    for name in reversed(names[-MOST_TRIED:]):
        try:
            text = store.record(name)
            value = parse(text or "", name, RunError, REMEDY)
            return msgspec.convert(value, History, strict=True)
        except (msgspec.ValidationError, ParityError):
            continue
    return History()


def write_history(store: Store, head: LedgerHead, history: History) -> None:
    """Keep the record of this call. Raises: RunError if the store does not take it."""
    store.put_record(record_name(head), msgspec.json.encode(history).decode())


def record_name(head: LedgerHead) -> str:
    """The name of a call's record: in the order of their dates."""
    created = datetime.datetime.fromisoformat(head.created_utc).astimezone(datetime.UTC)
    return f"history/{head.matrix}/{created:%Y%m%dT%H%M%S}-{head.run[:12]}"


def since_of(history: Mapping[str, CellHistory], place: str) -> str:
    """The date since when a cell is no parity; "" if it is one, or nothing is known."""
    found = history.get(place)
    return "" if found is None else found.since
