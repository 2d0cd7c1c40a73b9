"""Running a case in another interpreter: one child process that shares nothing with this one but a folder.

An engine with its own dependencies runs where they are: `PYTHON child_main.py REQUEST.json`. The child says what it is
doing on its standard output and leaves its outputs in the folder; both are read as a stranger's data. docs/runners.md
says what the interpreter needs, and shows an engine run this way.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import threading
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import torch

import runners.errors
from parity.runs.child_main import MARK, PROTOCOL, RESULT_FILE, TRACEBACK_FILE, kill_marked
from parity.runs.execute import MeasuredOutcome
from parity.runs.folder import MAX_RUN_BYTES, dtype_label
from parity.runs.last_words import MAX_LINE_BYTES, MOST_OF_A_LINE, collect_said, shortened
from parity.runs.outputs import OUTPUTS_FILE, read_outputs
from parity.runs.sizes import most_bytes
from parity.trace.file import TRACE_FILE, TRACE_JOURNAL
from parity.trace.full_tensors import TENSORS_FILE
from parity.trace.trace_writer import TraceWriter
from runners.case import Case, Switches, case_document
from runners.catalogue import open_runner, require_own_name
from runners.clock import Progress
from runners.errors import ParityError, RunError, RunnerError
from runners.forge.weights import ForgedWeights
from runners.load import load, read_text
from runners.names import NAMES, OWN_ENVIRONMENT
from runners.partial_folder import partial_folder
from runners.protocol import DTYPES, TIERS, Capabilities, RefusingRunner, RunOptions
from runners.releases import REFERENCES
from runners.tap import listener
from runners.weights import WeightsFolder

REFUSING_HERE: Final = OWN_ENVIRONMENT | {"official"}  # runners that say what they refuse before importing anything
PROGRAM: Final = Path(__file__).with_name("child_main.py")
GRACE_S: Final = 5.0  # between asking a child to end and killing it
SAID_LINES: Final = 12  # of what a child printed, said in an error
KEPT_LINES: Final = 400  # of the same, kept where it left no traceback
MAX_TRACEBACK_BYTES: Final = 1 << 20
ANSWER_S: Final = 300.0  # that an interpreter may take to import torch and say what it is
SILENCE_S: Final = 60.0  # that a child may take to end once it has closed its output
_LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


class ChildResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of a child's `result.json`: a `MeasuredOutcome` but for its tensors."""

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


@dataclass(frozen=True, kw_only=True)
class ChildRunner:
    """A runner whose engine runs in another interpreter, one process a case.

    A `TraceWriter` that listens here gets the taps that were heard there, also of a run that failed. Time, environment
    and kernels are those of the child.
    """

    python: Path
    name: str  # of the engine: one of the catalogue, or FILE.py:CLASS
    weights: WeightsFolder | ForgedWeights
    options: RunOptions
    beside: Path  # it works in a hidden folder beside this path, which need not exist
    overrides: dict[str, Any] = field(default_factory=dict)
    command_line: dict[str, Any] = field(default_factory=dict)
    official_root: Path | None = None
    engine_root: Path | None = None
    variables: Mapping[str, str] = field(default_factory=dict)  # of its environment; an empty one is taken away
    threads: int | None = None  # None leaves torch its default; setting even that is another way of computing

    @property
    def capabilities(self) -> Capabilities:
        """Everything: the child refuses what its engine does not declare."""
        return Capabilities(
            switches=frozenset(Switches.__annotations__),
            tiers=frozenset(TIERS),
            dtypes=frozenset(DTYPES.values()),
            releases=frozenset(REFERENCES),
            behaviours=True,
            taps=("*",),
        )

    def __enter__(self) -> Self:
        """Nothing yet: loading is part of each child's run."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is left to free."""

    def require(self, case: Case) -> None:
        """Refuse here what the runner would refuse there with its libraries loaded. Raises: as that runner does."""
        if self.name not in REFUSING_HERE:
            return
        roots = self.official_root, self.engine_root
        runner = open_runner(self.name, self.weights, self.options, self.overrides, self.command_line, *roots)
        assert isinstance(runner, RefusingRunner)
        runner.require(case)

    def run(self, case: Case, progress: Progress) -> MeasuredOutcome:
        """Run a case in a child process. On any way out, it is ended with all that it started.

        Raises: ParityError of the kind that the child raised; RunnerError if it cannot be started, dies, or does not
        keep to the protocol, or if somebody listens here who cannot take over a trace; RunError if what it leaves is
        not a run.
        """
        writer = listener()
        if not (writer is None or isinstance(writer, TraceWriter)):
            raise RunnerError("The taps of a child process are written there; only a `TraceWriter` can listen to them.")
        with partial_folder(self.beside) as place:
            request = place / "request.json"
            request.write_text(json.dumps(_request(self, case, writer)), encoding="utf-8")
            try:
                with _started(self.python, request, self.variables) as process:
                    _follow(process, self.name, progress)
                outcome = _outcome(self.name, case, place)
            except BaseException as error:
                with contextlib.suppress(ParityError, OSError):
                    _hand_over(place, writer, finished=False)
                if isinstance(error, ParityError):
                    error.engine_traceback = _traceback_in(place) or error.engine_traceback
                raise
            _hand_over(place, writer, finished=True)
            return outcome


