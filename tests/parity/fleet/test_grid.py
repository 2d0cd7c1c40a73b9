"""The grid: every row of the file has its place, and the worst of all decides."""

from typing import Any

import pytest

from parity.fleet.grid import NOT_RUN, Grid, grid_of
from parity.fleet.history import CellHistory, History
from parity.fleet.matrix_file import DeviceEntry
from parity.fleet.row import Cell, EngineOfRow, Reference, Row, RowResult, not_done, result_of
from runners.errors import RunError


def row(case: str) -> Row:
    engines = tuple(EngineOfRow(label=label, runner=label) for label in ("native", "diffusers"))
    made: dict[str, Any] = {"isolate": False, "perf": False, "taps": "*", "reports": "all", "code": "c"}
    device = DeviceEntry(name="cpu")
    return Row(
        case={"id": case}, pictures={}, weights="w", device=device, official=None, engines=engines, repeats=1, **made
    )


def result(of: Row, *codes: int) -> RowResult:
    cells = tuple(Cell(engine=one.label, code=code) for one, code in zip(of.engines, codes, strict=True))
    reference = Reference(files={}, reused=True, times_s=(4.0,), release="1.0.0")
    return RowResult(key=of.key, case=of.case_id, device="cpu", state="done", cells=cells, reference=reference)


def grid(*codes: tuple[int, int] | None) -> Grid:
    rows = [row(f"case{number}") for number in range(len(codes))]
    results = [result(of, *found) for of, found in zip(rows, codes, strict=True) if found is not None]
    return grid_of("m", rows, [*results, result(row("gone"), 1, 1)], History())


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ([(0, 0), (0, 0)], 0),
        ([(0, 0), (1, 0)], 1),
        ([(1, 0), (0, 2)], 2),
        ([(2, 1)], 2),
        ([(0, 0), None], 2),
        ([], 2),
    ],
)
def test_what_could_not_be_judged_decides_before_what_fails_and_that_before_a_pass(
    codes: list[tuple[int, int] | None], code: int
) -> None:
    assert grid(*codes).code == code


def test_a_row_without_a_result_is_there_and_not_judged() -> None:
    found = grid((0, 0), None, (1, 0))
    assert [one.case for one in found.rows] == ["case0", "case1", "case2"], "that of an earlier file is not"
    assert [(one.state, one.reason, one.code) for one in found.rows][1] == ("lost", NOT_RUN, 2)
    assert [found.count(code) for code in (0, 1, 2)] == [1, 1, 1]


@pytest.mark.parametrize("state", ["failed", "lost", "hung", "out of memory", "nowhere"])
def test_no_row_that_did_not_end_has_a_verdict(state: Any) -> None:
    of = row("a")
    ended = not_done(of, state, "why")
    assert (ended.code, ended.cells) == (2, ())
    with_cells = RowResult(key=of.key, case="a", device="cpu", state=state, cells=(Cell(engine="native", code=0),))
    assert with_cells.code == 2
    assert grid_of("m", [of], [with_cells], History()).code == 2
    assert RowResult(key=of.key, case="a", device="cpu", state="done").code == 2, "one without cells was not judged"


def test_a_cell_says_since_when() -> None:
    of = row("a")
    history = History(cells={"a@cpu/diffusers": CellHistory(code=1, since="2026-11-02T00:00:00+00:00")})
    assert grid_of("m", [of], [result(of, 0, 1)], history).rows[0].since == ("", "2026-11-02T00:00:00+00:00")


def test_rows_that_differ_in_anything_have_other_keys() -> None:
    import msgspec

    first = row("a")
    assert first.key == row("a").key
    for change in ({"repeats": 2}, {"taps": "x"}, {"code": "d"}, {"weights": "v"}, {"device": DeviceEntry(name="b")}):
        assert msgspec.structs.replace(first, **change).key != first.key


def test_a_row_takes_the_gpus_of_the_engine_that_wants_most() -> None:
    import msgspec

    engines = (EngineOfRow(label="a", runner="native"), EngineOfRow(label="b", runner="native", num_gpus=4))
    wide = msgspec.structs.replace(row("a"), engines=engines, device=DeviceEntry(name="g", device="cuda"))
    assert wide.num_gpus == 4 and msgspec.structs.replace(wide, engines=engines[:1]).num_gpus == 1


def test_what_is_no_result_is_refused() -> None:
    with pytest.raises(RunError, match="is no result of a row"):
        result_of({"key": 1}, row("a"))
