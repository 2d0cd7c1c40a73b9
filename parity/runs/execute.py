"""Executing a case and leaving a run folder: whole, or not at all."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from parity.runs.attention_kernels import ATTENTION_KERNELS, noting_attention_kernels
from parity.runs.environment import fingerprint
from parity.runs.folder import RUN_FILE, TRACE_FILE, dtype_name, write_run
from parity.trace.atomic import folder_atomic
from parity.trace.file import TRACE_JOURNAL
from parity.trace.recorder import NO_WINDOWS, Keep, Recorder
from runners.case import Case
from runners.clock import Progress
from runners.errors import RunError, RunnerError
from runners.protocol import TAPS_OFFERED, Outcome, Runner, RunOptions
from runners.real_tokens import PromptTokens
from runners.repeatable import repeatable_kernels
from runners.tap import listening
from runners.weights import Weights, num_blocks


class Listening(Protocol):
    """Something that records taps into a folder while a case runs."""

    def __call__(self, folder: Path) -> AbstractContextManager[Any]:
        """Listen, and leave files of `parity.runs.folder.DATA_FILES` in `folder` in the end."""


@dataclass(frozen=True, kw_only=True)
class Executed:
    """A case that was run, and where."""

    runner: str
    outcome: Outcome
    environment: dict[str, Any]  # fingerprint of the process that ran it
    end_to_end_s: float


def recording(pattern: str, keep: Keep, prompt_tokens: PromptTokens = NO_WINDOWS) -> Listening:
    """Record the taps whose names match `pattern` while a case runs.

    Args:
        pattern: as `parity.taps.pattern` reads it.
        keep: sketches, or whole tensors beside them.
        prompt_tokens: of an engine that may tap the window that a prompt stands in.
    """

    @contextmanager
    def into(folder: Path) -> Iterator[None]:
        with Recorder(folder, pattern=pattern, keep=keep, prompt_tokens=prompt_tokens) as recorder, listening(recorder):
            yield

    return into


def record_run(
    runner: Runner,
    case: Case,
    weights: Weights,
    options: RunOptions,
    out: Path,
    progress: Progress,
    recorded: Listening | None = None,
) -> Outcome:
    """Run a case and leave the run folder `out`.

    Raises: ParityError of the kind that fits; nothing is left at `out` then, and a trace begun is in `OUT.crashed`.
    RunError if the outputs are not finite: that run is kept, since it is what one diagnoses, but it is not a good one.
    """

    def execute(folder: Path) -> Executed:
        repeatable = repeatable_kernels(options.device, case.reference, options.behaviours)
        details: dict[str, Any] = {}
        with repeatable, runner, _observed(recorded, folder, details):
            start_s = time.perf_counter()
            outcome = runner.run(case, progress)
            if options.device.type == "cuda":
                torch.cuda.synchronize(options.device)
            end_to_end_s = time.perf_counter() - start_s
            environment = fingerprint(options.device)
        details[TAPS_OFFERED] = list(runner.capabilities.taps)
        outcome = replace(outcome, details={**outcome.details, **details})
        return Executed(runner=runner.name, outcome=outcome, environment=environment, end_to_end_s=end_to_end_s)

    return leave_run(execute, case, weights, options, out)


@contextmanager
def _observed(recorded: Listening | None, folder: Path, details: dict[str, Any]) -> Iterator[None]:
    """Record taps, and beside them attention kernels into `details`; a run without taps is left to itself."""
    if recorded is None:
        yield
        return
    with noting_attention_kernels() as details[ATTENTION_KERNELS], recorded(folder):
        yield


def leave_run(
    execute: Callable[[Path], Executed], case: Case, weights: Weights, options: RunOptions, out: Path
) -> Outcome:
    """Leave the run folder `out` with what `execute` makes, which may put a trace into the folder it is given.

    Raises: as `record_run`.
    """
    weights_hash = weights.hash  # before the clock starts
    with folder_atomic(out, RUN_FILE) as folder:
        try:
            executed = execute(folder)
        except BaseException:
            _keep_trace(folder, out)
            raise
        outcome = executed.outcome
        write_run(
            folder,
            case,
            outcome,
            runner=executed.runner,
            tier=options.tier,
            dtype=dtype_name(options.dtype),
            weights_hash=weights_hash,
            model_version=weights.model_version,
            environment=executed.environment,
            end_to_end_s=executed.end_to_end_s,
            num_blocks=num_blocks(weights),
        )
    bad = [
        name
        for name in ("audio_waveform", "video_latent", "audio_latent")
        if not bool(getattr(outcome, name).isfinite().all())
    ]
    if bad:
        raise RunError(
            f"The run in {out} has NaN or infinite values in {', '.join(bad)}; it is kept for diagnosis, and no gate "
            "passes it. Look at its first non-finite tap, or at the weights."
        )
    return outcome


def _keep_trace(folder: Path, out: Path) -> None:
    """Leave what a crashed run had recorded in `OUT.crashed`, where `read_trace` finds it marked incomplete.

    That is its journal where even the trace could not be closed.
    """
    names = (TRACE_FILE, TRACE_JOURNAL)
    if left := [name for name in names if (folder / name).is_file()]:
        crashed = out.with_name(f"{out.name}.crashed")
        crashed.mkdir(exist_ok=True)
        for name in names:  # of an earlier crash
            (crashed / name).unlink(missing_ok=True)
        (folder / left[0]).replace(crashed / left[0])


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
