"""Numbers of a comparison: a table, or one line where there is nothing to tell."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.diff.runs import compare_runs
from parity.report.numbers import draw_diff
from parity.report.terminal import Terminal
from parity.runs.folder import read_run

LeaveRun = Callable[..., Path]


def drawn(reference: Path, candidate: Path) -> list[str]:
    paper = io.StringIO()
    draw_diff(Terminal(file=paper, width=120), compare_runs(read_run(reference), read_run(candidate)), "b against a")
    return paper.getvalue().splitlines()


def test_equal_runs_are_one_line(leave_run: LeaveRun) -> None:
    lines = drawn(leave_run("a"), leave_run("b", runner="native"))
    assert lines == ["b against a: all bits equal, of frames, sound, latents and 263 taps"]
    bare = leave_run("c", blocks=None), leave_run("d", runner="engine", blocks=None)
    assert drawn(*bare) == ["b against a: all bits equal, of frames, sound, latents"]
    itself = drawn(bare[0], bare[0])
    assert itself == [
        "b against a: all bits equal, of frames, sound, latents; it is the reference's own run, or a copy"
    ]


@pytest.mark.parametrize("output", ["video_frames", "audio_waveform", "video_latent", "audio_latent"])
def test_one_other_bit_is_a_table(leave_run: LeaveRun, output: str) -> None:
    def change(made: dict[str, Any]) -> None:
        made[output].view(-1)[3] += 1

    lines = drawn(leave_run("a"), leave_run("b", runner="native", change=change))
    assert len(lines) > 20 and not any("all bits equal" in line for line in lines)


def test_one_other_tap_is_a_table(leave_run: LeaveRun) -> None:
    tap = "denoise/001/cond/block/01/video/ff"
    lines = drawn(leave_run("a"), leave_run("b", runner="native", first=tap, error=0.25))
    assert len(lines) > 20 and not any("all bits equal" in line for line in lines)
