"""Free runs whose taps are sketched in memory, and compared as those of two run folders are: by the same function."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from parity.diff.outputs import OutputsDiff, compare_outputs, compare_reduced
from parity.diff.runs import GoldenSubset, drift_metrics, reduced_of
from parity.diff.traces import TraceDiff, compare_traces
from parity.runs.folder import Run, RunOutputs
from parity.runs.in_memory import CPU, run_in_memory
from parity.runs.reduced import reduce_outputs
from parity.taps.dataflow import Dataflow
from parity.trace.file import Trace, read_trace
from parity.trace.trace_writer import TraceWriter
from runners.case import Case
from runners.protocol import Tier
from runners.tap import listening
from runners.weights import Weights, num_blocks


@dataclass(frozen=True, kw_only=True)
class SketchedRun:
    """A run with the sketches of all its taps."""

    outputs: RunOutputs
    trace: Trace
    flow: Dataflow


@dataclass(frozen=True, kw_only=True)
class CandidateDrift:
    """A candidate against a recorded run: its outputs and its taps."""

    outputs: OutputsDiff
    taps: TraceDiff
    flow: Dataflow
    kept: str | None = None  # pattern of the taps that a golden keeps, the only ones that drift is measured of

    @property
    def metrics(self) -> dict[str, float]:
        """Every number of outputs and drift, as `parity.diff.runs` has them of two run folders."""
        return {
            **self.outputs.metrics,
            "taps.bit_different": float(self.taps.bit_different),
            **drift_metrics(self.taps, self.flow, self.kept),
        }

    @property
    def bit_equal(self) -> bool:
        """True if outputs and taps agree in every bit."""
        return same_bits(self.outputs) and self.taps.bit_equal


def sketched_run(
    weights: Weights,
    case: Case,
    runner: str = "official",
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device = CPU,
    variables: Mapping[str, str] | None = None,
    tier: Tier = "exact",
) -> SketchedRun:
    """Run a case with all taps, in this process or, where environment variables are given, in a child that has them.

    A child shows what is settled when torch is imported; nothing that was patched here reaches it.
    Raises: ParityError as the runner does; RunnerError if the variables change nothing of how the child computes.
    """
    with tempfile.TemporaryDirectory() as name:
        with TraceWriter(Path(name)) as writer, listening(writer):
            outputs = run_in_memory(runner, weights, case, dtype, device, variables=variables, tier=tier)
        trace = read_trace(Path(name))
    return SketchedRun(outputs=outputs, trace=trace, flow=Dataflow(case, num_blocks(weights)))


def drift(
    weights: Weights,
    case: Case,
    reference: SketchedRun,
    dtype: torch.dtype = torch.bfloat16,
    runner: str = "native",
    *,
    subset: GoldenSubset | None = None,
    device: torch.device = CPU,
    variables: Mapping[str, str] | None = None,
    tier: Tier = "exact",
) -> CandidateDrift:
    """Run a candidate, by default the native model as it is patched now, and compare it with a recorded run."""
    return compare(reference, sketched_run(weights, case, runner, dtype, device, variables, tier), subset=subset)


def compare(reference: SketchedRun, candidate: SketchedRun, *, subset: GoldenSubset | None = None) -> CandidateDrift:
    """Compare two runs, by what a golden keeps if so asked; the candidate's latents get the reference's dtype."""
    kept = None if subset is None else subset.pattern
    return CandidateDrift(
        outputs=compare_in_dtype(reference.outputs, candidate.outputs, subset=subset),
        taps=compare_traces(reference.trace, candidate.trace, reference.flow, offered=kept),
        flow=reference.flow,
        kept=kept,
    )


def compare_in_dtype(
    reference: RunOutputs, candidate: RunOutputs, *, subset: GoldenSubset | None = None
) -> OutputsDiff:
    """Compare outputs, the candidate's latents rounded to the reference's dtype first."""
    candidate = replace(
        candidate,
        video_latent=_in_dtype(candidate.video_latent, reference.video_latent),
        audio_latent=_in_dtype(candidate.audio_latent, reference.audio_latent),
    )
    if subset is not None:
        return compare_reduced(reduce_outputs(reference, subset.box_px), reduce_outputs(candidate, subset.box_px))
    return compare_outputs(reference, candidate)


def _in_dtype(latent: Tensor | None, of: Tensor | None) -> Tensor | None:
    return latent if latent is None or of is None else latent.to(of.dtype)


def compare_with_golden(golden: Run, candidate: SketchedRun) -> OutputsDiff:
    """Compare a run's outputs with what a golden keeps of its own, on the CPU, where those come from their files."""
    outputs = _on_cpu(candidate.outputs)
    if golden.reduced:
        old = reduced_of(golden)
        return compare_reduced(old, reduce_outputs(outputs, old.box_px))
    return compare_outputs(golden.outputs(), outputs)


def _on_cpu(outputs: RunOutputs) -> RunOutputs:
    return replace(
        outputs,
        video_frames=outputs.video_frames.cpu(),
        audio_waveform=outputs.audio_waveform.cpu(),
        video_latent=None if outputs.video_latent is None else outputs.video_latent.cpu(),
        audio_latent=None if outputs.audio_latent is None else outputs.audio_latent.cpu(),
    )


def same_bits(outputs: OutputsDiff) -> bool:
    """True if outputs agree in every bit that was compared."""
    return all(value == 1.0 for name, value in outputs.metrics.items() if ".bit_equal." in name)
