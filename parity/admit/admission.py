"""Admission of a candidate: each of its operations as near to float64 as the official one is, and unbiased.

The official pipeline runs once, as it is. Wherever it has computed something that a limit holds for, the official
operation is computed again in float64 and the candidate's own from the same official inputs (`parity.admit.operations`,
`parity.admit.accuracy`). The limits are those that SGLang's admission of kernels has: an error at most `ERROR_RATIO`
times that of the official code, a bias at most `BIAS` of the error's RMS. They say nothing of what many admitted
operations do together, which is the drift of the whole run: it stands beside them, group by group, and the gate
judges it.

A place that was not tried, has another shape or holds a value that is not finite is refused, never passed over. The
mean of n rounding errors is 1 / sqrt(n) of their RMS by chance: where three times that is more than the limit of the
bias, as in tensors of less than 144 elements, it is allowed. So is the bias that the official operation itself has
there, to the same side: official bits are never refused.
"""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from parity.admit.accuracy import Accuracy
from parity.admit.fast_blocks import FastBlocks
from parity.admit.operations import (
    BLOCKS,
    EVERYTHING,
    FASTER,
    Operations,
    RunBlock,
    diffusers_blocks,
    native_block,
    places_to_try,
)
from parity.calibrate.drift import sketched_run
from parity.diff.metric import DRIFT
from parity.diff.runs import drift_metrics
from parity.diff.traces import compare_traces
from parity.isolate.choice import Choice
from parity.isolate.lockstep import Lockstep, run_official
from parity.isolate.origins import origins_among
from parity.runs.folder import dtype_label
from parity.taps.dataflow import Dataflow
from parity.taps.group import RANGES, isolated_group
from parity.taps.isolated_places import isolated_places
from parity.trace.file import Trace, read_trace
from parity.trace.trace_writer import TraceWriter
from runners.case import Case, case_document
from runners.clock import Progress
from runners.errors import ConfigError, RunnerError
from runners.protocol import RunOptions
from runners.weights import Weights, num_blocks

SCHEMA_VERSION: Final = 1
ERROR_RATIO: Final = 1.5
BIAS: Final = 0.25
LIMITS_FROM: Final = "SGLang's admission of kernels"
CANDIDATES: Final = ("native", "diffusers")

Outcome = Literal["admitted", "refused"]


@dataclass(frozen=True, kw_only=True)
class AdmissionLimits:
    """The limits that an operation is held to. Raises: ConfigError for one that is not a number above zero."""

    error_ratio: float = ERROR_RATIO
    bias: float = BIAS

    def __post_init__(self) -> None:
        for name, value in (("error ratio", self.error_ratio), ("bias", self.bias)):
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"The limit of the {name} is {value}; wanted a finite number above 0.")

    def why_refused(self, found: Accuracy) -> str:
        """The reason that an operation is not admitted, in a few words; empty if it is."""
        if found.note:
            return found.note
        if found.special.spoilt:
            return (
                f"{found.special.nan} NaN and {found.special.infinite} infinities are not where the official ones are"
            )
        if not found.ratio <= self.error_ratio:
            return f"error {found.ratio:.3g} times the official one's"
        officials_own = abs(found.official_bias) if found.bias * found.official_bias > 0 else 0.0
        if not abs(found.bias) <= max(self.bias, found.bias_by_chance, officials_own):
            return f"bias {found.bias:.2g} of the error's RMS, the official one's {found.official_bias:.2g}"
        return ""


@dataclass(frozen=True, kw_only=True)
class AdmittedGroup:
    """One group of taps: its worst places, and what the whole run drifts there."""

    group: str
    places: int
    refused: int
    official: float  # the largest error of the official code, relative L2 from float64
    ratio: Accuracy  # the place of the largest ratio, or one that could not be computed
    bias: Accuracy  # the place of the largest bias
    signed_zeros: int
    subnormals: int
    drift: Mapping[str, float]  # relative L2 of the free run, the worst tap of each range of steps; empty if not run


