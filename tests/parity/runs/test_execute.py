"""Recording a run: a crash leaves no run, but what its taps had recorded, marked incomplete."""

import gc
import io
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import torch

from parity.report.ending import sentence_of, traceback_of
from parity.runs.execute import (
    CRASHED_FILE,
    TRACEBACK_FILE,
    crash_kept,
    device_named,
    execute,
    run_to_folder,
    writing_trace,
)
from parity.runs.folder import RUN_FILE
from parity.trace import trace_writer
from parity.trace.file import TRACE_FILE, TRACE_JOURNAL, read_trace
from runners.case import Case
from runners.catalogue import open_runner
from runners.clock import Progress, Quiet
from runners.errors import OutputError, ParityError, RunnerError
from runners.protocol import Capabilities, Outcome, RunOptions
from runners.tap import tap
from runners.weights import WeightsFolder

KEPT = {CRASHED_FILE, TRACEBACK_FILE}


class Crashing:
    """A runner whose third tap is the last thing it does."""

    name = "crashing"
    capabilities: Capabilities

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def run(self, case: Case, progress: Progress) -> Outcome:
        for step in range(3):
            tap(f"denoise/{step:03d}/latent/video", torch.full((2, 3, 5), float(step)))
        raise RuntimeError("the engine died")


class Asking(Crashing):
    """A runner whose libraries raise or ask, wherever that is."""

    def __init__(self, at: str, raised: Exception | None) -> None:
        self.at, self.raised, self.answer = at, raised, "none"

    def _ask(self, here: str) -> None:
        if here == self.at:
            if self.raised is not None:
                raise self.raised
            self.answer = input("run the code? ")

    def __enter__(self) -> Self:
        self._ask("enter")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ask("exit")

    def run(self, case: Case, progress: Progress) -> Outcome:
        self._ask("run")
        raise RunnerError("not reached")


class NamedWeights:
    """Stands where weights would; nothing of them is read before the crash."""

    hash = "0" * 64

    def of_pipeline(self, _: str) -> "NamedWeights":
        return self


def crash(case: Case, out: Path) -> BaseException:
    weights: WeightsFolder = NamedWeights()  # type: ignore[assignment]
    options = RunOptions(device=torch.device("cpu"))
    with pytest.raises(
        RunnerError, match=r"^Runner 'crashing' failed at test_execute.py:\d+: RuntimeError: the engine died"
    ) as died:
        run_to_folder(Crashing(), case, weights, options, out, Quiet(), writing_trace("*", "sketch"))
    return died.value


