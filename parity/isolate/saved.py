"""Isolated errors of native left as a file that a gate judges: all stages, and some denoising steps."""

from collections.abc import Iterable, Sequence
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
from runners.protocol import DTYPES, TIERS, RunOptions
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
    manifest = run.manifest
    tier = next((one for one in TIERS if one == manifest.tier), None)
    if tier is None:
        raise ConfigError(f"{run.folder} is of tier {manifest.tier!r}; native has {', '.join(TIERS)}.")
    device = device_named(str(manifest.environment["device"]))
    options = RunOptions(device=device, dtype=DTYPES[manifest.dtype], tier=tier)
    case = case_with_pictures(run)
    steps = steps_to_isolate(case, ())
    save_isolated(path, WeightsFolder(weights), case, options, steps, bound_runs([reference], run))


def steps_to_isolate(case: Case, more: Sequence[int]) -> list[int]:
    """The first denoising steps, which a gate wants, and those that are asked for beside them.

    Raises: ConfigError for a step that there is not.
    """
    return existing_steps(case, {*range(min(FIRST_STEPS, case.plans[0].evaluations)), *more})


def existing_steps(case: Case, asked: Iterable[int]) -> list[int]:
    """Denoising steps in order, each once. Raises: ConfigError for a step that there is not."""
    count, steps = case.plans[0].evaluations, sorted(set(asked))
    if not steps or not 0 <= steps[0] <= steps[-1] < count:
        named = ",".join(map(str, steps)) or "(none)"
        raise ConfigError(f"Steps {named} are asked for; {case.id!r} has steps from 0 to {count - 1}.")
    return steps
