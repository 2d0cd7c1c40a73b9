"""The accuracy of one operation: a candidate's result and the official one, both held to the official one in float64.

With o the official operation in float64, f the same in the run's dtype and c the candidate's, all of one input:

    error   |c - o| / |o| and |f - o| / |o|, relative L2
    ratio   the first over the second: 1 is as near as the official code, below 1 nearer
    bias    mean(c - o) / rms(c - o), from -1 to 1: rounding has next to none, a constant shift has all

Everything is summed in float64 where the tensors lie; only numbers and one element leave the device.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor

from parity.explain.oracle import Arbitration

CHANCE: Final = 3.0  # standard deviations


@dataclass(frozen=True, kw_only=True)
class SpecialValues:
    """Numbers of elements at which candidate and official result do not hold the same special value."""

    nan: int = 0
    infinite: int = 0  # with its sign
    signed_zero: int = 0  # both are zero, of other signs
    subnormal: int = 0  # too small for a normal number on one side, on the other too or zero by flushing

    @property
    def spoilt(self) -> int:
        """Those that no rounding explains; the others are counted and refuse nobody."""
        return self.nan + self.infinite


@dataclass(frozen=True, kw_only=True)
class WorstElement:
    """The element at which the candidate is farthest from float64, and its value in all three."""

    index: tuple[int, ...]
    exact: float
    official: float
    candidate: float


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """One operation at one place. Numbers are nan where nothing could be computed, and `note` says why."""

    where: str  # the tap that the operation leaves, or a place of an isolation
    elements: int = 0
    official: float = math.nan  # relative L2 from float64
    candidate: float = math.nan
    official_bias: float = math.nan
    bias: float = math.nan
    special: SpecialValues = SpecialValues()
    worst: WorstElement | None = None  # None for equal bits, or where nothing could be computed
    note: str = ""

    @property
    def bias_by_chance(self) -> float:
        """The bias that errors of mean zero may well have in so few elements: three standard deviations of it."""
        return CHANCE / math.sqrt(self.elements) if self.elements else math.nan

    @property
    def ratio(self) -> float:
        """The candidate's error over the official one; 1 where both are zero, `inf` where only the official one is."""
        return Arbitration(candidate=self.candidate, official=self.official).ratio

    def document(self) -> dict[str, Any]:
        """As JSON data, before infinities are written as strings."""
        return {
            "where": self.where,
            "elements": self.elements,
            "candidate_to_fp64": self.candidate,
            "official_to_fp64": self.official,
            "ratio": self.ratio,
            "bias": self.bias,
            "official_bias": self.official_bias,
            "special": asdict(self.special),
            "worst": None if self.worst is None else asdict(self.worst),
            "note": self.note,
        }


def accuracy_of(where: str, exact: Tensor, official: Tensor, candidate: Tensor) -> Accuracy:
    """Hold a candidate's result and the official one to float64.

    Args:
        where: name of the place.
        exact: the official operation in float64.
        official: the official operation as it ran, of the same shape.
        candidate: the candidate's, of any floating dtype.
    """
    if exact.dtype != torch.float64:
        raise TypeError(f"{where}: the exact result is {exact.dtype}, and a float64 is what it has to be.")
    if not exact.shape == official.shape == candidate.shape:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (exact, official, candidate))
        return Accuracy(where=where, note=f"float64, official and candidate have shapes {shapes}")
    if exact.numel() == 0:
        return Accuracy(where=where, note="there is no element to compare")
    special = special_values(official, candidate)
    for side, tensor in (("official code in float64", exact), ("official code", official), ("candidate", candidate)):
        if not tensor.isfinite().all():
            return Accuracy(where=where, special=special, note=f"the {side} holds values that are not finite")
    errors = {name: _errors(exact, tensor) for name, tensor in (("official", official), ("candidate", candidate))}
    return Accuracy(
        where=where,
        elements=exact.numel(),
        official=errors["official"][0],
        candidate=errors["candidate"][0],
        official_bias=errors["official"][1],
        bias=errors["candidate"][1],
        special=special,
        worst=None if torch.equal(official, candidate) else _worst(exact, official, candidate),
    )


def special_values(official: Tensor, candidate: Tensor) -> SpecialValues:
    """Elements whose special values differ. Subnormal is what is so in the dtype of its own side."""
    both_zero = (official == 0) & (candidate == 0)
    differ = {
        "nan": official.isnan() != candidate.isnan(),
        "infinite": (official.isposinf() != candidate.isposinf()) | (official.isneginf() != candidate.isneginf()),
        "signed_zero": both_zero & (official.signbit() != candidate.signbit()),
        "subnormal": _subnormal(official) != _subnormal(candidate),
    }
    return SpecialValues(**{name: int(found.sum()) for name, found in differ.items()})


def _subnormal(x: Tensor) -> Tensor:
    return (x != 0) & (x.abs() < torch.finfo(x.dtype).tiny)


def _errors(exact: Tensor, found: Tensor) -> tuple[float, float]:
    """Relative L2 and bias."""
    error = found.double() - exact
    norm, size = float(torch.linalg.vector_norm(exact)), float(torch.linalg.vector_norm(error))
    if size == 0:
        return 0.0, 0.0
    rms = size / math.sqrt(error.numel())
    return (size / norm if norm else math.inf), float(error.mean()) / rms


def _worst(exact: Tensor, official: Tensor, candidate: Tensor) -> WorstElement:
    flat = int((candidate.double() - exact).abs().argmax())
    index = tuple(int(at) for at in torch.unravel_index(torch.tensor(flat), exact.shape))
    exactly, theirs, own = (float(tensor[index]) for tensor in (exact, official, candidate))
    return WorstElement(index=index, exact=exactly, official=theirs, candidate=own)