@dataclass(frozen=True, kw_only=True)
class Admission:
    """Every place tried, in data-flow order, and what it came to."""

    runner: str
    tier: str
    limits: AdmissionLimits
    rows: tuple[Accuracy, ...]
    flow: Dataflow
    drift: Mapping[str, float]  # metrics of the free run, by name; empty if there was none
    drift_of: str  # the free run it is of, or why there is none
    provenance: Mapping[str, Any]

    @property
    def refused(self) -> tuple[tuple[Accuracy, str], ...]:
        """Places that are not admitted, each with the reason, in data-flow order."""
        return tuple((row, why) for row in self.rows if (why := self.limits.why_refused(row)))

    @property
    def origins(self) -> tuple[str, ...]:
        """Refused places that no refused one of the same block explains."""
        return origins_among([row.where for row, _ in self.refused], self.flow)

    @property
    def outcome(self) -> Outcome:
        """Admitted if everything was tried and nothing refused."""
        return "admitted" if self.rows and not self.refused else "refused"

    @property
    def exit_code(self) -> int:
        """0 admitted, 1 refused."""
        return 0 if self.outcome == "admitted" else 1

    def groups(self) -> tuple[AdmittedGroup, ...]:
        """The rows by group of taps, in the order in which each is first met."""
        by_group: dict[str, list[Accuracy]] = {}
        for row in self.rows:
            by_group.setdefault(isolated_group(row.where) or row.where, []).append(row)
        refused = {row.where for row, _ in self.refused}
        return tuple(
            AdmittedGroup(
                group=group,
                places=len(rows),
                refused=sum(row.where in refused for row in rows),
                official=_largest([row.official for row in rows]),
                ratio=max(rows, key=lambda row: _beyond(row.ratio)),
                bias=max(rows, key=lambda row: _beyond(abs(row.bias))),
                signed_zeros=sum(row.special.signed_zero for row in rows),
                subnormals=sum(row.special.subnormal for row in rows),
                drift={
                    steps: self.drift[name] for steps in RANGES if (name := f"{DRIFT}{group}.{steps}") in self.drift
                },
            )
            for group, rows in by_group.items()
        )

    def document(self) -> dict[str, Any]:
        """As JSON data, before infinities are written as strings."""
        why = {row.where: reason for row, reason in self.refused}
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": "admission",
            **self.provenance,
            "runner": self.runner,
            "tier": self.tier,
            "limits": {
                "error_ratio": self.limits.error_ratio,
                "bias": self.limits.bias,
                "from": LIMITS_FROM if self.limits == AdmissionLimits() else "the command line",
            },
            "outcome": self.outcome,
            "origins": list(self.origins),
            "drift_of": self.drift_of,
            "groups": [_group_document(group) for group in self.groups()],
            "rows": [{**row.document(), "refused": why.get(row.where, "")} for row in self.rows],
        }


def _group_document(group: AdmittedGroup) -> dict[str, Any]:
    return {
        "group": group.group,
        "places": group.places,
        "refused": group.refused,
        "official_to_fp64": group.official,
        "worst_ratio": group.ratio.ratio,
        "worst_ratio_at": group.ratio.where,
        "worst_bias": group.bias.bias,
        "worst_bias_at": group.bias.where,
        "signed_zeros": group.signed_zeros,
        "subnormals": group.subnormals,
        "drift": dict(group.drift),
    }


