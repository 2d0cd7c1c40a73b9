"""Running a case in memory, for populations of many short runs."""

from typing import Final

import torch

from parity.trace.bundle import Outputs
from runners.case import Case
from runners.catalogue import open_runner
from runners.clock import Progress, Quiet
from runners.protocol import RunOptions
from runners.repeatable import repeatable_kernels
from runners.weights import Weights

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
    return Outputs(
        video_frames=outcome.video_frames,
        audio_waveform=outcome.audio_waveform,
        video_latent=outcome.video_latent,
        audio_latent=outcome.audio_latent,
        frame_rate=outcome.frame_rate,
        sample_rate=outcome.sample_rate_hz,
    )
