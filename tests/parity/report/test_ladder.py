"""The ladder: a line an engine, below the official code that it is held to."""

from typing import Any

from parity.fleet.grid import Grid, GridRow
from parity.fleet.row import Cell, Reference, Rung
from parity.report.ladder import COLUMNS, ladder_rows
from parity.report.matrix import grid_markdown
from parity.report.matrix_page import matrix_page

GIB = 1 << 30
OFFICIAL = Reference(files={}, reused=False, times_s=(3.0, 9.0, 5.0), release="1.1.2", peak_bytes=7 * GIB)
EXACT = Rung(by_bits=True, judged=4, held=4, frames_equal=True, sound_equal=True, av_offset_ms=0.0)
FAST = Rung(
    by_bits=False,
    judged=94,
    held=91,
    most_used="drift.text",
    used=1.345,
    frames_psnr_db=45.68,
    sound_snr_db=32.94,
    av_offset_ms=10.0,
    video_from_fp32=0.804,
    audio_from_fp32=1.256,
)

UNJUDGED = Rung(by_bits=False, judged=0, held=0)


def cell(engine: str, rung: Rung | None, **more: Any) -> Cell:
    return Cell(engine=engine, code=0, times_s=(2.0, 4.0), speed_ratio=1.666, peak_bytes=3 * GIB, rung=rung, **more)


def grid(*cells: Cell, reference: Reference | None = OFFICIAL) -> Grid:
    row = GridRow(
        case="a|b",
        device="h200",
        key="k",
        state="done",
        reason="",
        took_s=1.0,
        reference=reference,
        asked=tuple(one.engine for one in cells),
        cells=cells,
        since=("",) * len(cells),
    )
    engines = tuple(one.engine for one in cells)
    return Grid(name="m", engines=engines, rows=(row,), left_out=(), created_utc="2026-12-01T00:00:00+00:00")


def test_engines_stand_below_the_official_code_with_what_was_measured_of_them() -> None:
    compared = (cell("native", EXACT), cell("native:fast", FAST), cell("broken", None), cell("new", UNJUDGED))
    lines = ladder_rows(grid(*compared))
    times = ("3.00", "1.67", "3.0")
    assert all(line[:2] == ("a|b", "h200") and len(line) == len(COLUMNS) for line in lines)
    assert [line[2:] for line in lines] == [
        ("official 1.1.2", "5.00", "1.00", "7.0", "1.00", "1.00", "-", "-", "-", "-", "-"),
        ("native", *times, "-", "-", "equal", "equal", "0.0", "bits", "-"),
        ("native:fast", *times, "0.80", "1.26", "45.7", "32.9", "10.0", "91 of 94", "1.34 drift.text"),
        ("new", *times, "-", "-", "-", "-", "-", "not judged", "-"),
    ]


def test_nothing_is_held_to_fp32_where_no_engine_was() -> None:
    official, _ = ladder_rows(grid(cell("native", EXACT)))
    assert official[6:8] == ("-", "-")


def test_times_that_were_made_to_be_timed_come_first_and_a_failed_equality_is_counted() -> None:
    timed = Reference(files={}, reused=True, times_s=(9.0,), untapped_s=(2.0,), release="1.0.0")
    wrong = Rung(by_bits=True, judged=4, held=1)
    official, native = ladder_rows(grid(cell("native", wrong), reference=timed))
    assert official[3] == "2.00" and official[5] == "-" and native[8:] == ("-", "-", "-", "bits: 1 of 4", "-")


def test_a_limit_of_zero_that_is_exceeded_is_used_beyond_all_measure() -> None:
    wrong = Rung(by_bits=False, judged=94, held=93, most_used="audio.lag_samples.max_abs", frames_psnr_db=40.0)
    _, line = ladder_rows(grid(cell("e", wrong)))
    assert line[-2:] == ("93 of 94", "inf audio.lag_samples.max_abs")


def test_a_row_that_did_not_end_or_where_nothing_was_judged_has_no_ladder() -> None:
    assert ladder_rows(grid(cell("broken", None))) == ladder_rows(grid(cell("native", EXACT), reference=None)) == []
    nothing = grid(cell("broken", None))
    assert "Ladder" not in grid_markdown(nothing) and "Ladder" not in matrix_page(nothing, {})


def test_the_summary_and_the_page_show_it() -> None:
    whole = grid(cell("native", EXACT), cell("native:fast", FAST))
    text, page = grid_markdown(whole), matrix_page(whole, {})
    assert "#### Ladder\n\n| case |" in text and "| a\\|b | h200 | native\\:fast |" in text
    assert "<h2>Ladder</h2><table><thead>" in page and page.count("<tr>") == 1 + 1 + 1 + 3
    assert '<td data-label="limits that hold">91 of 94</td>' in page
