"""Amplification: what one unit in the last place, put into a run's latents at one step, has become by each later step.

A run is executed as it is and once more for each injection, everything else equal. So the second run differs by noise
that no port could avoid, and the relative L2 of a tap between the two is how far harmless noise carries that tap by
itself. A free run's drift is judged by it: drift of the size that one ULP grows to says nothing of a bug.

Works for any runner whose latent taps are the tensors that the next step reads; both of ours are such, and that an
injection reached the end is checked.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from parity.calibrate.harmless import one_ulp_off
from parity.diff.traces import compare_traces
from parity.taps.dataflow import Dataflow
from parity.taps.name import STREAMS
from parity.trace.file import Trace, read_trace
from parity.trace.trace_writer import TraceWriter
from runners.case import Case, case_document
from runners.catalogue import open_runner
from runners.clock import Progress, Quiet
from runners.closed_input import closed_input
from runners.errors import ConfigError, RunError
from runners.protocol import RunOptions
from runners.repeatable import repeatable_kernels
from runners.tap import listening
from runners.weights import Weights, num_blocks

BEFORE_DENOISING: Final = -1  # the step "after" which the initial latents are moved


@dataclass(frozen=True, kw_only=True)
class Growth:
    """The growth of noise put in after one step. Errors are relative L2 of each tap to the run without it."""

    after_step: int  # BEFORE_DENOISING for the initial latents
    errors: dict[str, float]

    def curve(self, stream: str, steps: int) -> list[float]:
        """The latents' error after every step of the run."""
        return [self.errors[f"denoise/{step:03d}/latent/{stream}"] for step in range(steps)]


@dataclass(frozen=True, kw_only=True)
class Amplification:
    """All injections of one case, and the floors that follow."""

    case: dict[str, Any]
    runner: str
    dtype: str
    steps: int
    growths: tuple[Growth, ...]

    @property
    def floors(self) -> dict[str, float]:
        """By tap, the largest error that harmless noise has become there; taps that no noise reached are left out."""
        floors: dict[str, float] = {}
        for growth in self.growths:
            for tap, error in growth.errors.items():
                if error > 0:
                    floors[tap] = max(error, floors.get(tap, 0.0))
        return floors

    def document(self) -> dict[str, Any]:
        """As JSON data; `parity.explain.diagnosis.read_floors` reads it."""
        return {
            "schema_version": 1,
            "case": self.case,
            "runner": self.runner,
            "dtype": self.dtype,
            "growth": [
                {
                    "after_step": growth.after_step,
                    **{stream: growth.curve(stream, self.steps) for stream in STREAMS},
                    **{tap: growth.errors[tap] for tap in ("decode/frames", "decode/waveform")},
                }
                for growth in self.growths
            ],
            "floors": self.floors,
        }


def amplify(
    runner: str,
    weights: Weights,
    case: Case,
    options: RunOptions,
    *,
    after_steps: Sequence[int] = (BEFORE_DENOISING,),
    seed: int = 0,
    progress: Progress | None = None,
) -> Amplification:
    """Run a case, then again with each injection.

    Args:
        runner: "native" or "official".
        weights: the model's files.
        case: the request.
        options: device and dtype.
        after_steps: after which steps to move the latents by one ULP; BEFORE_DENOISING moves the initial ones.
        seed: of the directions, up or down at random for every element.
        progress: told what each run is doing.
    Raises: ConfigError for a step that has nothing after it; RunError if the run does not repeat, or an injection did
        not reach its end.
    """
    steps = case.request.num_inference_steps
    bad = [step for step in after_steps if not BEFORE_DENOISING <= step < steps]
    if bad or not after_steps:
        raise ConfigError(
            f"There is no step {bad or '(none given)'}; take steps from {BEFORE_DENOISING} to {steps - 1}."
        )
    flow = Dataflow(case, num_blocks(weights))

    def run(inject: "Injection | None") -> Trace:
        return _traced(runner, weights, case, options, inject, progress or Quiet())

    plain = run(None)
    growths = []
    for step in after_steps:
        diff = compare_traces(plain, run(Injection(after_step=step, seed=seed)), flow)
        if diff.findings:
            first = diff.findings[0]
            raise RunError(f"{runner} did not repeat its own run: {first.code} at {first.where}: {first.message}.")
        growth = Growth(after_step=step, errors=diff.errors)
        _require_reached(growth, flow)
        growths.append(growth)
    return Amplification(
        case=case_document(case),
        runner=runner,
        dtype="bf16" if options.dtype == torch.bfloat16 else "fp32",
        steps=steps,
        growths=tuple(growths),
    )


class Injection:
    """A listener that moves the latents after one step by one ULP, in place."""

    def __init__(self, *, after_step: int, seed: int) -> None:
        head = "init" if after_step == BEFORE_DENOISING else f"denoise/{after_step:03d}/latent"
        self._names = {f"{head}/{stream}" for stream in STREAMS}
        self._draw = torch.Generator().manual_seed(seed)

    def __call__(self, name: str, tensor: Tensor) -> None:
        """Move `tensor` if it is one of the latents."""
        if name in self._names:
            tensor.copy_(one_ulp_off(tensor.cpu(), self._draw))


def _traced(
    runner: str, weights: Weights, case: Case, options: RunOptions, inject: Injection | None, progress: Progress
) -> Trace:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with TraceWriter(folder) as writer:

            def heard(tap: str, tensor: Tensor) -> None:
                if inject is not None:
                    inject(tap, tensor)
                writer(tap, tensor)

            engine = open_runner(runner, weights, options)
            repeatable = repeatable_kernels(options.device, case.reference, options.behaviours)
            with closed_input(), repeatable, engine, listening(heard):
                engine.run(case, progress)
        return read_trace(folder)


def _require_reached(growth: Growth, flow: Dataflow) -> None:
    """Raise RunError unless everything before the injection is untouched and what lies after it moved."""
    head = "init" if growth.after_step == BEFORE_DENOISING else f"denoise/{growth.after_step:03d}/latent"
    untouched = [tap for tap in flow.taps if flow.rank(tap) < flow.rank(f"{head}/video")]
    moved = [tap for tap in untouched if growth.errors[tap] != 0]
    if moved:
        raise RunError(f"The run does not repeat: {moved[0]} differs before any noise was put in. Repeat it first.")
    if growth.errors[f"{head}/video"] == 0 or growth.errors["decode/frames"] == 0:
        raise RunError(f"Noise put in at {head} did not reach the frames; this runner taps copies of its latents.")
