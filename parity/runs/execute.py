"""Executing a case, here or in a child process, and leaving a run folder: whole, or not at all.

`execute` is the one way to run a case and runs in every process that computes. An engine's own interpreter need not
have what writing a run folder needs (msgspec, av), so only `run_to_folder` imports that.
"""

import gc
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch

from parity.runs.attention_kernels import ATTENTION_KERNELS, noting_attention_kernels
from parity.runs.environment import fingerprint
from parity.trace.atomic import folder_atomic, require_folder, write_bytes_atomic
from parity.trace.file import TRACE_FILE, TRACE_JOURNAL
from parity.trace.trace_writer import NO_WINDOWS, Keep, TraceWriter
from runners.case import Case
from runners.catalogue import failed, is_known, require_own_name
from runners.clock import Progress
from runners.closed_input import closed_input
from runners.errors import OutOfMemoryError, OutputError, ParityError, RunError, RunnerError
from runners.names import OWN_ENVIRONMENT
from runners.partial_folder import remove_folder
from runners.printable import printable_lines
from runners.protocol import TAPS_OFFERED, Outcome, RefusingRunner, Runner, RunOptions
from runners.real_tokens import PromptTokens
from runners.repeatable import repeatable_kernels
from runners.tap import listening
from runners.weights import Weights, num_blocks

CRASHED_FILE = "parity.crashed"  # marks a folder of a crashed run as ours
TRACEBACK_FILE = "traceback.txt"  # in it: that of an engine that failed
ENGINES = ("diffusers", *OWN_ENVIRONMENT)  # known runners whose code is somebody else's, and not wrapped by them
_RUNS = count()  # of this process
Listening = Callable[[Path], AbstractContextManager[None]]  # records taps while inside, and leaves files in a folder


@dataclass(frozen=True, kw_only=True)
class MeasuredOutcome(Outcome):
    """An outcome, with what the process that computed it measured around the run."""

    runner: str
    environment: dict[str, Any]  # its fingerprint
    end_to_end_s: float


def writing_trace(pattern: str | None, keep: Keep, prompt_tokens: PromptTokens = NO_WINDOWS) -> Listening:
    """Record the taps whose names match `pattern` while a case runs; arguments as `TraceWriter` has them."""

    @contextmanager
    def into(folder: Path) -> Iterator[None]:
        with TraceWriter(folder, pattern=pattern, keep=keep, prompt_tokens=prompt_tokens) as writer, listening(writer):
            yield

    return into


def execute(
    runner: Runner,
    case: Case,
    options: RunOptions,
    progress: Progress,
    tracing: AbstractContextManager[None] | None = None,
) -> MeasuredOutcome:
    """Run a case and measure around it; what a runner measured in another process stands.

    Args:
        runner: not entered yet.
        case: the request.
        options: those that the runner was made with.
        progress: told what the run is doing.
        tracing: entered while the case runs, to record taps.
    Raises: ParityError of the kind that fits what is wrong; RunnerError for whatever else comes out of an engine.
    """
    repeatable = repeatable_kernels(options.device, case.reference, options.behaviours)
    with engine_errors(runner), closed_input(), repeatable, runner, _observed(tracing) as observed:
        _set_apart_what_lasts()
        start_s = time.perf_counter()
        outcome = runner.run(case, progress)
        if isinstance(outcome, MeasuredOutcome):
            return outcome
        if options.device.type == "cuda":
            torch.cuda.synchronize(options.device)
        end_to_end_s = time.perf_counter() - start_s
        environment = fingerprint(options.device)
        name = (
            runner.name
            if is_known(runner)
            else require_own_name(getattr(runner, "name", None), f"The runner of {case.id!r}")
        )
    details = {**outcome.details, **observed, TAPS_OFFERED: list(runner.capabilities.taps)}
    measured = {"runner": name, "environment": environment, "end_to_end_s": end_to_end_s}
    return MeasuredOutcome(**{**vars(outcome), **measured, "details": details})


@contextmanager
def engine_errors(runner: Runner) -> Iterator[None]:
    """Say of what an engine raises whose it is; what is wrong in code of ours is a bug, and stays what it is."""
    name = str(getattr(runner, "name", type(runner).__name__))
    try:
        yield
    except (ParityError, MemoryError):
        raise
    except torch.OutOfMemoryError as error:
        short = OutOfMemoryError(f"The device ran out of memory in the run of {name!r} ({error}).")
        short.engine_traceback = "".join(traceback.format_exception(error))
        raise short from error
    except ImportError as error:
        raise failed(name, error) from error
    except Exception as error:
        if is_known(runner) and name not in ENGINES:
            raise
        raise failed(name, error) from error


def _set_apart_what_lasts() -> None:
    """Keep what there is by now out of the garbage collections of a run, which would walk it again and again.

    Official code collects four times a run and native once, and what imports leave takes 0.2 s each time. What an
    earlier run left in cycles is collected first; before the first one there is nothing but imports.
    """
    if next(_RUNS):
        gc.collect()
    gc.freeze()


@contextmanager
def _observed(tracing: AbstractContextManager[None] | None) -> Iterator[dict[str, Any]]:
    """Record taps, and beside them attention kernels, which it yields; a run without taps is left to itself."""
    if tracing is None:
        yield {}
        return
    with noting_attention_kernels() as kernels, tracing:
        yield {ATTENTION_KERNELS: kernels}


