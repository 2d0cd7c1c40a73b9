import json
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from parity.trace import journal as journal_module
from parity.trace import trace_writer as writer_module
from parity.trace.file import TRACE_FILE, TRACE_JOURNAL, read_trace
from parity.trace.full_tensors import TENSORS_FILE, TENSORS_JOURNAL, assemble_tensors
from parity.trace.sketch import sketch
from parity.trace.trace_writer import TraceWriter
from runners.errors import ConfigError, RunError
from runners.tap import CapturedTaps, can_capture, listening, scope, tap, tap_again

Interrupting = Callable[[int, ModuleType, ModuleType], AbstractContextManager[list[int]]]


def offer(steps: int) -> dict[str, Tensor]:
    """Tap two tensors in every step, and return what was tapped."""
    generator = torch.Generator().manual_seed(0)
    tapped = {}
    for step in range(steps):
        for stream, shape in (("video", (1, 7, 24)), ("audio", (1, 3, 10))):
            name, tensor = f"denoise/{step:03d}/guided/{stream}", torch.randn(shape, generator=generator)
            tapped[name] = tensor.bfloat16() if stream == "video" else tensor
            with scope(f"denoise/{step:03d}"):
                tap(f"guided/{stream}", tapped[name])
    return tapped


def test_a_run_leaves_the_sketch_of_every_tap_in_order(tmp_path: Path) -> None:
    with TraceWriter(tmp_path) as writer, listening(writer):
        tapped = offer(3)
    trace = read_trace(tmp_path)
    assert list(trace) == list(tapped) and trace.complete and trace.pattern is None
    for name, tensor in tapped.items():
        expected = sketch(tensor)
        assert trace[name].same_bits(expected) and torch.equal(trace[name].buckets, expected.buckets)
    assert [path.name for path in tmp_path.iterdir()] == [TRACE_FILE]


def test_what_was_heard_is_recorded_again_by_name_in_whatever_batch_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "CAPACITY", 2)  # so that the step's taps lie in three batches
    first, second = torch.arange(6.0).reshape(1, 2, 3), torch.full((1, 5), 7.0).bfloat16()
    with TraceWriter(tmp_path) as writer, listening(writer), scope("denoise/003"):
        tap("cond/block/00/video/out", first)
        tap("cond/block/00/audio/out", second)
        tap("cond/block/01/video/out", first + 1)
        with scope("perturbed"):
            tap_again("denoise/003/cond/block/00", "block/00")
    trace = read_trace(tmp_path)
    assert list(trace)[3:] == ["denoise/003/perturbed/block/00/video/out", "denoise/003/perturbed/block/00/audio/out"]
    for stream, tensor in (("video", first), ("audio", second)):
        again = trace[f"denoise/003/perturbed/block/00/{stream}/out"]
        assert again.same_bits(sketch(tensor)) and (again.shape, again.dtype) == (
            tuple(tensor.shape),
            str(tensor.dtype).removeprefix("torch."),
        )


def test_a_name_that_was_heard_cannot_be_heard_again_by_repeating(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="heard twice"), TraceWriter(tmp_path) as writer:
        writer("denoise/003/a/b", torch.ones(2))
        writer.repeat("denoise/003/a", "denoise/003/a")


def test_what_a_capture_holds_is_recorded_at_each_replay_under_the_scope_of_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "CAPACITY", 2)  # so that a step's taps lie in two batches
    with TraceWriter(tmp_path) as writer, listening(writer):
        for step in (0, 1, 2):
            with scope(f"denoise/{step:03d}"):
                if step == 1:
                    with CapturedTaps() as taps:  # a graph computes nothing while it is captured
                        for name in ("video/out", "audio/out", "x0"):
                            tap(f"cond/{name}", torch.full((1, 3), 5.0))
                        tap_again("denoise/001/cond/video", "perturbed/video")
                if step:
                    taps.replayed()
                tap("guided/video", torch.full((1, 4), float(step)))
    trace = read_trace(tmp_path)
    tails = ["cond/video/out", "cond/audio/out", "cond/x0", "perturbed/video/out", "guided/video"]
    assert list(trace) == [
        "denoise/000/guided/video",
        *(f"denoise/{step}/{tail}" for step in ("001", "002") for tail in tails),
    ]
    for name in (*tails[:4],):
        assert trace[f"denoise/002/{name}"].same_bits(sketch(torch.full((1, 3), 5.0))), name
    assert trace["denoise/002/guided/video"].mean == 2.0


def test_whole_tensors_are_not_captured(tmp_path: Path) -> None:
    with TraceWriter(tmp_path, keep="full") as writer, listening(writer):
        assert not can_capture()
    assert can_capture()


def test_what_is_tapped_may_change_afterwards(tmp_path: Path) -> None:
    tensor = torch.ones(5)
    with TraceWriter(tmp_path, keep="full") as writer:
        writer("first", tensor)
        tensor.zero_()
    assert read_trace(tmp_path)["first"].mean == 1.0
    assert load_file(tmp_path / TENSORS_FILE)["first"].tolist() == [1.0] * 5


