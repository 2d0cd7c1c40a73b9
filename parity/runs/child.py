"""Running a case in another interpreter: one child process that shares nothing with this one but a folder.

An engine with its own dependencies runs where they are: `PYTHON child_main.py REQUEST.json`. The child says what it is
doing on its standard output and leaves its outputs in the folder; both are read as a stranger's data. docs/runners.md
says what the interpreter needs, and shows an engine run this way.
"""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec
import torch

import runners.errors
from parity.runs.child_main import MARK, PROTOCOL, RESULT_FILE, kill_marked
from parity.runs.execute import Executed, leave_run
from parity.runs.folder import MAX_RUN_BYTES, OUTPUTS_FILE, TENSORS_FILE, TRACE_FILE, dtype_name, read_outputs
from parity.trace.file import TRACE_JOURNAL, journal_table, read_trace, write_trace
from parity.trace.recorder import Keep
from runners.case import Case, case_document
from runners.catalogue import NAMES
from runners.clock import Progress
from runners.errors import ParityError, RunError, RunnerError
from runners.forge.weights import ForgedWeights
from runners.protocol import Outcome, RunOptions
from runners.real_tokens import PromptTokens
from runners.weights import Weights, WeightsFolder

PROGRAM: Final = Path(__file__).with_name("child_main.py")
GRACE_S: Final = 5.0  # between asking a child to end and killing it
MAX_LINE_BYTES: Final = 1 << 16  # of a message
SAID_LINES: Final = 12  # of what a child printed, kept for an error
ANSWER_S: Final = 300.0  # that an interpreter may take to import torch and say what it is
SILENCE_S: Final = 60.0  # that a child may take to end once it has closed its output
_LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\u00a0-\U0010ffff]")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")


@dataclass(frozen=True, kw_only=True)
class Child:
    """Which interpreter runs what."""

    python: Path
    runner: str  # a name of the catalogue, or FILE.py:CLASS
    weights: WeightsFolder | ForgedWeights
    overrides: dict[str, Any] = field(default_factory=dict)
    command_line: dict[str, Any] = field(default_factory=dict)
    official_root: Path | None = None
    taps: str | None = None  # pattern of the taps to record
    keep: Keep = "sketch"
    prompt_tokens: PromptTokens = field(
        default_factory=dict
    )  # of an engine that may tap the window that a prompt stands in
    variables: Mapping[str, str] = field(default_factory=dict)  # of its environment; an empty one is taken away
    threads: int | None = None  # None leaves torch its default; setting even that is another way of computing


class ChildResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of a child's `result.json`."""

    runner: str
    environment: dict[str, Any]
    end_to_end_s: float
    frame_rate: float
    sample_rate_hz: int
    sigmas: list[float]
    stage_s: dict[str, float]
    step_s: list[float]
    peak_bytes: int
    details: dict[str, Any]


def record_in_child(
    child: Child, case: Case, weights: Weights, options: RunOptions, out: Path, progress: Progress
) -> Outcome:
    """Run a case in a child process and leave the run folder `out`, as `parity.runs.execute.record_run` does here.

    Raises: ParityError of the kind that the child raised; RunnerError if it cannot be started, dies, or does not keep
    to the protocol; RunError if what it leaves is not a run. On any way out, it is ended with all that it started.
    """
    return leave_run(lambda folder: execute(child, case, options, folder, progress), case, weights, options, out)


def execute(child: Child, case: Case, options: RunOptions, folder: Path, progress: Progress) -> Executed:
    """Run a case in a child process; a trace is left in `folder`. Raises: as `record_in_child`."""
    place = Path(tempfile.mkdtemp(dir=folder, prefix=".child."))
    request = place / "request.json"
    request.write_text(json.dumps(_request(child, case, options)), encoding="utf-8")
    try:
        with _started(child.python, request, child.variables) as process:
            _follow(process, child, progress)
        result = _result(place / RESULT_FILE)
        executed = _executed(result, child, case, place)
        if child.taps is not None:
            read_trace(place)
            for name in (TRACE_FILE, TENSORS_FILE) if child.keep == "full" else (TRACE_FILE,):
                _regular(place / name).replace(folder / name)
        return executed
    except BaseException:
        with contextlib.suppress(ParityError, OSError):
            _save_trace(place, folder)
        raise
    finally:
        shutil.rmtree(place, ignore_errors=True)