def run_to_folder(
    runner: Runner,
    case: Case,
    weights: Weights,
    options: RunOptions,
    out: Path,
    progress: Progress,
    tracing: Listening | None = None,
    *,
    replace: bool = False,
) -> Outcome:
    """Run a case and leave the run folder `out`; a finished run that is there is replaced if that is asked for.

    Raises: ParityError of the kind that fits; nothing is left at `out` then. What its taps had recorded, and the
    traceback of an engine that failed, are in `OUT.crashed`, which the next run to `out` clears.
    OutputError before anything is run if `out` is not free.
    RunError if the outputs are not finite: that run is kept, since it is what one diagnoses, but it is not a good one.
    """
    from parity.runs.folder import dtype_label, holds_run, write_run
    from runners.loras import lora_hashes
    from runners.ltx23.image import require_affordable

    require_folder(out, holds_run, replace=replace)  # before weights are hashed, which takes minutes at full size
    for image in case.request.images:
        require_affordable(case.image_path(image), case.request.height, case.request.width)
    if isinstance(runner, RefusingRunner):
        runner.require(case)
    used = weights.of_pipeline(case.pipeline)
    weights_hash, loras = used.hash, lora_hashes(case, used, options.device)  # before the clock starts
    with folder_atomic(out, holds_run, replace=replace) as folder:
        _clear_crash(out)
        with crash_kept(out, folder):
            outcome = execute(runner, case, options, progress, None if tracing is None else tracing(folder))
        write_run(
            folder,
            case,
            outcome,
            runner=outcome.runner,
            tier=options.tier,
            dtype=dtype_label(options.dtype),
            weights_hash=weights_hash,
            model_version=weights.model_version,
            environment=outcome.environment,
            end_to_end_s=outcome.end_to_end_s,
            num_blocks=num_blocks(weights),
            loras=loras,
        )
    bad = [
        name
        for name in ("audio_waveform", "video_latent", "audio_latent")
        if (made := getattr(outcome, name)) is not None and not bool(made.isfinite().all())
    ]
    if bad:
        raise RunError(
            f"The run in {out} has NaN or infinite values in {', '.join(bad)}; it is kept for diagnosis, and no gate "
            "passes it. Look at its first non-finite tap, or at the weights."
        )
    return outcome


@contextmanager
def crash_kept(out: Path, folder: Path | None = None) -> Iterator[None]:
    """Leave in `OUT.crashed` what a run that fails while inside has left, and say so in a note of the error.

    That is what its taps had recorded in `folder`, where `read_trace` finds it marked incomplete (the journal where
    even the trace could not be closed), and the traceback of an engine that failed. An earlier crash's is replaced, and
    a folder that holds anything else stays.
    """
    try:
        yield
    except BaseException as error:
        names = () if folder is None else (TRACE_FILE, TRACE_JOURNAL)
        left = [folder / name for name in names if folder is not None and (folder / name).is_file()][:1]
        engine = error.engine_traceback if isinstance(error, ParityError) else ""
        try:
            if left or engine:
                _keep_crash(crash_place(out), left, engine)
        except (OutputError, OSError) as failed:  # what ended the run is what its caller must hear
            error.add_note(f"What was recorded of its taps is lost: {failed}" if left else f"Its traceback: {failed}")
        else:
            if engine:
                kept = crash_place(out) / TRACEBACK_FILE
                error.add_note(f"The engine's traceback is in {kept}; `parity --debug run ...` prints it.")
        raise


def crash_place(out: Path) -> Path:
    """The folder of what a crashed run has left."""
    return out.with_name(f"{out.name}.crashed")


def _keep_crash(place: Path, left: Sequence[Path], engine: str) -> None:
    with folder_atomic(place, _of_a_crash, replace=True) as crashed:
        (crashed / CRASHED_FILE).touch()
        for path in left:
            path.replace(crashed / path.name)
        if engine:
            text = printable_lines(engine).encode("utf-8", "backslashreplace")
            write_bytes_atomic(crashed / TRACEBACK_FILE, text)


def _clear_crash(out: Path) -> None:
    """Remove what an earlier crash has left, lest it be taken for this run's."""
    place = crash_place(out)
    with suppress(OSError):
        if place.is_dir() and not place.is_symlink() and _of_a_crash(place):
            remove_folder(place)


def _of_a_crash(folder: Path) -> bool:
    ours = {CRASHED_FILE, TRACE_FILE, TRACE_JOURNAL, TRACEBACK_FILE}
    return {path.name for path in folder.iterdir()} <= ours and (folder / CRASHED_FILE).is_file()


def device_named(name: str) -> torch.device:
    """A device by its name on the command line. Raises: RunnerError if there is none of that name here."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RunnerError(f"{name!r} is no device; take cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise RunnerError(
            f"Device {name!r} was asked for, but torch {torch.__version__} sees {torch.cuda.device_count()} CUDA "
            "devices here; take --device cpu, or a machine with a GPU and a torch built for CUDA."
        )
    if device.type not in ("cpu", "cuda"):
        raise RunnerError(f"Device {name!r} is not supported; take cpu, cuda or cuda:N.")
    return device
