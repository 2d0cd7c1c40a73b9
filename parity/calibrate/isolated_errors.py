"""Isolation for trials of many candidates: what each part of the native model, as it is patched now, adds by itself.

It is measured as a gate wants it: in all stages, and of denoising in the first steps unless all are asked for; later
ones run the same code on other numbers.
"""

from contextlib import nullcontext

import torch

from parity.diff.isolated import FIRST_STEPS
from parity.isolate.choice import Around
from parity.isolate.error import IsolatedError
from parity.isolate.isolation import isolate
from parity.runs.in_memory import CPU
from runners.case import Case
from runners.protocol import RunOptions
from runners.weights import Weights


def added_alone(
    weights: Weights,
    case: Case,
    *,
    oracle: bool = False,
    every_step: bool = False,
    device: torch.device = CPU,
    around: Around = nullcontext,
    copies: bool | None = None,
) -> tuple[IsolatedError, ...]:
    """The errors of every place, in data-flow order.

    `around` is entered whenever native computes; `copies` gives it weights of its own, by default on a CPU.
    Raises: as `parity.isolate.isolation.isolate`.
    """
    count = case.plans[0].evaluations
    return isolate(
        weights,
        case,
        RunOptions(device=device),
        steps=range(count if every_step else min(FIRST_STEPS, count)),
        harmless=False,
        oracle=oracle,
        # A trial may change weights, and the reference keeps its own; a GPU does not hold a large model twice.
        copies=device.type == "cpu" if copies is None else copies,
        around=around,
    ).rows
