"""A run's outputs against its own taps of them: whoever takes another's trace contradicts himself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.diff.comparable import output_taps
from parity.diff.runs import compare_runs
from parity.judge.gate import gate
from parity.runs.folder import RUN_FILE, TRACE_FILE, read_run
from parity.runs.reduced import reduce_outputs
from parity.trace.file import SketchTable, read_trace, write_trace
from parity.trace.sketch import sketch
from runners.files import sha256_of
from tests.parity.conftest import BUCKETS

LeaveRun = Callable[..., Path]
TAPS = ("decode/waveform", "decode/frames", "denoise/001/latent/video", "denoise/001/latent/audio")
LATENTS = {"video": "denoise/001/latent/video", "audio": "denoise/001/latent/audio"}


def retraced(run: Path, change: Callable[[SketchTable], None]) -> Path:
    """A run whose trace says something else, and whose run.json vouches for it."""
    table = read_trace(run).part(None)
    change(table)
    write_trace(run, table)
    record = json.loads((run / RUN_FILE).read_text())
    record["files"][TRACE_FILE] = sha256_of(run / TRACE_FILE)
    (run / RUN_FILE).write_text(json.dumps(record))
    return run


def truthful(run: Path) -> Path:
    """The run with the sketches that its outputs have, as every writer leaves them."""
    outputs = read_run(run).outputs()

    def change(table: SketchTable) -> None:
        for tap, tensor in output_taps(outputs, LATENTS).items():
            row, true = table.names.index(tap), sketch(tensor.contiguous(), buckets=BUCKETS)
            table.shapes[row], table.dtypes[row] = true.shape, true.dtype
            table.floats[row] = torch.cat((true.buckets, torch.tensor([true.l2, true.max_abs, true.mean])))
            table.integers[row] = torch.tensor([true.checksum, true.nan_count, true.inf_count])

    return retraced(run, change)


def found_in(reference: Path, candidate: Path) -> list[tuple[str, str]]:
    findings = compare_runs(read_run(reference), read_run(candidate)).findings
    return [(one.where, one.message) for one in findings if one.code == "contradictory_trace"]


def test_the_last_latent_is_the_output_as_tokens_and_frames_and_sound_are_taps_themselves(leave_run: LeaveRun) -> None:
    outputs = read_run(leave_run("official")).outputs()  # latents (1, 128, 2, 3, 4) and (1, 8, 5, 16)
    assert outputs.video_latent is not None and outputs.audio_latent is not None
    taps = output_taps(outputs, LATENTS)
    assert torch.equal(taps["decode/frames"], outputs.video_frames)
    assert torch.equal(taps["decode/waveform"], outputs.audio_waveform)
    video, audio = taps["denoise/001/latent/video"], taps["denoise/001/latent/audio"]
    assert (video.shape, audio.shape) == ((1, 24, 128), (1, 5, 128))
    assert video[0, 1 * 12 + 2 * 4 + 3, 100] == outputs.video_latent[0, 100, 1, 2, 3]
    assert audio[0, 4, 7 * 16 + 9] == outputs.audio_latent[0, 7, 4, 9]


def test_honest_runs_contradict_nothing_with_equal_bits_and_with_others(leave_run: LeaveRun) -> None:
    def brighter(made: dict[str, Any]) -> None:
        made["video_frames"] = made["video_frames"] + 1
        made["audio_latent"] = made["audio_latent"] * 1.01

    official, native = truthful(leave_run("official")), truthful(leave_run("native", runner="native"))
    other = truthful(leave_run("other", runner="native", change=brighter))
    assert found_in(official, native) == found_in(official, other) == []
    assert compare_runs(read_run(official), read_run(native)).findings == ()


@pytest.mark.parametrize(
    ("output", "tap"),
    list(zip(("audio_waveform", "video_frames", "video_latent", "audio_latent"), TAPS, strict=True)),
)
def test_who_takes_the_references_trace_beside_outputs_of_its_own_is_found(
    leave_run: LeaveRun, output: str, tap: str
) -> None:
    def least(made: dict[str, Any]) -> None:
        made[output] = made[output].clone()
        made[output].view(torch.uint8).view(-1)[7] ^= 1  # one bit of one element

    official = truthful(leave_run("official"))
    forger = retraced(
        leave_run("forger", runner="native", tier="fast", change=least),
        lambda table: vars(table).update(vars(read_trace(official).part(None))),
    )
    assert found_in(official, forger) == [(tap, "of the candidate: its checksum is not that of the output that it is")]
    assert found_in(forger, official) == [(tap, "of the reference: its checksum is not that of the output that it is")]
    assert gate(read_run(official), read_run(forger), profile="exact").exit_code == 1  # the bit itself decides


@pytest.mark.parametrize("tap", TAPS)
def test_a_true_checksum_beside_the_references_statistics_is_found(leave_run: LeaveRun, tap: str) -> None:
    def other(made: dict[str, Any]) -> None:
        for name in ("video_frames", "audio_waveform", "video_latent", "audio_latent"):
            made[name] = made[name].flip(0 if made[name].ndim < 5 else 3).contiguous()
        made["audio_latent"] = made["audio_latent"].flip(2).contiguous()

    official = truthful(leave_run("official"))
    forger = truthful(leave_run("forger", runner="native", tier="fast", change=other))
    theirs = read_trace(official)

    def borrow(table: SketchTable) -> None:
        table.floats[table.names.index(tap)] = theirs.rows_of([tap])[0][0]

    words = "of the candidate: its checksum is that of the output that it is, its statistics are not"
    assert found_in(official, forger) == []
    assert found_in(official, retraced(forger, borrow)) == [(tap, words)]


def test_a_reduced_run_is_held_to_what_it_keeps(leave_run: LeaveRun) -> None:
    outputs = read_run(leave_run("official", frames=(5, 64, 96))).outputs()
    assert set(output_taps(outputs, LATENTS)) == set(TAPS)
    assert set(output_taps(reduce_outputs(outputs), LATENTS)) == set(TAPS) - {"decode/frames"}