def environment_in(python: Path, device: torch.device, release: str) -> dict[str, Any]:
    """The fingerprint that a child of this interpreter would record of a release, with as many threads as here.

    Raises: RunnerError if it cannot be asked.
    """
    code = (
        "import json, sys, torch; sys.path.insert(0, sys.argv[1]); torch.set_num_threads(int(sys.argv[2])); "
        "from parity.runs.environment import fingerprint_of_runs; "
        "print(json.dumps(fingerprint_of_runs(torch.device(sys.argv[3]), sys.argv[4])))"
    )
    arguments = [str(PROGRAM.parents[2]), str(torch.get_num_threads()), str(device), release]
    try:
        asked = subprocess.run(
            [str(python.absolute()), "-c", code, *arguments],
            capture_output=True,
            env=_environment(),
            timeout=ANSWER_S,
        )
        found: dict[str, Any] = json.loads(asked.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise RunnerError(f"{python} does not say what it is ({error}); docs/runners.md says what it needs.") from error
    return found


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}


def _request(child: Child, case: Case, options: RunOptions) -> dict[str, Any]:
    runner, colon, name = child.runner.rpartition(":")
    return {
        "protocol": PROTOCOL,
        "runner": f"{Path(runner).resolve()}:{name}" if colon else child.runner,
        "case": case_document(case),
        "case_folder": str(Path(case.folder).resolve()),
        "weights": _named(child.weights),
        "device": str(options.device),
        "dtype": dtype_name(options.dtype),
        "tier": options.tier,
        "behaviours": options.behaviours,
        "overrides": child.overrides,
        "command_line": child.command_line,
        "official_root": None if child.official_root is None else str(child.official_root.resolve()),
        "taps": child.taps,
        "keep": child.keep,
        "prompt_tokens": dict(child.prompt_tokens),
        "threads": child.threads,
    }


def _named(weights: WeightsFolder | ForgedWeights) -> str | dict[str, Any]:
    """A folder by its path; made weights by their recipe, with what only this interpreter can prepare for it."""
    if isinstance(weights, WeightsFolder):
        return str(weights.folder.resolve())
    return {
        "preset": weights.preset,
        "seed": weights.seed,
        "recipe": weights.recipe,
        "model": weights.prepared.model,
        "gemma": weights.prepared.gemma,
        "gemma_folder": str(weights.gemma_folder.resolve()),
    }


