"""Running a case for populations of many short runs: its outputs in memory, from here or another environment."""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from parity.runs.child import ChildRunner
from parity.runs.environment import differences, fingerprint_of_runs
from parity.runs.execute import execute
from parity.runs.folder import RunOutputs
from runners.case import Case
from runners.catalogue import open_runner
from runners.clock import Progress, Quiet
from runners.errors import RunnerError
from runners.forge.weights import ForgedWeights
from runners.protocol import RunOptions, Tier
from runners.weights import Weights, WeightsFolder

CPU: Final = torch.device("cpu")


def run_in_memory(
    runner: str,
    weights: Weights,
    case: Case,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device = CPU,
    progress: Progress | None = None,
    variables: Mapping[str, str] | None = None,
    tier: Tier = "exact",
) -> RunOutputs:
    """Outputs of a run of `official` or `native`; with environment variables, of a child process that has them.

    A child computes on as many threads as this process. Taps go to who listens, those of a child to a `TraceWriter`.

    Raises: ParityError of the kind that fits what is wrong; RunnerError if a child computes as this process does.
    """
    options = RunOptions(device=device, dtype=dtype, tier=tier)
    with tempfile.TemporaryDirectory() as folder:
        if variables is None:
            engine = open_runner(runner, weights, options)
        elif isinstance(weights, WeightsFolder | ForgedWeights):
            engine = ChildRunner(
                python=Path(sys.executable),
                name=runner,
                weights=weights,
                options=options,
                beside=Path(folder) / "run",
                variables=variables,
                threads=torch.get_num_threads(),
            )
        else:
            raise RunnerError("A child process needs weights that it can find: a folder, or one such as forge:tiny:0.")
        outcome = execute(engine, case, options, progress or Quiet())
    if variables is not None and not differences(fingerprint_of_runs(device, case.reference), outcome.environment):
        said = " ".join(f"{name}={value}" for name, value in variables.items())
        raise RunnerError(f"A child process with {said} computes as this one does; nothing was varied.")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return RunOutputs(
        video_frames=outcome.video_frames,
        audio_waveform=outcome.audio_waveform,
        video_latent=outcome.video_latent,
        audio_latent=outcome.audio_latent,
        frame_rate=outcome.frame_rate,
        sample_rate=outcome.sample_rate_hz,
    )
