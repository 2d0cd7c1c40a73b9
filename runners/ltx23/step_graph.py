"""Guided steps as CUDA graphs: captured once for each form of step, replayed with the inputs of each later one.

Where a clip is short, a step's thousands of kernels end sooner than the host can start them. A graph starts them all at
once: the same kernels in the same order on the same values, so the bits are the same. It needs memory of its own, and
no Python runs inside, so steps are computed one by one where the host keeps up, where somebody hears taps whose work
cannot be captured with them, where a capture fails, and everywhere but on CUDA. A form of step (its passes) is computed
once before it is captured: libraries load their kernels at the first use, which a capture forbids.
"""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from runners.tap import CapturedTaps, can_capture

Compute = Callable[..., tuple[Tensor, ...]]  # of the inputs of a step

HOST_SHARE: Final = 0.8  # of a step's time that the host must take to start it, for a graph to be worth its memory


@dataclass(frozen=True, kw_only=True)
class _StepGraph:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    taps: CapturedTaps


class StepGraphs:
    """Computes the steps of one request, by graphs where these pay.

    Args:
        device: of the run.
        against: why there are none on CUDA either; empty where there may be.
        always: capture even if the host keeps up.
    """

    def __init__(self, device: torch.device, against: str = "", *, always: bool = False) -> None:
        self._device = device
        self._captured: dict[Hashable, _StepGraph] = {}
        self._computed: set[Hashable] = set()
        self._replayed = 0
        self._against = against if device.type == "cuda" else f"steps run on {device.type}"
        self._measured = always

    @property
    def note(self) -> str:
        """The number of steps that were replayed, and what spoke against graphs in others."""
        return self._against or f"{self._replayed} steps replayed, {len(self._captured)} forms captured"

    def has_captured(self, form: Hashable) -> bool:
        """True if steps of a form are replayed from now on."""
        return not self._against and form in self._captured

    def run(self, form: Hashable | None, compute: Compute, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The outputs of `compute(*inputs)`, new tensors each time.

        Args:
            form: everything that decides which kernels run; equal for steps that one graph may serve. None for a step
                that runs no kernel.
            compute: reads nothing that changes between steps of one form but its inputs.
            inputs: tensors of the step, whose shapes belong to the form.
        """
        if not can_capture():
            self._against = "who hears the taps cannot be captured"
        if self._against or form is None:
            return compute(*inputs)
        if form not in self._computed:
            self._computed.add(form)
            return compute(*inputs)
        if not self._measured:
            return self._measure(compute, inputs)
        if form not in self._captured:
            try:
                self._captured[form] = self._capture(compute, inputs)
            except RuntimeError as error:  # no memory, or a library that cannot be captured
                self._against = f"a capture failed: {' '.join(str(error).split())[:200]}"
                return compute(*inputs)
        captured = self._captured[form]
        for ours, given in zip(captured.inputs, inputs, strict=True):
            ours.copy_(given)
        captured.graph.replay()
        captured.taps.replayed()
        self._replayed += 1
        return tuple(one.clone() for one in captured.outputs)

    def _measure(self, compute: Compute, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Compute a step, and find out whether the host keeps up with the device."""
        self._measured = True
        torch.cuda.synchronize()
        start_s = time.perf_counter()
        outputs = compute(*inputs)
        started_s = time.perf_counter() - start_s
        torch.cuda.synchronize()
        share = started_s / (time.perf_counter() - start_s)
        if share < HOST_SHARE:
            self._against = f"the host starts a step in {share:.2f} of its time"
        return outputs

    def _capture(self, compute: Compute, inputs: tuple[Tensor, ...]) -> _StepGraph:
        own = tuple(given.clone() for given in inputs)
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch's own is of one device
        with CapturedTaps() as taps, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            outputs = compute(*own)
        return _StepGraph(graph=graph, inputs=own, outputs=outputs, taps=taps)