def test_a_crash_leaves_no_run_but_its_trace_marked_incomplete(tmp_path: Path, micro_case: Callable[..., Case]) -> None:
    crash(micro_case(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    trace = read_trace(tmp_path / "run.crashed")
    assert not trace.complete
    assert list(trace) == [f"denoise/{step:03d}/latent/video" for step in range(3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.crashed"]


def record_again(runner: Crashing, case: Case, out: Path) -> str:
    """The message of a run without taps that must fail, with its notes."""
    weights: WeightsFolder = NamedWeights()  # type: ignore[assignment]
    with pytest.raises(ParityError) as died:
        run_to_folder(runner, case, weights, RunOptions(device=torch.device("cpu")), out, Quiet())
    return sentence_of(died.value)


def test_an_engines_own_traceback_is_kept_named_and_printed(tmp_path: Path, micro_case: Callable[..., Case]) -> None:
    died = crash(micro_case(), tmp_path / "run")
    text = (tmp_path / "run.crashed" / TRACEBACK_FILE).read_text()
    assert text.startswith("Traceback (most recent call last):") and "in run" in text
    assert text.splitlines()[-1] == "RuntimeError: the engine died"
    assert f"The engine's traceback is in {tmp_path}/run.crashed/traceback.txt" in sentence_of(died)
    assert traceback_of(died).count("RuntimeError: the engine died") == 2  # once its own, once in the sentence of ours

    elsewhere = RunnerError("it failed in a child")
    elsewhere.engine_traceback = "Traceback (most recent call last):\nValueError: over there\n"
    assert "Traceback (most recent call last):\nValueError: over there\n" in traceback_of(elsewhere)


def test_the_next_run_to_the_same_place_clears_what_a_crash_left(
    tmp_path: Path, micro_case: Callable[..., Case]
) -> None:
    crash(micro_case(), tmp_path / "run")
    assert "not reached" in record_again(Asking("nowhere", None), micro_case(), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []  # our own refusal leaves nothing, and nothing that could be taken for its own
    said = record_again(Asking("enter", ModuleNotFoundError("No module named 'gone'")), micro_case(), tmp_path / "run")
    assert "needs a module that" in said and "traceback.txt" in said
    assert {path.name for path in (tmp_path / "run.crashed").iterdir()} == KEPT
    (tmp_path / "run.crashed" / "mine.txt").touch()
    assert "not reached" in record_again(Asking("nowhere", None), micro_case(), tmp_path / "run")
    assert (tmp_path / "run.crashed" / "mine.txt").exists()  # somebody's own file: the folder stays


def test_an_engine_that_cannot_be_opened_leaves_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(KeyError), crash_kept(tmp_path / "run"):  # a bug of ours: the command line keeps its traceback
        raise KeyError("bug")
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "engine.py"
    file.write_text("import no_such_library\n")
    weights: WeightsFolder = NamedWeights()  # type: ignore[assignment]
    with pytest.raises(RunnerError, match=r"needs a module that .* cannot import"), crash_kept(tmp_path / "run"):
        open_runner(f"{file}:Engine", weights, RunOptions(device=torch.device("cpu")))
    text = (tmp_path / "run.crashed" / TRACEBACK_FILE).read_text()
    assert "engine.py" in text and "No module named 'no_such_library'" in text


def test_a_module_that_a_known_runner_lacks_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "runners.diffusers.runner", None)
    weights: WeightsFolder = NamedWeights()  # type: ignore[assignment]
    with pytest.raises(RunnerError, match=r"Runner 'diffusers' needs a module that .* cannot import"):
        open_runner("diffusers", weights, RunOptions(device=torch.device("cpu")))


def test_a_crash_of_which_the_trace_cannot_be_closed_leaves_its_journal(
    tmp_path: Path, micro_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    crash(micro_case(), tmp_path / "run")
    with monkeypatch.context() as full:
        full.setattr(trace_writer, "write_trace", full_disk)
        crash(micro_case(), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run.crashed").iterdir()} == {*KEPT, TRACE_JOURNAL}
    trace = read_trace(tmp_path / "run.crashed")
    assert len(trace) == 3 and not trace.complete
    crash(micro_case(), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run.crashed").iterdir()} == {*KEPT, TRACE_FILE}


@pytest.mark.parametrize("kind", ["somebody's folder", "link"])
def test_what_is_not_of_a_crash_stays_and_the_crash_is_heard(
    kind: str, tmp_path: Path, micro_case: Callable[..., Case]
) -> None:
    place = tmp_path / "run.crashed"
    theirs = place if kind == "somebody's folder" else tmp_path / "elsewhere"
    theirs.mkdir()
    (theirs / TRACE_FILE).write_text("theirs")
    if kind == "link":
        place.symlink_to(theirs)
    died = crash(micro_case(), tmp_path / "run")
    assert "What was recorded of its taps is lost: " in "".join(getattr(died, "__notes__", []))
    assert [path.name for path in theirs.iterdir()] == [TRACE_FILE] and (theirs / TRACE_FILE).read_text() == "theirs"


@pytest.mark.parametrize("kind", ["finished run", "somebody's folder", "link", "file"])
def test_a_place_that_is_not_free_is_refused_before_anything_is_run(
    kind: str, tmp_path: Path, micro_case: Callable[..., Case], leave_run: Callable[..., Path]
) -> None:
    run = leave_run("run")
    out = {"link": tmp_path / "link", "file": run / RUN_FILE}.get(kind, run)
    if kind == "somebody's folder":
        (run / RUN_FILE).write_text('{"scripts": {}}')
    if kind == "link":
        out.symlink_to(run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    weights: WeightsFolder = NamedWeights()  # type: ignore[assignment]
    options = RunOptions(device=torch.device("cpu"))
    replaced = kind != "finished run"  # nothing but a run is replaced, even if that is asked for
    with pytest.raises(OutputError, match="--replace" if kind == "finished run" else "another --out"):
        run_to_folder(Crashing(), micro_case(), weights, options, out, Quiet(), replace=replaced)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} <= {"run", "link"}


@pytest.mark.parametrize("at", ["enter", "run"])
@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ModuleNotFoundError("No module named 'sgl'"), r"'crashing' needs a module that .* \(No module named 'sgl'\)"),
        (KeyError("x"), r"^Runner 'crashing' failed at test_execute.py:\d+: KeyError: 'x'$"),
        (None, r"^Runner 'crashing' failed at .*: EOFError: "),  # it asks, and nobody is there
    ],
)
def test_what_an_engine_raises_anywhere_is_a_sentence_of_the_tree(
    at: str, raised: Exception | None, said: str, micro_case: Callable[..., Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    with pytest.raises(RunnerError, match=said):
        execute(Asking(at, raised), micro_case(), RunOptions(device=torch.device("cpu")), Quiet())


def test_a_run_collects_no_garbage_of_imports_but_what_an_earlier_run_left(micro_case: Callable[..., Case]) -> None:
    class InCycle:
        itself: "InCycle"

    def run() -> set[int]:
        """Identities of the objects that collections walk while the engine runs."""
        walked: set[int] = set()

        class Looking(Crashing):
            def run(self, case: Case, progress: Progress) -> Outcome:
                walked.update(map(id, gc.get_objects()))
                raise RuntimeError("seen enough")

        with pytest.raises(RunnerError, match="seen enough"):
            execute(Looking(), micro_case(), RunOptions(device=torch.device("cpu")), Quiet())
        return walked

    run()  # before the first there is nothing to collect
    lasting, left = [[]], InCycle()  # type: ignore[var-annotated]
    left.itself, gone = left, weakref.ref(left)
    assert id(lasting) in map(id, gc.get_objects())
    del left
    walked = run()
    assert id(lasting) not in walked and gone() is None


def test_a_device_that_is_not_here_is_named() -> None:
    with pytest.raises(RunnerError, match="'mps' is not supported"):
        device_named("mps")
    with pytest.raises(RunnerError, match="'nonsense' is no device"):
        device_named("nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(RunnerError, match="--device cpu"):
            device_named("cuda")