def test_a_pattern_chooses_taps_and_is_kept_with_the_trace(tmp_path: Path) -> None:
    with TraceWriter(tmp_path, pattern="*/video", buckets=128) as writer, listening(writer):
        offer(2)
    trace = read_trace(tmp_path)
    assert list(trace) == ["denoise/000/guided/video", "denoise/001/guided/video"]
    assert trace.pattern == "*/video" and trace.buckets == 128


def test_whole_tensors_are_kept_for_the_chosen_taps(tmp_path: Path) -> None:
    with TraceWriter(tmp_path, pattern="denoise/*", keep="full") as writer, listening(writer):
        tapped = offer(2)
        tap("decode/frames", torch.zeros(3))
        odd = torch.arange(5, dtype=torch.uint8)  # an odd number of bytes ahead of wider elements
        for name, tensor in {"denoise/odd": odd, "denoise/wide": torch.tensor(0.5, dtype=torch.float64)}.items():
            tapped[name] = tensor
            tap(name, tensor)
    tensors = load_file(tmp_path / TENSORS_FILE)
    assert tensors.keys() == tapped.keys() == set(read_trace(tmp_path))
    for name, tensor in tapped.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)
    assert not (tmp_path / TENSORS_JOURNAL).exists()
    data = (tmp_path / TENSORS_FILE).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    for name, tensor in tapped.items():  # each begins at a multiple of its element
        assert header[name]["data_offsets"][0] % tensor.element_size() == 0


def test_a_step_is_on_disk_once_the_next_has_begun(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path)
    assert len(read_trace(tmp_path)) == 0
    for step in range(3):
        writer(f"denoise/{step:03d}/guided/video", torch.ones(2))
        writer(f"denoise/{step:03d}/guided/audio", torch.ones(2))
        trace = read_trace(tmp_path)
        assert len(trace) == 2 * step and not trace.complete
    writer.close()
    assert len(read_trace(tmp_path)) == 6


def test_a_step_of_more_taps_than_a_batch_holds_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "CAPACITY", 3)
    with TraceWriter(tmp_path) as writer:
        for index in range(8):
            writer(f"denoise/000/{index}", torch.full((2,), float(index)))
    trace = read_trace(tmp_path)
    assert [trace[name].mean for name in trace] == [float(index) for index in range(8)]


