"""What each level of the gate sees in one candidate, and where it says the candidate departs.

Three levels, from weak to strong: the outputs alone, judged by the registry's limits; every tap of the free run, held
against what harmless noise becomes there; every part by itself, fed the reference's own inputs.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from parity.diff.dataflow import Dataflow
from parity.diff.divergence import first_divergence
from parity.diff.floors import Floors
from parity.judge.registry import Registry
from parity.judge.verdict import Verdict, judge
from parity.trial.added_error import Added
from parity.trial.calibrate import compare_in_dtype
from parity.trial.drift import Drifted, Recorded
from parity.trial.isolated_floor import IsolatedFloor
from runners.case import Case


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was seen of one candidate. Empty tuples mean that a level saw nothing wrong."""

    bits_differ: bool  # in any tap or output: what the exact tier is judged by
    metrics: tuple[str, ...]  # output metrics beyond their limits, the farthest first
    findings: tuple[str, ...]  # codes of what the comparison of outputs refused outright
    departs_at: tuple[str, ...]  # taps of the free run that depart first, in data-flow order
    adds_at: tuple[str, ...]  # places that add an error by themselves, in data-flow order

    @property
    def by_outputs(self) -> bool:
        """Whether the outputs alone give the candidate away."""
        return bool(self.metrics or self.findings)

    @property
    def killed(self) -> bool:
        """Whether any level does."""
        return self.by_outputs or bool(self.departs_at or self.adds_at)

    @property
    def place(self) -> str:
        """Where the candidate is said to be wrong: where it first adds an error, else where its free run departs."""
        return next(iter((*self.adds_at, *self.departs_at)), "")

    def located(self, places: tuple[str, ...], first_taps: tuple[str, ...]) -> bool:
        """Whether that is one of the places where it must show first."""
        wanted = places if self.adds_at else first_taps
        return any(fnmatchcase(self.place, pattern) for pattern in wanted)

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "killed": self.killed,
            "killed_by_bits": self.bits_differ,
            "killed_by_outputs": self.by_outputs,
            "killed_by_drift": bool(self.departs_at),
            "killed_by_isolation": bool(self.adds_at),
            "metrics": list(self.metrics),
            "findings": list(self.findings),
            "place": self.place,
        }


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Everything that a candidate of one case is judged by."""

    limits_of: str  # case whose limits hold
    registry: Registry
    environment: dict[str, str]
    drift_floors: dict[str, float]  # relative L2 by tap
    isolated_floor: IsolatedFloor
    num_blocks: int

    def examine(self, case: Case, reference: Recorded, drifted: Drifted, rows: tuple[Added, ...]) -> Evidence:
        """Put the evidence against one candidate together. Raises: RegistryError if a metric has no limit."""
        outputs = compare_in_dtype(reference.outputs, drifted.outputs)
        verdict = judge(
            case=self.limits_of,
            profile="limits",
            metrics=outputs.metrics,
            findings=outputs.findings,
            registry=self.registry,
            environment=self.environment,
        )
        bits = all(value == 1.0 for name, value in outputs.metrics.items() if ".bit_equal." in name)
        return Evidence(
            bits_differ=not (bits and drifted.bit_equal),
            metrics=_beyond(verdict),
            findings=tuple(dict.fromkeys(failure.code for failure in verdict.failures)),
            departs_at=self._departures(case, drifted),
            adds_at=tuple(row.where for row in self.isolated_floor.culprits(rows)),
        )

    def _departures(self, case: Case, drifted: Drifted) -> tuple[str, ...]:
        flow = Dataflow(case, self.num_blocks)
        floors = Floors(flow, "bf16", self.drift_floors)
        found = first_divergence(drifted.errors, floors.bound, flow)
        known = {finding.where for finding in found.findings if finding.where in flow} | {
            root.tap for root in found.roots
        }
        beyond = [finding.where for finding in found.findings if finding.where not in flow]
        return (*sorted(known, key=flow.rank), *beyond)


def _beyond(verdict: Verdict) -> tuple[str, ...]:
    rows = sorted(verdict.failed_rows(), key=lambda row: -row.used)
    return tuple(row.metric for row in rows)