@contextmanager
def _started(python: Path, request: Path, variables: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """A child with its own session; it and all that it started are gone when the block is left."""
    mark = uuid.uuid4().hex
    environment = {name: value for name, value in {**_environment(), **variables}.items() if value} | {MARK: mark}
    try:
        process = subprocess.Popen(
            [str(python.absolute()), "-u", str(PROGRAM), str(request)],
            stdin=subprocess.PIPE,  # never written to: when this process ends in whatever way, it closes
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise RunnerError(
            f"{python} cannot be started ({error}); --runner-python names a Python interpreter, such as "
            "other-venv/bin/python."
        ) from error
    try:
        yield process
    finally:
        _end(process, mark)


def _end(process: "subprocess.Popen[bytes]", mark: str) -> None:
    """Ask the group to end, kill what is left of it or has left it, and reap its leader last: its number stays its own.

    Standard error is left to its reader, who may wait for somebody who still holds it.
    """
    asked = False
    with contextlib.suppress(ProcessLookupError):
        if not _has_ended(process, 0.0):
            os.killpg(process.pid, signal.SIGTERM)
            asked = True
    try:
        if asked:
            _has_ended(process, GRACE_S)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        kill_marked(mark)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _has_ended(process: "subprocess.Popen[bytes]", within_s: float) -> bool:
    """Whether the child has ended, without reaping it."""
    over = threading.Event()
    waited_s = 0.0
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if waited_s >= within_s:
            return False
        over.wait(0.02)
        waited_s += 0.02
    return True


def _follow(process: "subprocess.Popen[bytes]", child: Child, progress: Progress) -> None:
    """Pass on what the child says until it ends. Raises: what it raised, or RunnerError."""
    assert process.stdout is not None and process.stderr is not None
    said: deque[str] = deque(maxlen=SAID_LINES)
    listener = threading.Thread(target=_collect, args=(process.stderr, said), daemon=True)
    listener.start()
    error: ParityError | None = None
    while line := process.stdout.readline(MAX_LINE_BYTES):
        error = _heard(line, child, progress) or error
    if not _has_ended(process, SILENCE_S):
        raise RunnerError(f"The process of runner {child.runner!r} closed its output and does not end; it was killed.")
    listener.join(1.0)  # a grandchild may hold the pipe open
    if error is not None:
        raise error
    status = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    if status is not None and status.si_status != 0:
        how = f"by signal {status.si_status}" if status.si_code != os.CLD_EXITED else f"with status {status.si_status}"
        last = "".join(f"\n  {text}" for text in said)
        raise RunnerError(f"The process of runner {child.runner!r} ended {how}; it last said:{last or ' nothing'}")


def _collect(pipe: BinaryIO, said: deque[str]) -> None:
    with pipe:
        while line := pipe.readline(MAX_LINE_BYTES):
            said.append(_printable(line.decode("utf-8", "replace").rstrip(), 400))


def _heard(line: bytes, child: Child, progress: Progress) -> ParityError | None:
    """Pass one message on. Returns: the error that it reports, if it does."""
    try:
        message = json.loads(line)
        ((kind, value),) = message.items()
        if kind == "stage" and isinstance(value, str):
            progress.stage(_printable(value, 60))
            return None
        if kind == "step":
            index, count = value
            if type(index) is int and type(count) is int and 0 <= index <= count <= 1_000_000:
                progress.step(index, count)
                return None
        if kind == "error":
            return _error_named(str(value["kind"]))(_printable(str(value["message"]), 4000))
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        pass
    said = _printable(line[:100].decode("utf-8", "replace"), 100)
    raise RunnerError(
        f"The process of runner {child.runner!r} said {said!r}, no message of the protocol that docs/runners.md gives."
    )


def _error_named(name: str) -> type[ParityError]:
    named = getattr(runners.errors, name, None)
    return named if isinstance(named, type) and issubclass(named, ParityError) else RunnerError


def _printable(text: str, length: int) -> str:
    return _UNPRINTABLE.sub(" ", text)[:length]


def _result(path: Path) -> ChildResult:
    _regular(path)
    if path.stat().st_size > MAX_RUN_BYTES:
        raise RunError(f"{path.name} of the child has {path.stat().st_size} bytes; at most {MAX_RUN_BYTES} are read.")
    try:
        return msgspec.convert(json.loads(path.read_bytes()), ChildResult, strict=True)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path.name} of the child does not have the form of a result: {error}.") from error


def _executed(result: ChildResult, child: Child, case: Case, place: Path) -> Executed:
    """What the child left, once every part of it is what it should be. Raises: RunError."""
    name = result.runner
    if child.runner in NAMES and name != child.runner:
        raise RunError(f"The child was asked for runner {child.runner!r} and ran {_printable(name, 60)!r}.")
    if child.runner not in NAMES and (name in NAMES or not _NAME.fullmatch(name)):
        raise RunError(
            f"{child.runner} calls itself {_printable(name, 60)!r}; a name is letters, digits, '_', '.' and '-', and "
            f"{', '.join(NAMES)} are taken."
        )
    outputs = read_outputs(_regular(place / OUTPUTS_FILE))
    request = case.request
    wanted = (request.num_frames, request.height, request.width, 3)
    if tuple(outputs["video_frames"].shape) != wanted:
        raise RunError(f"The child's frames are {tuple(outputs['video_frames'].shape)}; the case asks for {wanted}.")
    times_s = (result.end_to_end_s, *result.stage_s.values(), *result.step_s)
    if not all(math.isfinite(seconds) and seconds >= 0 for seconds in times_s):
        raise RunError("The child reports a time that is negative or no number.")
    if len(result.step_s) > request.num_inference_steps:
        raise RunError(
            f"The child reports times of {len(result.step_s)} steps; the case asks for {request.num_inference_steps}."
        )
    if result.sample_rate_hz < 1 or not (math.isfinite(result.frame_rate) and result.frame_rate > 0):
        raise RunError(f"The child reports {result.frame_rate} frames and {result.sample_rate_hz} samples a second.")
    outcome = Outcome(
        **outputs,
        frame_rate=result.frame_rate,
        sample_rate_hz=result.sample_rate_hz,
        sigmas=torch.tensor(result.sigmas, dtype=torch.float32),
        stage_s=result.stage_s,
        step_s=result.step_s,
        peak_bytes=result.peak_bytes,
        details={**result.details, "in_child_process": True},
    )
    return Executed(runner=name, outcome=outcome, environment=result.environment, end_to_end_s=result.end_to_end_s)


def _regular(path: Path) -> Path:
    if path.is_symlink() or not path.is_file():
        raise RunError(f"The child left no {path.name}.")
    return path


def _save_trace(place: Path, folder: Path) -> None:
    """Keep what a child that failed had recorded; one that was killed had no time to finish its journal."""
    if (place / TRACE_FILE).is_file():
        _regular(place / TRACE_FILE).replace(folder / TRACE_FILE)
    elif (place / TRACE_JOURNAL).is_file():
        table = journal_table(_regular(place / TRACE_JOURNAL))
        table.complete = False
        write_trace(folder, table)
