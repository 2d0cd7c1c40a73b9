"""Free runs with every tap held against those of a reference run, while both are in memory."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.trace.bundle import Outputs
from parity.trial.added_error import error_of
from parity.trial.execute import execute
from runners.case import Case
from runners.tap import listening
from runners.weights import WeightsFolder


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A run with all its taps."""

    outputs: Outputs
    taps: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Drifted:
    """A candidate's outputs, and relative L2 of each of its taps; `inf` for a tap the reference lacks."""

    outputs: Outputs
    errors: Mapping[str, float]
    bit_equal: bool  # every tap, in dtype and bits, and none missing
    first_difference: str | None  # first tap whose bits differ, or that one side lacks, as the candidate runs


def record(weights: WeightsFolder, case: Case) -> Recorded:
    """The official run of a case."""
    taps: dict[str, Tensor] = {}
    with listening(lambda name, tensor: taps.__setitem__(name, tensor.detach().clone())):
        outputs = execute("official", weights, case)
    return Recorded(outputs=outputs, taps=taps)


def drift(weights: WeightsFolder, case: Case, reference: Recorded, dtype: torch.dtype = torch.bfloat16) -> Drifted:
    """Run the native model, as it is patched now, and compare as it goes."""
    errors: dict[str, float] = {}
    different: list[str] = []

    def heard(name: str, tensor: Tensor) -> None:
        wanted = reference.taps.get(name)
        errors[name] = torch.inf if wanted is None else error_of(wanted, tensor)
        if wanted is None or wanted.dtype != tensor.dtype or errors[name] != 0:
            different.append(name)

    with listening(heard):
        outputs = execute("native", weights, case, dtype)
    different += [name for name in reference.taps if name not in errors]
    return Drifted(
        outputs=outputs,
        errors=errors,
        bit_equal=not different,
        first_difference=next(iter(different), None),
    )
