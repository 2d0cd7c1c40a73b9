"""The error a part adds by itself: rows of measurements made while the reference and the candidate run in lockstep.

Every row compares two tensors that were computed from the same inputs, the reference's own, so what differs was added
there. Nothing is kept of a tensor but the number.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from parity.explain.oracle import Arbitration


@dataclass(frozen=True, kw_only=True)
class IsolatedError:
    """One comparison. Errors are relative L2.

    `where` is a tap's name, or one like it for what is no tap: `denoise/000/cond/rotary/audio/cross`. `error` is nan
    where the two could not be compared, and `note` says why. `harmless` is what a harmless variation of the reference
    adds at the same place, None where none was tried; `oracle` holds both sides to the reference in fp32.
    """

    where: str
    error: float
    harmless: float | None = None
    oracle: Arbitration | None = None
    note: str = ""

    @property
    def ratio(self) -> float:
        """Error over what is harmless; `inf` where nothing is, nan where there is no error, 0 for equal bits."""
        if math.isnan(self.error) or self.error == 0:
            return self.error
        return self.error / self.harmless if self.harmless else math.inf

    def document(self) -> dict[str, Any]:
        """As JSON data, before infinities are written as strings."""
        found: dict[str, Any] = {"where": self.where, "added": self.error, "harmless": self.harmless, "note": self.note}
        if self.oracle is not None:
            found |= {
                "candidate_to_oracle": self.oracle.candidate,
                "official_to_oracle": self.oracle.official,
                "ratio_to_oracle": self.oracle.ratio,
            }
        return found


Exactly = Callable[[], Tensor]  # the reference's own computation in float64


class ErrorSink(Protocol):
    """A table into which a lockstep writes its findings, in the order of the data-flow."""

    def compare(self, where: str, reference: Tensor, candidate: Tensor, exactly: Exactly | None = None) -> None:
        """Measure one pair; `exactly` where the reference can be computed in float64, for who asks."""

    def missing(self, where: str, note: str) -> None:
        """Write down what could not be compared at all."""


@dataclass(kw_only=True)
class ErrorTable:
    """Rows, in the order measured, which is the order of the data-flow."""

    rows: list[IsolatedError] = field(default_factory=list)

    def compare(self, where: str, reference: Tensor, candidate: Tensor, exactly: Exactly | None = None) -> None:
        """Measure one pair; nothing here needs the reference in float64."""
        self.rows.append(
            IsolatedError(where=where, error=error_of(reference, candidate), note=note_of(reference, candidate))
        )

    def missing(self, where: str, note: str) -> None:
        """Write down what could not be compared at all."""
        self.rows.append(IsolatedError(where=where, error=math.nan, note=note))


def error_of(reference: Tensor, candidate: Tensor) -> float:
    """Relative L2 in float64 on the tensors' device; nan for other shapes or values that are not finite.

    Zero exactly where all bits but the sign of zero are equal, `inf` for a difference from an all-zero reference.
    """
    if reference.shape != candidate.shape:
        return math.nan
    if torch.equal(reference, candidate):
        return 0.0 if reference.isfinite().all() else math.nan
    norm = float(torch.linalg.vector_norm(reference.double()))
    error = float(torch.linalg.vector_norm(candidate.double() - reference.double()))
    if math.isfinite(error) and norm == 0:
        return math.inf
    return error / norm if math.isfinite(error) and math.isfinite(norm) else math.nan


def note_of(reference: Tensor, candidate: Tensor) -> str:
    """The reason that `error_of` is nan, or empty."""
    if reference.shape != candidate.shape:
        return f"reference is {tuple(reference.shape)}, candidate is {tuple(candidate.shape)}"
    for side, tensor in (("reference", reference), ("candidate", candidate)):
        if not tensor.isfinite().all():
            return f"the {side} holds values that are not finite"
    return ""
