"""An engine that takes no time: it hands back what a run folder holds, so that a row of it is what the fleet costs."""

from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from parity.runs.folder import read_run
from runners.case import Case
from runners.clock import Clock, Progress
from runners.protocol import Capabilities, Outcome, RunOptions, require_understood
from runners.weights import Weights


class Instant:
    """Hands back the outputs of the run that its option `run` names. It has no internals to show."""

    name = "instant"
    capabilities = Capabilities(
        switches=frozenset(),
        tiers=frozenset({"exact"}),
        dtypes=frozenset({torch.bfloat16}),
        releases=frozenset({"1.0.0"}),
        behaviours=False,
        taps=(),
        engine_options=frozenset({"run"}),
    )

    def __init__(self, weights: Weights, options: RunOptions) -> None:
        """Remember where the run is."""
        self._run, self._options = Path(options.engine["run"]), options

    def __enter__(self) -> Self:
        """Nothing to load."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to free."""

    def run(self, case: Case, progress: Progress) -> Outcome:
        """The outputs, as they were."""
        require_understood(self.name, self.capabilities, case, self._options)
        clock = Clock(self._options.device, progress)
        clock.begin("denoising")
        run = read_run(self._run)
        outputs, manifest = run.outputs(), run.manifest
        clock.end()
        return Outcome(
            video_frames=outputs.video_frames,
            audio_waveform=outputs.audio_waveform,
            video_latent=outputs.video_latent,
            audio_latent=outputs.audio_latent,
            frame_rate=outputs.frame_rate,
            sample_rate_hz=outputs.sample_rate,
            sigmas=torch.tensor(manifest.sigmas),
            stage_s=clock.stage_s,
            step_s=[],
            peak_bytes=0,
            details={},
        )