def _hand_over(place: Path, writer: TraceWriter | None, *, finished: bool) -> None:
    """Give the writer here what the child recorded. Raises: RunError if that is missing, damaged or a link."""
    if writer is None:
        return
    owed = {TRACE_FILE, TENSORS_FILE} if writer.request["keep"] == "full" else {TRACE_FILE}
    for name in (TRACE_FILE, TRACE_JOURNAL, TENSORS_FILE):
        if (place / name).is_symlink() or (finished and name in owed):
            _regular(place / name)
    writer.adopt(place)


def _traceback_in(place: Path) -> str:
    """The traceback that a child left; empty if it left none that can be read."""
    try:
        return read_text(_regular(place / TRACEBACK_FILE), RunError, "none", max_bytes=MAX_TRACEBACK_BYTES)
    except RunError:
        return ""


def environment_in(python: Path, device: torch.device, release: str) -> dict[str, Any]:
    """The fingerprint that a child of this interpreter would record of a release, with as many threads as here.

    Raises: RunnerError if it cannot be asked.
    """
    code = (
        "import json, runpy, sys, torch; runpy.run_path(sys.argv[1])['import_ours'](); "
        "torch.set_num_threads(int(sys.argv[2])); "
        "from parity.runs.environment import fingerprint_of_runs; "
        "print(json.dumps(fingerprint_of_runs(torch.device(sys.argv[3]), sys.argv[4])))"
    )
    arguments = [str(PROGRAM), str(torch.get_num_threads()), str(device), release]
    try:
        asked = subprocess.run(
            [str(python.absolute()), "-c", code, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=_environment(),
            timeout=ANSWER_S,
        )
        if asked.returncode:
            lines = asked.stderr.decode("utf-8", "replace").splitlines() or ["it gives no reason"]
            raise ValueError(shortened(lines[-1], MOST_OF_A_LINE))
        found: dict[str, Any] = json.loads(asked.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise RunnerError(f"{python} does not say what it is ({error}); docs/runners.md says what it needs.") from error
    return found


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}


def _request(child: ChildRunner, case: Case, writer: TraceWriter | None) -> dict[str, Any]:
    runner, colon, name = child.name.rpartition(":")
    options = child.options
    return {
        "protocol": PROTOCOL,
        "runner": f"{Path(runner).resolve()}:{name}" if colon else child.name,
        "case": case_document(case),
        "case_folder": str(Path(case.folder).resolve()),
        "lora_files": [str(Path(file).resolve()) for file in case.lora_files],
        "weights": _named(child.weights),
        "device": str(options.device),
        "dtype": dtype_label(options.dtype),
        "tier": options.tier,
        "behaviours": options.behaviours,
        "engine_options": options.engine,
        "overrides": child.overrides,
        "command_line": child.command_line,
        "official_root": None if child.official_root is None else str(child.official_root.resolve()),
        "engine_root": None if child.engine_root is None else str(child.engine_root.resolve()),
        "recording": None if writer is None else writer.request,
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
    """True if the child has ended, without reaping it."""
    over = threading.Event()
    waited_s = 0.0
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if waited_s >= within_s:
            return False
        over.wait(0.02)
        waited_s += 0.02
    return True


def _follow(process: "subprocess.Popen[bytes]", runner: str, progress: Progress) -> None:
    """Pass on what the child says until it ends. Raises: what it raised, or RunnerError."""
    assert process.stdout is not None and process.stderr is not None
    said: deque[str] = deque(maxlen=KEPT_LINES)
    listener = threading.Thread(target=collect_said, args=(process.stderr, said), daemon=True)
    listener.start()
    error: ParityError | None = None
    while line := process.stdout.readline(MAX_LINE_BYTES):
        error = _heard(line, runner, progress) or error
    if not _has_ended(process, SILENCE_S):
        raise RunnerError(f"The process of runner {runner!r} closed its output and does not end; it was killed.")
    listener.join(1.0)  # a grandchild may hold the pipe open
    if error is not None:
        raise error
    status = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    if status is not None and status.si_status != 0:
        how = f"by signal {status.si_status}" if status.si_code != os.CLD_EXITED else f"with status {status.si_status}"
        last = "".join(f"\n  {text}" for text in [*said][-SAID_LINES:])
        died = RunnerError(f"The process of runner {runner!r} ended {how}; it last said:{last or ' nothing'}")
        died.engine_traceback = "\n".join(said)
        raise died


def _heard(line: bytes, runner: str, progress: Progress) -> ParityError | None:
    """Pass one message on. Returns: the error that it reports, if it does."""
    try:
        message = json.loads(line)
        ((kind, value),) = message.items()
        if kind == "stage" and isinstance(value, str):
            progress.stage(shortened(value, 60))
            return None
        if kind == "step":
            index, count = value
            if type(index) is int and type(count) is int and 0 <= index <= count <= 1_000_000:
                progress.step(index, count)
                return None
        if kind == "error":
            return _error_named(str(value["kind"]))(shortened(str(value["message"]), 4000))
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        pass
    said = shortened(line[:100].decode("utf-8", "replace"), 100)
    raise RunnerError(
        f"The process of runner {runner!r} said {said!r}, no message of the protocol that docs/runners.md gives."
    )


def _error_named(name: str) -> type[ParityError]:
    named = getattr(runners.errors, name, None)
    return named if isinstance(named, type) and issubclass(named, ParityError) else RunnerError


def _outcome(runner: str, case: Case, place: Path) -> MeasuredOutcome:
    """The run that the child left, once every part of it is what it should be. Raises: RunError."""
    path = _regular(place / RESULT_FILE)
    remedy = "the child leaves what docs/runners.md says"
    result = load(path, ChildResult, RunError, remedy, max_bytes=MAX_RUN_BYTES)
    name = result.runner
    if runner in NAMES and name != runner:
        raise RunError(f"The child was asked for runner {runner!r} and ran {shortened(name, 60)!r}.")
    if runner not in NAMES:
        require_own_name(name, runner)
    outputs = read_outputs(_regular(place / OUTPUTS_FILE), most_bytes(OUTPUTS_FILE, case, None))
    request = case.request
    wanted = (request.num_frames, request.height, request.width, 3)
    if tuple(outputs["video_frames"].shape) != wanted:
        raise RunError(f"The child's frames are {tuple(outputs['video_frames'].shape)}; the case asks for {wanted}.")
    times_s = (result.end_to_end_s, *result.stage_s.values(), *result.step_s)
    if not all(math.isfinite(seconds) and seconds >= 0 for seconds in times_s):
        raise RunError("The child reports a time that is negative or no number.")
    if len(result.step_s) > case.total_steps:
        raise RunError(f"The child reports times of {len(result.step_s)} steps; the case asks for {case.total_steps}.")
    if result.sample_rate_hz < 1 or not (math.isfinite(result.frame_rate) and result.frame_rate > 0):
        raise RunError(f"The child reports {result.frame_rate} frames and {result.sample_rate_hz} samples a second.")
    fields: dict[str, Any] = {**msgspec.structs.asdict(result), **outputs}
    fields["sigmas"] = torch.tensor(result.sigmas, dtype=torch.float32)
    fields["details"] = {**result.details, "in_child_process": True}
    return MeasuredOutcome(**fields)


def _regular(path: Path) -> Path:
    if path.is_symlink() or not path.is_file():
        raise RunError(f"The child left no {path.name}.")
    return path
