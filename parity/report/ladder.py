"""The ladder of a matrix: every engine of a row with time, memory, distance from fp32, outputs and limits in a line.

A row's engines stand below the official code that they are held to. A ratio of times holds within one row.
"""

import statistics
from collections.abc import Sequence
from typing import Final

from parity.fleet.grid import Grid, GridRow
from parity.fleet.row import Cell, Rung

COLUMNS: Final = (
    *("case", "device", "engine", "end to end, s", "official's / its", "peak, GiB"),
    *("video from fp32, times official's", "audio from fp32, times official's"),
    *("frames, PSNR dB", "sound, SNR dB", "A/V offset, ms", "limits that hold", "most used"),
)
NOT_MEASURED: Final = "-"
_GIB: Final = 1 << 30


def ladder_rows(grid: Grid) -> list[tuple[str, ...]]:
    """Lines under COLUMNS, of every row that ended: the official run, then each engine that was compared."""
    return [line for row in grid.rows for line in _lines(row)]


def _lines(row: GridRow) -> list[tuple[str, ...]]:
    reference, compared = row.reference, [cell for cell in row.cells if cell.rung is not None]
    if reference is None or not compared:
        return []
    held_to_fp32 = any(cell.rung is not None and cell.rung.video_from_fp32 is not None for cell in compared)
    own = "1.00" if held_to_fp32 else NOT_MEASURED
    seconds = _seconds(reference.untapped_s or reference.times_s)
    nothing = (NOT_MEASURED,) * 5
    official = (f"official {reference.release}", seconds, "1.00", _gib(reference.peak_bytes), own, own, *nothing)
    return [(row.case, row.device, *line) for line in [official, *map(_line, compared)]]


def _line(cell: Cell) -> tuple[str, ...]:
    assert cell.rung is not None
    rung = cell.rung
    return (
        cell.engine,
        _seconds(cell.times_s),
        _two(cell.speed_ratio),
        _gib(cell.peak_bytes),
        _two(rung.video_from_fp32),
        _two(rung.audio_from_fp32),
        "equal" if rung.frames_equal else _one(rung.frames_psnr_db),
        "equal" if rung.sound_equal else _one(rung.sound_snr_db),
        _one(rung.av_offset_ms),
        *_limits(rung),
    )


def _limits(rung: Rung) -> tuple[str, str]:
    if rung.by_bits:
        return "bits" if rung.held == rung.judged else f"bits: {rung.held} of {rung.judged}", NOT_MEASURED
    if not rung.judged:
        return "not judged", NOT_MEASURED
    used = "inf" if rung.used is None else f"{rung.used:.2f}"  # a limit of zero that is exceeded
    return f"{rung.held} of {rung.judged}", f"{used} {rung.most_used}"


def _seconds(times_s: Sequence[float]) -> str:
    return f"{statistics.median(times_s):.2f}" if times_s else NOT_MEASURED


def _gib(count_bytes: int) -> str:
    return f"{count_bytes / _GIB:.1f}" if count_bytes else NOT_MEASURED


def _one(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.1f}"


def _two(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.2f}"
