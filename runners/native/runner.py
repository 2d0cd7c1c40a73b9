"""The `native` runner: our own LTX-2.3 behind the runner protocol."""

from types import TracebackType
from typing import Any, Final, Self

import torch

from runners.case import Case
from runners.clock import Clock, Progress
from runners.errors import OutOfMemoryError, RunnerError
from runners.loras import stage_loras
from runners.ltx23.pipeline import LTX23Pipeline
from runners.ltx23.pipeline_config import PipelineConfig, resolve_pipeline_config
from runners.ltx23.sampling import LTX23SamplingParams
from runners.native.request import sampling_params
from runners.protocol import TIERS, Capabilities, Outcome, RunOptions, require_understood
from runners.releases import RELEASES, reference_of
from runners.weights import Weights

WITH_TENSORRT: Final = ("1.0.0", "1.1.2")  # releases whose fp8_scaled_mm needs another library


class NativeRunner:
    """Executes cases with `runners.ltx23`."""

    name = "native"
    capabilities = Capabilities(
        switches=frozenset({"skip_v2a_cross_attn_for_video_gt", "disable_autocast"}),
        tiers=frozenset(TIERS),
        dtypes=frozenset({torch.bfloat16, torch.float32}),
        releases=frozenset(RELEASES),
        behaviours=True,
        taps=("*",),
        second_device=True,
        loras=True,
        pipelines=frozenset({"one_stage", "distilled", "two_stage", "two_stage_hq", "keyframes"}),
        quantizations=frozenset({"fp8_cast", "fp8_scaled_mm"}),
    )

    def __init__(
        self,
        weights: Weights,
        options: RunOptions,
        overrides: dict[str, Any] | None = None,
        command_line: dict[str, Any] | None = None,
    ) -> None:
        """Prepare a runner.

        Args:
            weights: the model's files.
            options: device, dtype and tier.
            overrides: pipeline options laid over the case's, for instance {"disable_autocast": False}.
            command_line: options given on the command line, laid over both; None means not given.
        """
        self.weights = weights
        self.options = options
        self.overrides = overrides
        self.command_line = command_line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.options.device.type == "cuda":
            torch.cuda.empty_cache()

    def pipeline_config(self, case: Case) -> PipelineConfig:
        """The configuration a case is run with, fully resolved. Raises: ConfigError, RunnerError."""
        if case.quantization == "fp8_scaled_mm" and case.reference in WITH_TENSORRT:
            raise RunnerError(
                f"Official {case.reference} computes fp8_scaled_mm with kernels of TensorRT-LLM, which native does not "
                "follow; it does since 1.2.0, with torch's own. Take --reference 1.2.0, or fp8_cast."
            )
        base = PipelineConfig(
            dtype=self.options.dtype,
            tier=self.options.tier,
            disable_autocast=case.switches.disable_autocast,
            reference=reference_of(case.reference, self.options.behaviours),
            quantization=case.quantization,
        )
        return resolve_pipeline_config(base, self.overrides, self.command_line)

    def run(self, case: Case, progress: Progress) -> Outcome:
        """Execute a case. Raises: ParityError of the kind that fits what is wrong."""
        require_understood(self.name, self.capabilities, case, self.options)
        config = self.pipeline_config(case)
        sampling = sampling_params(case, config.reference)
        clock = Clock(self.options.device, progress)
        try:
            with clock.loading():
                weights = self.weights.of_pipeline(case.pipeline)
                pipeline = LTX23Pipeline(
                    weights,
                    config,
                    self.options.device,
                    *stage_loras(case, weights),
                    second_device=self.options.second_device,
                )
            batch = pipeline(sampling, clock)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"{self.options.device} ran out of memory ({error}); free it, or ask for fewer frames or pixels."
            ) from error
        assert batch.video_frames is not None and batch.audio_waveform is not None
        assert batch.video_latent is not None and batch.audio_latent is not None
        assert batch.sample_rate_hz is not None
        return Outcome(
            video_frames=batch.video_frames,
            audio_waveform=batch.audio_waveform,
            video_latent=batch.video_latent,
            audio_latent=batch.audio_latent,
            frame_rate=case.request.frame_rate,
            sample_rate_hz=batch.sample_rate_hz,
            sigmas=torch.cat(batch.schedules),
            stage_s=clock.stage_s,
            step_s=clock.step_s(),
            peak_bytes=clock.peak_bytes(),
            details=details_of(config, sampling)
            | ({"second_device": str(self.options.second_device)} if self.options.second_device else {})
            | ({"kernels": batch.kernels} if batch.kernels else {})
            | ({"step_graphs": batch.step_graphs} if self.options.device.type == "cuda" else {}),
        )


def details_of(config: PipelineConfig, sampling: LTX23SamplingParams) -> dict[str, Any]:
    """The details that a run records of how the model was configured and asked."""
    return {
        "disable_autocast": config.disable_autocast,
        "skip_v2a_cross_attn_for_video_gt": sampling.skip_v2a_cross_attn_for_video_gt,
        "behaviours": {name: value for name, value in vars(config.reference).items() if value},
    }
