"""The effect that separates two runs, in a few numbers."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from parity.identify.effect import effect
from parity.runs.folder import TRACE_FILE, Run, read_run
from parity.runs.reduced import write_reduced_trace
from parity.trace.checksums import CHECKSUMS_FILE
from runners.errors import RunError
from runners.files import sha256_of

LeaveRun = Callable[..., Path]


def half_louder(made: dict[str, Any]) -> None:
    made["audio_waveform"] = made["audio_waveform"] * 1.5


def two_levels_brighter(made: dict[str, Any]) -> None:
    made["video_frames"] = made["video_frames"] + 2


def test_equal_runs_have_no_effect_whatever_release_they_say(leave_run: LeaveRun) -> None:
    found = effect(read_run(leave_run("old")), read_run(leave_run("new", reference="1.2.0")))
    assert found.bit_equal and found.first_tap is None and found.taps > 100
    assert (found.taps_moved, found.taps_unmatched, found.taps_max, found.taps_median) == (0, 0, 0.0, 0.0)
    assert (found.frames, found.frames_psnr_db, found.audio) == (0.0, math.inf, 0.0)


def test_sizes_are_relative_to_the_first_run(leave_run: LeaveRun) -> None:
    old = read_run(leave_run("old"))
    louder = effect(old, read_run(leave_run("louder", change=half_louder)))
    assert louder.audio == pytest.approx(0.5) and louder.frames == 0.0 and not louder.bit_equal
    brighter = effect(old, read_run(leave_run("brighter", change=two_levels_brighter)))
    norm = float(old.outputs().video_frames.double().square().mean().sqrt())
    assert brighter.frames == pytest.approx(2 / norm)
    assert brighter.frames_psnr_db == pytest.approx(20 * math.log10(255 / 2))


def test_the_first_tap_is_the_earliest_in_either_run_that_moved_or_is_on_one_side(leave_run: LeaveRun) -> None:
    old = read_run(leave_run("old"))
    moved = effect(old, read_run(leave_run("moved", first="denoise/001/guided/video", error=0.25)))
    assert moved.first_tap == "denoise/001/guided/video" and 1 < moved.taps_moved < moved.taps / 2
    assert moved.taps_max >= moved.taps_median == pytest.approx(0.25, rel=0.4)
    extra = effect(old, read_run(leave_run("extra", extra="denoise/000/cond/x0/smell")))
    assert (extra.first_tap, extra.taps_unmatched, extra.taps_moved) == ("denoise/000/cond/x0/smell", 1, 0)
    assert not extra.bit_equal


def test_a_tap_that_a_golden_keeps_no_sketch_of_is_held_to_its_bits(leave_run: LeaveRun) -> None:
    hidden = "denoise/001/cond/block/01/video/ff"
    old, same = read_run(leave_run("old")), read_run(leave_run("same"))
    moved = read_run(leave_run("moved", first=hidden, error=0.25))
    whole = effect(old, moved)
    longer = [replace(plan, steps=40) for plan in old.case.plans]  # of which the run has the first step alone
    write_reduced_trace(old.trace, old.folder, longer, num_blocks=None)
    files = old.manifest.files | {name: sha256_of(old.folder / name) for name in (TRACE_FILE, CHECKSUMS_FILE)}
    golden = Run(folder=old.folder, manifest=msgspec.structs.replace(old.manifest, files=files))
    assert hidden not in golden.trace and effect(golden, same).bit_equal
    found = effect(golden, moved)
    assert found.first_tap == hidden and not found.bit_equal
    assert (found.taps, found.taps_moved, found.taps_unmatched) == (whole.taps, whole.taps_moved, 0)


def test_text_taps_that_hold_padding_on_one_side_are_left_out_and_named(leave_run: LeaveRun) -> None:
    old, new = read_run(leave_run("old", padded_text=True)), read_run(leave_run("new"))
    text = ("text/pos/hidden", "text/neg/hidden")
    whole = effect(new, read_run(leave_run("same")))
    for found in (effect(old, new), effect(new, old)):
        assert found.left_out == text and found.taps == whole.taps - 2 and found.bit_equal
    moved = effect(old, read_run(leave_run("moved", first=text[0], error=0.25)))
    assert moved.first_tap == "connector/pos/video" and whole.left_out == ()


def test_runs_without_traces_are_held_to_their_outputs(leave_run: LeaveRun) -> None:
    found = effect(read_run(leave_run("old", blocks=None)), read_run(leave_run("new")))
    assert found.bit_equal and found.taps == 0


def test_a_bit_of_one_frame_is_no_equality(leave_run: LeaveRun) -> None:
    def one_bit(made: dict[str, Any]) -> None:
        made["video_frames"][3, 5, 7, 1] ^= torch.tensor(1, dtype=torch.uint8)

    found = effect(read_run(leave_run("old")), read_run(leave_run("new", change=one_bit)))
    assert not found.bit_equal and found.first_tap is None and 0 < found.frames < 1e-3


def test_another_request_is_refused(leave_run: LeaveRun) -> None:
    with pytest.raises(RunError, match="different requests: they differ in request"):
        effect(read_run(leave_run("old")), read_run(leave_run("new", prompt="a dog")))
