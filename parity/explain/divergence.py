"""First divergence: in data-flow order, the taps that depart while everything they are computed from does not.

A tap is *above* if its error exceeds its floor, or is nan. It is *inherited* if anything it depends on, however far up,
is above. Roots are the taps that are above and not inherited. What is not recorded is looked through: a trace of some
taps only still leads to the first recorded ones that depart.

Several roots are listed, in data-flow order: a wrong rotary table shows in both streams, and in every guidance pass.
What lies downstream of a root is not searched further, since its error may all be inherited; `parity isolate` feeds it
the reference's own inputs and tells.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from parity.diff.comparison import Finding
from parity.taps.dataflow import Dataflow
from parity.taps.module_path import ModulePath, module_path


@dataclass(frozen=True, kw_only=True)
class FirstDivergence:
    """A tap that departs first. `error` and `floor` are relative L2; `error` is nan where it could not be computed."""

    tap: str
    error: float
    floor: float

    @property
    def ratio(self) -> float:
        """Error over floor; `inf` over a floor of zero, `nan` if there is no error to divide."""
        if math.isnan(self.error) or self.floor > 0:
            return self.error / self.floor if self.floor > 0 else math.nan
        return math.inf

    @property
    def modules(self) -> ModulePath:
        """The place in both implementations."""
        return module_path(self.tap)


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The first departure. `findings` are named failures and come before any number."""

    findings: tuple[Finding, ...]
    roots: tuple[FirstDivergence, ...]  # data-flow order
    compared: int  # taps with an error to judge
    above: int  # of those, how many exceed their floor
    inherited: int  # of those above, how many lie downstream of a root

    @property
    def departs(self) -> bool:
        """True if anything is wrong at all."""
        return bool(self.findings or self.roots)


def first_divergence(
    errors: Mapping[str, float],
    floor: Callable[[str], float],
    flow: Dataflow,
    *,
    is_wanted: Callable[[str], bool] = lambda tap: True,
) -> Divergence:
    """Find the roots of a divergence.

    Args:
        errors: relative L2 of each compared tap; nan where it could not be computed.
        floor: the floor of a tap, in the same unit; an error equal to it is not above.
        flow: the case's taps and what each is computed from.
        is_wanted: which taps were to be recorded at all; by default every one.
    Returns: a Divergence. A tap of the case without an error is the finding "missing_tensor", an error for a tap that
        the case does not leave "extra_tensor", and an empty comparison "empty".
    """
    findings = _coverage(errors, flow, is_wanted)
    dirty: set[str] = set()  # above, or downstream of something that is
    roots: list[FirstDivergence] = []
    compared = above = inherited = 0
    for tap in flow.taps:
        tainted = any(name in dirty for name in flow.inputs_of(tap)) if dirty else False
        error = errors.get(tap)
        if error is not None:
            compared += 1
            limit = floor(tap)
            if not error <= limit:  # nan is above every floor
                above += 1
                if tainted:
                    inherited += 1
                else:
                    roots.append(FirstDivergence(tap=tap, error=error, floor=limit))
                    tainted = True
        if tainted:
            dirty.add(tap)
    return Divergence(findings=findings, roots=tuple(roots), compared=compared, above=above, inherited=inherited)


def _coverage(errors: Mapping[str, float], flow: Dataflow, is_wanted: Callable[[str], bool]) -> tuple[Finding, ...]:
    if not errors:
        return (Finding(code="empty", where="trace", message="no tap was compared"),)
    missing = [tap for tap in flow.taps if tap not in errors and is_wanted(tap)]
    extra = [tap for tap in errors if tap not in flow]
    return (
        *(Finding(code="missing_tensor", where=tap, message="the case leaves this tap") for tap in missing),
        *(Finding(code="extra_tensor", where=tap, message="the case does not leave this tap") for tap in extra),
    )
