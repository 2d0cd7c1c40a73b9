"""Isolated errors of native left as a file that a gate judges: all stages, and some denoising steps."""

from collections.abc import Sequence
from pathlib import Path

from parity.diff.isolated import FIRST_STEPS, BoundRuns, bound_runs
from parity.isolate.isolation import isolate
from parity.runs.case import case_with_pictures
from parity.runs.execute import device_named
from parity.runs.folder import Run
from parity.trace.atomic import write_json_atomic
from runners.case import Case
from runners.clock import Progress
from runners.errors import ConfigError
from runners.protocol import DTYPES, RunOptions
from runners.weights import Weights, WeightsFolder


def save_isolated(
    path: Path,
    weights: Weights,
    case: Case,
    options: RunOptions,
    steps: Sequence[int],
    runs: BoundRuns,
    progress: Progress | None = None,
) -> None:
    """Isolate native and leave what the gate of these runs judges of it."""
    found = isolate(weights, case, options, steps=steps, harmless=False, progress=progress)
    write_json_atomic(path, found.document(runs))


def isolate_run(reference: Run, run: Run, weights: Path, path: Path) -> None:
    """The same for a native run on disk, on its device and in its dtype, of the first denoising steps."""
    options = RunOptions(device=device_named(str(run.manifest.environment["device"])), dtype=DTYPES[run.manifest.dtype])
    case = case_with_pictures(run)
    steps = steps_to_isolate(case, ())
    save_isolated(path, WeightsFolder(weights), case, options, steps, bound_runs([reference], run))


def steps_to_isolate(case: Case, more: Sequence[int]) -> list[int]:
    """The first denoising steps, which a gate wants, and those that are asked for beside them.

    Raises: ConfigError for a step that there is not.
    """
    count = case.request.num_inference_steps
    steps = sorted({*range(min(FIRST_STEPS, count)), *more})
    if not 0 <= steps[0] <= steps[-1] < count:
        asked = ",".join(map(str, more))
        raise ConfigError(f"Steps {asked} are to be isolated; {case.id!r} has steps from 0 to {count - 1}.")
    return steps