def admit(
    weights: Weights,
    case: Case,
    options: RunOptions,
    *,
    runner: str = "native",
    taps: str = "*",
    steps: Sequence[int],
    limits: AdmissionLimits | None = None,
    copies: bool,
    drift: Mapping[str, float] | None = None,
    drift_of: str = "",
    free_run: bool = True,
    progress: Progress | None = None,
) -> Admission:
    """Try the operations of a candidate.

    Args:
        weights: the model's files.
        case: the request.
        options: device, dtype and the candidate's tier.
        runner: the candidate, one of CANDIDATES; of others than native, blocks alone can be tried.
        taps: pattern of the taps whose operations are tried.
        steps: the denoising steps that are tried.
        limits: what they are held to.
        copies: give native copies of the weights, for a trial that changes them; the model stands on the device twice.
        drift: metrics of a free run that there is already, as `parity.diff.runs` has them; None runs one, beside the
            official run that this is.
        drift_of: which free run that is.
        free_run: whether to run one where there is none.
        progress: told what the official run is doing.
    Raises: ConfigError for a pattern or steps of which nothing can be tried, RunnerError for another runner; else as
        the runners do.
    """
    if runner not in CANDIDATES:
        raise RunnerError(f"The operations of runner {runner!r} cannot be tried one by one; take {_or(CANDIDATES)}.")
    flow = Dataflow(case, num_blocks(weights))
    kinds = BLOCKS if runner != "native" else EVERYTHING if options.tier == "exact" else FASTER
    wanted = places_to_try(flow, steps, taps, kinds)
    if not wanted:
        raise ConfigError(
            f"--taps {taps!r} in steps {list(steps)} chooses no operation that can be tried; see docs/taps.md."
        )
    run_block = _blocks_of(weights, options, runner)
    known = frozenset(isolated_places(flow, steps))
    operations = Operations(run_block=run_block, wanted=frozenset(wanted), known=known, pattern=taps)
    drifts = drift is None and free_run
    trace, environment = _official_run(
        weights, case, options, operations, steps, copies=copies, to_the_end=drifts, progress=progress
    )
    if drifts:
        drift = _free_run(weights, case, options, runner, trace, flow)
        drift_of = "a free run of the candidate beside this official one"
    found = {row.where: row for row in operations.rows}
    beyond = [row for place, row in found.items() if place not in operations.wanted]  # what the official code has not
    rows = (*(found.get(place, Accuracy(where=place, note="was not tried")) for place in wanted), *beyond)
    return Admission(
        runner=runner,
        tier=options.tier,
        limits=limits or AdmissionLimits(),
        rows=rows,
        flow=flow,
        drift=drift or {},
        drift_of=drift_of or "not run",
        provenance={
            "case": case_document(case),
            "dtype": dtype_label(options.dtype),
            "weights_hash": weights.of_pipeline(case.pipeline).hash,
            "weights_shared": runner == "native" and not copies,
            "environment": environment,
            "taps": taps,
            "steps": sorted(steps),
        },
    )


def _blocks_of(weights: Weights, options: RunOptions, runner: str) -> RunBlock:
    if runner == "diffusers":
        return diffusers_blocks(weights, options)
    return native_block if options.tier == "exact" else FastBlocks(options.tier)


def _official_run(
    weights: Weights,
    case: Case,
    options: RunOptions,
    operations: Operations,
    steps: Sequence[int],
    *,
    copies: bool,
    to_the_end: bool,
    progress: Progress | None,
) -> tuple[Trace, dict[str, Any]]:
    """Run the official pipeline with every operation tried beside it; its trace, and where it ran.

    It ends with the last step that is tried, unless `to_the_end`, as a trace to be compared with must.
    """
    choice = Choice(stages=frozenset({"denoising", "text_connector"}), steps=frozenset(steps), harmless=False)
    lockstep = Lockstep(
        weights,
        case,
        options,
        choice,
        copies=copies,
        table=operations,
        measure_block=operations.block,
        to_the_end=to_the_end,
    )
    with tempfile.TemporaryDirectory() as folder:
        with TraceWriter(Path(folder)) as writer:
            environment = run_official(weights, case, replace(options, tier="exact"), lockstep, progress, also=writer)
        return read_trace(Path(folder)), environment


def _free_run(
    weights: Weights, case: Case, options: RunOptions, runner: str, official: Trace, flow: Dataflow
) -> dict[str, float]:
    """The drift of a free run of the candidate from the official one. Raises: RunnerError if it cannot be compared."""
    candidate = sketched_run(weights, case, runner, options.dtype, options.device, tier=options.tier)
    compared = compare_traces(official, candidate.trace, flow)
    return drift_metrics(compared, flow)


def _largest(values: Sequence[float]) -> float:
    return math.nan if any(math.isnan(value) for value in values) else max(values)


def _beyond(value: float) -> float:
    """The value itself, and infinity for NaN: a value that cannot be computed is worst."""
    return math.inf if math.isnan(value) else value


def _or(names: Sequence[str]) -> str:
    return " or ".join(names)
