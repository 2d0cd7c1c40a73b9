"""The gate's word on one candidate, the levels of evidence it takes, and where the candidate departs.

The judgement is the gate's own: the same metrics from the same comparisons, the same registry, the same function. It is
reached three times: on outputs alone, as of an engine that offers no internals; with the drift of its taps; and with
what its parts add when they are fed the reference's own inputs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from parity.calibrate.drift import CandidateDrift
from parity.diff.comparison import LEVELS, MEASURED, NOT_ISOLATED, OUTPUTS, Comparison, EvidenceLevel, Finding, level_of
from parity.diff.isolated import IsolatedNumbers, isolated_numbers
from parity.diff.metric import ISOLATED
from parity.diff.runs import drift_level
from parity.explain.divergence import first_divergence
from parity.explain.floors import Floors
from parity.isolate.error import IsolatedError
from parity.judge.registry import Registry, device_of
from parity.judge.rules import judge
from parity.judge.strength import key
from parity.judge.verdict import Verdict
from parity.taps.group import isolated_group


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The evidence against one candidate. Empty tuples mean that nothing wrong was seen."""

    bits_differ: bool  # in any tap or output: what the exact tier is judged by
    killed_by: dict[str, bool]  # levels of evidence (`parity.judge.strength.key`) -> not at parity on these
    metrics: tuple[str, ...]  # beyond their limits on all levels, the farthest first
    findings: tuple[str, ...]  # codes of what the comparisons refused outright, on all levels
    departs_at: tuple[str, ...]  # taps of the free run that depart first, in data-flow order
    adds_at: tuple[str, ...]  # places that add an error by themselves, in data-flow order

    @property
    def by_outputs(self) -> bool:
        """True if the outputs alone give the candidate away."""
        return self.killed_by[OUTPUTS]

    @property
    def killed(self) -> bool:
        """True if the gate does not pass the candidate, on all levels that it offers."""
        return self.killed_by[key(LEVELS)]

    def by_level(self, level: str) -> bool:
        """True if a metric of this level is beyond its limit."""
        return any(level_of(metric) == level for metric in self.metrics)

    @property
    def place(self) -> str:
        """The place said to be wrong: where the candidate first adds an error, else where its free run departs."""
        return next(iter((*self.adds_at, *self.departs_at)), "")

    def located(self, places: tuple[str, ...], first_taps: tuple[str, ...]) -> bool:
        """True if that is one of the places where it must show first."""
        wanted = places if self.adds_at else first_taps
        return any(fnmatchcase(self.place, pattern) for pattern in wanted)

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "killed": self.killed,
            "killed_by_bits": self.bits_differ,
            "killed_by": dict(self.killed_by),
            "metrics": list(self.metrics),
            "findings": list(self.findings),
            "place": self.place,
            "departs_at": next(iter(self.departs_at), ""),
            "adds_at": next(iter(self.adds_at), ""),
        }


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Everything that a candidate of one case is judged by."""

    limits_of: str  # case whose limits hold
    registry: Registry
    environment: dict[str, str]
    compared_on: str = ""  # if not everything

    def examine(self, drifted: CandidateDrift, rows: Sequence[IsolatedError] | None) -> Evidence:
        """Judge one candidate by its free run and, unless `rows` is None, by what its parts add.

        Raises: RegistryError if a metric has no limit.
        """
        alone = None if rows is None else isolated_numbers([(row.where, row.error, row.note) for row in rows])
        verdicts = {key(LEVELS[:count]): self._judged(LEVELS[:count], drifted, alone) for count in (1, 2, 3)}
        whole = verdicts[key(LEVELS)]
        return Evidence(
            bits_differ=not drifted.bit_equal,
            killed_by={name: verdict.exit_code != 0 for name, verdict in verdicts.items()},
            metrics=tuple(row.metric for row in sorted(whole.failed_rows(), key=lambda row: -row.used)),
            findings=tuple(dict.fromkeys(failure.code for failure in whole.failures)),
            departs_at=self._departures(drifted),
            adds_at=tuple(row.where for row in rows or () if self._adds(row)),
        )

    def _judged(self, levels: Sequence[str], drifted: CandidateDrift, alone: IsolatedNumbers | None) -> Verdict:
        metrics = dict(drifted.metrics)
        findings: list[Finding] = list(drifted.outputs.findings)
        measured: dict[str, EvidenceLevel] = {OUTPUTS: MEASURED}
        if "drift" in levels:
            findings += drifted.taps.findings
            measured["drift"] = drift_level(drifted.taps, drifted.flow)
        if "isolated" in levels:
            measured["isolated"] = NOT_ISOLATED if alone is None else MEASURED
        if "isolated" in levels and alone is not None:
            findings += alone.findings
            metrics |= alone.metrics
        found = Comparison(
            case=self.limits_of,
            metrics=metrics,
            findings=tuple(findings),
            levels=measured,
            environment_of_candidate=self.environment,
            compared_on=self.compared_on,
        )
        return judge(found, "limits", self.registry)

    def _adds(self, row: IsolatedError) -> bool:
        """True if a place adds more than the limit of its group lets it, or could not be compared."""
        limit = self.registry.limits_of(self.limits_of, device_of(self.environment)).get(
            f"{ISOLATED}{isolated_group(row.where)}"
        )
        return math.isnan(row.error) or row.error > (0.0 if limit is None else limit.value)

    def _departures(self, drifted: CandidateDrift) -> tuple[str, ...]:
        flow = drifted.flow
        floors = Floors(flow, "bf16", calibrated=self.registry.floors_of(self.limits_of, device_of(self.environment)))
        found = first_divergence(drifted.taps.errors, floors.bound, flow, is_wanted=drifted.taps.is_wanted)
        known = {finding.where for finding in found.findings if finding.where in flow} | {
            root.tap for root in found.roots
        }
        beyond = [one.where for one in drifted.taps.findings if one.code == "extra_tensor" and one.where not in flow]
        return (*sorted(known, key=flow.rank), *beyond)
