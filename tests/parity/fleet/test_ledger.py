"""The ledger: whole lines count, each row once, one driver at a time."""

import json
import os
from pathlib import Path

import pytest

from parity.fleet import ledger as ledger_module
from parity.fleet.ledger import LEDGER, held_ledger
from parity.fleet.row import Cell, RowResult, RowState
from runners.errors import OutputError


def result(key: str, state: RowState = "done", code: int = 0) -> RowResult:
    cells = (Cell(engine="e", code=code),) if state == "done" else ()
    return RowResult(key=key, case="a", device="d", state=state, cells=cells)


def test_a_row_counts_once_by_the_first_result_that_is_done(tmp_path: Path) -> None:
    with held_ledger(tmp_path / "out", "m", replace=False) as ledger:
        assert not ledger.resumed
        for one in (result("x", "lost"), result("y"), result("x", code=1), result("x"), result("z", "hung")):
            ledger.add(one)
        first = ledger.head
    with held_ledger(tmp_path / "out", "m", replace=False) as ledger:
        assert ledger.resumed and ledger.head == first
        found = {one.key: (one.state, one.code) for one in ledger.results()}
        assert found == {"x": ("done", 1), "y": ("done", 0), "z": ("hung", 2)}
        assert len(list(ledger.results())) == 3
    with held_ledger(tmp_path / "out", "m", replace=True) as ledger:
        assert not list(ledger.results()) and ledger.head.run != first.run


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_line_that_was_cut_off_is_none_and_spoils_no_other(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "out" / LEDGER
    with held_ledger(tmp_path / "out", "m", replace=False) as ledger:
        ledger.add(result("x"))
        ledger.add(result("y"))
    path.write_bytes(path.read_bytes()[:-cut])
    with held_ledger(tmp_path / "out", "m", replace=False) as ledger:
        kept = [one.key for one in ledger.results()]
        assert kept == ["x", "y"][: 2 if cut == 1 else 1], (
            "without its end of line alone it is whole once that is there"
        )
        ledger.add(result("z"))
        assert [one.key for one in ledger.results()] == [*kept, "z"]


def test_what_is_no_result_is_none(tmp_path: Path) -> None:
    with held_ledger(tmp_path / "out", "m", replace=False) as ledger:
        with (tmp_path / "out" / LEDGER).open("a") as file:
            for line in ("[]", "{}", '{"key": 3}', "\udc80".encode("utf-8", "surrogateescape").decode("latin-1")):
                file.write(line + "\n")
        ledger.add(result("x"))
        assert [one.key for one in ledger.results()] == ["x"]


def test_one_call_drives_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "LOCK_WAIT_S", 0.05)
    with (
        held_ledger(tmp_path / "out", "m", replace=False),
        pytest.raises(OutputError, match="Another call drives the matrix"),
        held_ledger(tmp_path / "out", "m", replace=False),
    ):
        pass


def test_a_folder_that_is_not_of_this_matrix_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "notes").write_text("mine")
    with held_ledger(tmp_path / "other", "other", replace=False):
        pass
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / LEDGER).write_text(json.dumps({"schema_version": 2}) + "\n")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / LEDGER).symlink_to(tmp_path / "theirs" / "notes")
    for name, said in (
        ("theirs", "no folder of a matrix"),
        ("other", "is of the matrix 'other', not of 'm'"),
        ("no", "is no ledger of a matrix"),
        ("link", "symbolic link"),
    ):
        with pytest.raises(OutputError, match=said), held_ledger(tmp_path / name, "m", replace=False):
            pass
    assert os.listdir(tmp_path / "theirs") == ["notes"]  # noqa: PTH208 - names