def test_a_run_that_raises_leaves_what_it_had_marked_incomplete(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), TraceWriter(tmp_path, keep="full") as writer:
        writer("denoise/000/x", torch.ones(2))
        writer("denoise/001/x", torch.ones(2) / (1 // 0))
    trace = read_trace(tmp_path)
    assert list(trace) == ["denoise/000/x"] and not trace.complete
    assert list(load_file(tmp_path / TENSORS_FILE)) == ["denoise/000/x"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # closing a file can be interrupted, too
def test_an_interrupt_at_any_line_is_heard_and_leaves_a_trace_that_can_be_read(
    tmp_path: Path, interrupting: Interrupting
) -> None:
    names = [f"denoise/{step:03d}/{part}" for step in range(3) for part in "ab"]

    def recorded(folder: Path, line: int) -> int:
        """Record three steps, interrupted at that line of the writer; return how many lines were run."""
        folder.mkdir()
        writer = TraceWriter(folder, keep="full")
        with interrupting(line, writer_module, journal_module) as ran, writer:
            for name in names:
                writer(name, torch.ones(2) if name.endswith("a") else torch.ones(3).bfloat16())
        return len(ran)

    lines = recorded(tmp_path / "whole", 0)
    assert list(read_trace(tmp_path / "whole")) == names and lines > 100
    for line in range(1, lines + 1):
        with pytest.raises(KeyboardInterrupt):
            recorded(tmp_path / str(line), line)
        trace = read_trace(tmp_path / str(line))
        assert set(trace) <= set(names)
        assert set(trace) == set(names) or not trace.complete
        assert all(trace[name].dtype == ("float32" if name.endswith("a") else "bfloat16") for name in trace)


def test_what_ends_a_run_is_not_hidden_by_a_trace_that_cannot_be_closed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught, TraceWriter(tmp_path) as writer:
        writer("denoise/000/x", torch.ones(2))
        (tmp_path / TRACE_JOURNAL).unlink()
        raise ZeroDivisionError
    assert "could not be closed" in caught.value.__notes__[0]


def test_an_interrupt_while_a_failed_run_is_closed_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer_module, "write_trace", interrupted)
    with pytest.raises(KeyboardInterrupt), TraceWriter(tmp_path):
        raise ZeroDivisionError


def test_a_killed_run_leaves_its_finished_steps(tmp_path: Path, warm: Path) -> None:
    program = """
import os, sys, torch
from pathlib import Path
from parity.trace.trace_writer import TraceWriter
writer = TraceWriter(Path(sys.argv[1]), keep="full")
for step in range(3):
    for part in "ab":
        writer(f"denoise/{step:03d}/{part}", torch.full((4,), float(step)))
os._exit(9)
"""
    killed = subprocess.run([warm, "-c", program, str(tmp_path)], check=False)
    assert killed.returncode == 9 and not (tmp_path / TRACE_FILE).exists()
    trace = read_trace(tmp_path)
    assert list(trace) == [f"denoise/{step:03d}/{part}" for step in range(2) for part in "ab"]
    assert not trace.complete and trace["denoise/001/b"].mean == 1.0

    journal = tmp_path / TENSORS_JOURNAL
    journal.write_bytes(journal.read_bytes()[:-2])  # the last record torn too
    assert not assemble_tensors(tmp_path)
    tensors = load_file(tmp_path / TENSORS_FILE)
    assert list(tensors)[-1] == "denoise/002/a" and len(tensors) == 5


def test_a_run_without_taps_leaves_an_empty_trace(tmp_path: Path) -> None:
    TraceWriter(tmp_path, keep="full").close()
    assert len(read_trace(tmp_path)) == 0
    assert load_file(tmp_path / TENSORS_FILE) == {}


@pytest.mark.parametrize("name", ["denoise/000/x", "", "two\nlines"])
def test_a_tap_heard_twice_or_without_a_proper_name_is_refused(name: str, tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path)
    writer("denoise/000/x", torch.ones(2))
    with pytest.raises(RunError, match="heard twice, or its name"):
        writer(name, torch.ones(2))
    writer.close()


def test_a_folder_with_a_journal_and_a_bad_number_of_buckets_are_refused(tmp_path: Path) -> None:
    (tmp_path / TRACE_JOURNAL).touch()
    with pytest.raises(RunError, match="exists already"):
        TraceWriter(tmp_path)
    with pytest.raises(ConfigError, match="got 65"):
        TraceWriter(tmp_path, buckets=65)


def test_the_trace_of_another_process_becomes_part_of_this_one_as_far_as_it_was_asked_for(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    with TraceWriter(there, keep="full") as other, listening(other):
        tapped = offer(2)
    with TraceWriter(here, pattern="*/video first", keep="full") as writer:
        assert writer.request == {"pattern": "*/video first", "keep": "full", "prompt_tokens": {}}
        writer.adopt(there)
    trace, wanted = read_trace(here), [name for name in tapped if name.endswith("video")]
    assert list(trace) == wanted and trace.complete and trace.pattern == "*/video first"
    assert all(trace[name].same_bits(sketch(tapped[name])) for name in wanted)
    assert load_file(here / TENSORS_FILE).keys() == tapped.keys()
    assert sorted(path.name for path in here.iterdir()) == [TENSORS_FILE, TRACE_FILE]


def test_what_another_process_did_not_finish_stays_unfinished_and_a_tap_of_both_is_refused(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    running = TraceWriter(there)
    running("a/b/c", torch.ones(3))  # not sent yet
    other = TraceWriter(tmp_path)
    other("a/b/c", torch.ones(3))
    other.close(complete=False)
    with pytest.raises(RunError, match="names a tap twice"), TraceWriter(here) as writer:
        writer("a/b/c", torch.ones(3))
        writer.adopt(tmp_path)
    (here / TRACE_JOURNAL).unlink()
    with TraceWriter(here) as writer:
        writer.adopt(there)
        writer.adopt(tmp_path)
    assert list(read_trace(here)) == ["a/b/c"] and not read_trace(here).complete
    running.close()
    with pytest.raises(RunError, match="holds neither"), TraceWriter(here) as writer:
        writer.adopt(here / "none")


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_recording_on_the_gpu_never_waits_inside_a_step_and_equals_the_cpu(tmp_path: Path) -> None:
    tensors = [torch.randn(1, 96, 512).bfloat16() for _ in range(20)]
    on_device = [tensor.cuda() for tensor in tensors]
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cuda").mkdir()
    with TraceWriter(tmp_path / "cpu") as writer:
        for index, tensor in enumerate(tensors):
            writer(f"denoise/{index // 5:03d}/{index}", tensor)
    writer = TraceWriter(tmp_path / "cuda")
    writer("text/warm", on_device[0])  # compiles the kernel, which waits
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for index, tensor in enumerate(on_device):
            writer(f"denoise/{index // 5:03d}/{index}", tensor)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.max_memory_allocated() - before <= 256 * 2**20
    writer.close()
    expected, found = read_trace(tmp_path / "cpu"), read_trace(tmp_path / "cuda")
    for name in expected:
        assert found[name].same_bits(expected[name])
        torch.testing.assert_close(found[name].buckets, expected[name].buckets, rtol=1e-5, atol=1e-4)
