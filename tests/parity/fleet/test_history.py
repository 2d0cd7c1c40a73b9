"""The history in the store: since when a cell differs, and how long rows took."""

from pathlib import Path
from typing import Any

from parity.fleet.history import CellHistory, History, after, read_history, record_name, since_of, write_history
from parity.fleet.ledger import LedgerHead
from parity.fleet.row import Cell, RowResult, RowState
from parity.runs.store import Store


def head(day: int, run: str = "ab" * 16) -> LedgerHead:
    return LedgerHead(matrix="m", run=run, created_utc=f"2026-11-{day:02}T05:06:07+00:00")


def result(*codes: int, state: RowState = "done", case: str = "a", **more: Any) -> RowResult:
    cells = tuple(Cell(engine=f"e{number}", code=code, first_tap="t") for number, code in enumerate(codes))
    return RowResult(key=case, case=case, device="d", state=state, cells=cells, **more)


def test_a_cell_says_since_when_it_is_no_parity() -> None:
    one = after(History(), head(1), [result(0, 1, took_s=3.0)])
    two = after(one, head(2), [result(1, 2, took_s=5.0)])
    three = after(two, head(3), [result(1, 0)])
    days = [[since_of(found.cells, f"a@d/e{number}")[8:10] for number in (0, 1)] for found in (one, two, three)]
    assert days == [["", "01"], ["02", "01"], ["02", ""]]
    assert two.took_s == {"a@d": 5.0} and two.cells["a@d/e0"].first_tap == "t"


def test_a_row_that_did_not_end_says_nothing_of_its_engines() -> None:
    one = after(History(), head(1), [result(0, took_s=3.0)])
    assert after(one, head(2), [result(state="hung", took_s=99.0)]).cells == one.cells
    assert after(one, head(2), [result(state="hung", took_s=99.0)]).took_s == {"a@d": 3.0}
    other = after(one, head(2), [result(0, case="b")])
    assert set(other.cells) == {"a@d/e0", "b@d/e0"}, "what was not run is carried over"


def test_the_newest_record_that_can_be_read_and_is_not_of_this_call_counts(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert read_history(store, head(9)) == History()
    for day in (3, 1, 2):
        write_history(store, head(day), History(created_utc=str(day)))
    assert read_history(store, head(9)).created_utc == "3"
    assert read_history(store, head(3)).created_utc == "2", "a call that goes on is not its own past"
    store.put_record(record_name(head(4)), "{half")
    assert read_history(store, head(9)).created_utc == "3"
    assert record_name(head(4)) == "history/m/20261104T050607-abababababab"


def test_a_call_that_goes_on_with_another_writes_the_same_record(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for count in (1, 2):
        found = after(read_history(store, head(5)), head(5), [result(*[1] * count)])
        write_history(store, head(5), found)
    assert len(store.record_names("history/m")) == 1
    last = read_history(store, head(6))
    assert last.cells["a@d/e1"] == CellHistory(code=1, since=head(5).created_utc, first_tap="t")
