"""A grid as text, Markdown, JSON, JUnit and a page."""

import io
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

from parity.fleet.grid import Grid, GridRow
from parity.fleet.row import Cell, Reference, RowResult
from parity.report.junit import matrix_suites, write_junit
from parity.report.matrix import (
    cell_words,
    cells_of,
    draw_grid,
    grid_document,
    grid_markdown,
    headline,
    reasons,
    row_words,
)
from parity.report.matrix_page import matrix_page
from parity.report.terminal import Terminal

HOSTILE = "<script>alert(1)</script> [x](javascript:1) \x1b[31m"
REFERENCE = Reference(files={}, reused=True, times_s=(3.0, 4.0, 9.0), release="1.0.0")
PARITY = Cell(engine="native", code=0, profile="exact", speed_ratio=1.6, times_s=(2.5,))
DIFFERS = Cell(engine="diffusers", code=1, why="look at noise", first_tap="init/video", speed_ratio=0.5, times_s=(8.0,))
SINCE = "2026-11-02T03:04:05+00:00"


def grid_row(case: str, *cells: Cell, since: tuple[str, ...] = ("", ""), **changes: Any) -> GridRow:
    made: dict[str, Any] = {
        "device": "h200",
        "key": f"{case}-key",
        "state": "done",
        "reason": "",
        "took_s": 12.0,
        "reference": REFERENCE,
        "asked": ("native", "diffusers"),
    }
    return GridRow(case=case, cells=cells, since=since[: len(cells)], **{**made, **changes})


GRID = Grid(
    name="nightly",
    engines=("native", "diffusers"),
    rows=(
        grid_row("a", PARITY, DIFFERS, since=("", SINCE)),
        grid_row("b", state="hung", reason=HOSTILE, reference=None),
        grid_row("c", PARITY, Cell(engine="diffusers", code=2, why=HOSTILE)),
    ),
    left_out=(("sglang", "$SGLANG_PYTHON"),),
    created_utc="2026-11-30T00:00:00+00:00",
)


def drawn(grid: Grid) -> str:
    file = io.StringIO()
    draw_grid(Terminal(file=file, width=150), grid)
    return file.getvalue()


def test_the_terminal_has_verdict_first_divergence_speed_and_since() -> None:
    text = drawn(GRID)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "a h200 1.0.0, 4.00 s, reused parity (bits), 1.60x DIFFERS, at init/video, 0.50x, since 2026-11-02" in lines
    assert "b h200 - UNJUDGED UNJUDGED" in lines
    assert lines[-1] == "VERDICT: COULD NOT JUDGE (3 rows: 1 not, 2 not judged)"
    assert "left out: sglang, since $SGLANG_PYTHON is not set" in lines
    assert "a on h200, diffusers: look at noise" in lines
    assert any(line.startswith("b on h200: the row took longer than it may and was ended: <script>") for line in lines)
    assert "\x1b" not in text


def test_a_cell_says_what_else_is_wrong() -> None:
    assert cell_words(Cell(engine="e", code=0, profile="limits", same_bits_again=True)) == "parity"
    assert cell_words(Cell(engine="e", code=0, same_bits_again=False)) == "parity, other bits each time"
    assert cell_words(Cell(engine="e", code=1, perf="slower: base", speed_ratio=2.0)) == "DIFFERS, 2.00x, too slow"
    assert cell_words(Cell(engine="e", code=2, perf="no baseline")) == "UNJUDGED, speed not judged"


def test_a_result_is_a_line_for_who_watches() -> None:
    done = RowResult(key="k", case="a", device="d", state="done", took_s=3.25, cells=(PARITY,))
    assert row_words(done) == "a@d: native parity (bits), 1.60x (3.2 s)"
    lost = RowResult(key="k", case="a", device="d", state="lost", reason="gone")
    assert row_words(lost) == "a@d: UNJUDGED, the row was lost with its worker: gone"


def test_markdown_does_nothing_else_than_show() -> None:
    text = grid_markdown(GRID)
    assert text.startswith("### VERDICT\\: COULD NOT JUDGE") and "<script>" not in text and "](javascript" not in text
    assert text.count("\n| ") == 5 and all(
        line.count(" | ") == 4 for line in text.splitlines() if line.startswith("| ")
    )


def test_the_document_is_json_with_everything() -> None:
    found = json.loads(json.dumps(grid_document(GRID)))
    assert (found["exit_code"], found["outcome"], found["left_out"]) == (2, "COULD NOT JUDGE", ["sglang"])
    assert found["rows"][0]["cells"][1]["since"] == SINCE and found["rows"][1]["state"] == "hung"
    assert found["rows"][0]["cells"][0]["speed_ratio"] == 1.6


def test_junit_has_a_test_a_cell_and_an_error_for_a_row_that_did_not_end(tmp_path: Path) -> None:
    write_junit(tmp_path / "matrix.xml", matrix_suites(GRID))
    [suite] = ET.parse(tmp_path / "matrix.xml").getroot()
    assert suite.attrib == {"name": "parity nightly h200", "tests": "5", "failures": "1", "errors": "2"}
    cases = {(one.get("classname"), one.get("name")): one for one in suite}
    assert set(cases) == {("a", "native"), ("a", "diffusers"), ("b", "row"), ("c", "native"), ("c", "diffusers")}
    failure = cases["a", "diffusers"].find("failure")
    assert failure is not None and failure.get("message") == cell_words(DIFFERS, SINCE)
    assert cases["a", "native"].get("time") == "2.500" and len(cases["a", "native"]) == 0


def test_the_page_links_cells_to_their_pages_and_runs_nothing() -> None:
    text = matrix_page(GRID, {("a-key", "diffusers"): "reports/a.html"})
    assert text.count("<a ") == 1 and '<a href="reports/a.html">DIFFERS, at init/video' in text
    assert "<script" not in text and "&lt;script&gt;" in text and "default-src &#x27;none&#x27;" in text
    assert text.count('class="parity"') == 2 and text.count('class="unjudged"') == 3


def test_many_reasons_are_told_to_be_more() -> None:
    rows = tuple(grid_row(f"r{number}", DIFFERS) for number in range(50))
    grid = Grid(name="m", engines=("diffusers",), rows=rows, left_out=(), created_utc="")
    assert len(reasons(grid)) == 50 and "and 10 more; the page has all" in drawn(grid)
    assert "and 10 more; the page has all" in grid_markdown(grid)
    assert headline(grid) == "VERDICT: NOT AT PARITY (50 rows: 50 not)"


def test_an_engine_that_is_not_asked_for_a_case_has_a_dash_there_and_keeps_nobody_from_parity() -> None:
    ended = grid_row("a", PARITY, asked=("native",))
    lost = grid_row("b", state="lost", reference=None, asked=("native",))
    grid = replace(GRID, rows=(ended, lost))
    assert (ended.code, lost.code) == (0, 2)
    assert [cells_of(grid, row)[3:] for row in grid.rows] == [("parity (bits), 1.60x", "-"), ("UNJUDGED", "-")]
    page = matrix_page(grid, {})
    assert page.count('class="parity"') == page.count('class="unjudged"') == 1
    assert grid_document(grid)["rows"][0]["cells"] == [grid_document(GRID)["rows"][0]["cells"][0]]
