"""Running a case for populations of many short runs: in memory, or in a child process of another environment."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from parity.runs.child import Child
from parity.runs.child import execute as child_execute
from parity.runs.environment import differences, fingerprint_of_runs
from parity.runs.folder import Outputs
from runners.case import Case
from runners.catalogue import open_runner
from runners.clock import Progress, Quiet
from runners.errors import RunnerError
from runners.forge.weights import ForgedWeights
from runners.protocol import Outcome, RunOptions
from runners.repeatable import repeatable_kernels
from runners.weights import Weights, WeightsFolder

CPU: Final = torch.device("cpu")


def execute(
    runner: str,
    weights: Weights,
    case: Case,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device = CPU,
    progress: Progress | None = None,
) -> Outputs:
    """What a run of `official` or `native` puts out. Raises: ParityError of the kind that fits what is wrong."""
    options = RunOptions(device=device, dtype=dtype)
    with repeatable_kernels(device, case.reference), open_runner(runner, weights, options) as engine:
        outcome = engine.run(case, progress or Quiet())
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return _outputs_of(outcome)


def execute_in_child(
    runner: str,
    weights: Weights,
    case: Case,
    dtype: torch.dtype,
    device: torch.device,
    variables: Mapping[str, str],
    folder: Path,
) -> Outputs:
    """The same in a child process with other environment variables and as many threads; sketches are left in `folder`.

    Raises: as `parity.runs.child.execute`; RunnerError if the child computes as this process does.
    """
    if not isinstance(weights, WeightsFolder | ForgedWeights):
        raise RunnerError("A child process needs weights that it can find: a folder, or a recipe such as forge:tiny:0.")
    child = Child(
        python=Path(sys.executable),
        runner=runner,
        weights=weights,
        taps="*",
        threads=torch.get_num_threads(),
        variables=variables,
    )
    executed = child_execute(child, case, RunOptions(device=device, dtype=dtype), folder, Quiet())
    here = fingerprint_of_runs(device, case.reference)
    if not differences(here, executed.environment):
        said = " ".join(f"{name}={value}" for name, value in variables.items())
        raise RunnerError(f"A child process with {said} computes as this one does; nothing was varied.")
    return _outputs_of(executed.outcome)


def _outputs_of(outcome: Outcome) -> Outputs:
    return Outputs(
        video_frames=outcome.video_frames,
        audio_waveform=outcome.audio_waveform,
        video_latent=outcome.video_latent,
        audio_latent=outcome.audio_latent,
        frame_rate=outcome.frame_rate,
        sample_rate=outcome.sample_rate_hz,
    )
