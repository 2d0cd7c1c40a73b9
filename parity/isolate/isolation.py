"""Isolation: the error that each stage, and each block of each pass, adds by itself, beside the error it inherits.

The official pipeline runs once, as it is. Wherever it has computed something, the candidate computes the same from the
official inputs, in the same process and on the same weights, and the difference is measured at once. So a block far
downstream of a bug shows no error here, and a bug that a free run buries under inherited drift shows alone.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from parity.diff.isolated import SCHEMA_VERSION, BoundRuns
from parity.isolate.block import measure_block
from parity.isolate.choice import Around, Choice
from parity.isolate.error import ErrorTable, IsolatedError
from parity.isolate.lockstep import Lockstep, run_official
from parity.isolate.origins import origins_among
from parity.runs.folder import dtype_label
from parity.taps.dataflow import Dataflow
from runners.case import Case, case_document
from runners.clock import STAGES, Progress
from runners.errors import ConfigError
from runners.files import sha256_of
from runners.native.request import sampling_params
from runners.native.runner import NativeRunner, details_of
from runners.protocol import RunOptions
from runners.weights import Weights, num_blocks

NOTEWORTHY: Final = 3.0  # times what is harmless; one draw of harmless noise may well be twice as large as another


@dataclass(frozen=True, kw_only=True)
class Isolation:
    """All rows of one isolation, in data-flow order. `inherited` is the free run's error by tap, if one was given."""

    rows: tuple[IsolatedError, ...]
    inherited: Mapping[str, float]
    flow: Dataflow
    provenance: Mapping[str, Any]  # whose parts were tried, where, and which: as `parity.diff.isolated` reads it

    @property
    def culprits(self) -> tuple[IsolatedError, ...]:
        """Rows that add more than harmless noise does, or that could not be compared, in data-flow order.

        Where nothing says what is harmless, any difference of bits is more.
        """
        return tuple(row for row in self.rows if math.isnan(row.error) or row.ratio > NOTEWORTHY)

    @property
    def origins(self) -> tuple[IsolatedError, ...]:
        """Culprits that no culprit of the same block explains: a block's branches feed one another, blocks do not."""
        first = set(origins_among([row.where for row in self.culprits], self.flow))
        return tuple(row for row in self.culprits if row.where in first)

    @property
    def bit_equal(self) -> bool:
        """True if the candidate added nothing anywhere, and something was looked at."""
        return bool(self.rows) and all(row.error == 0 for row in self.rows)

    def document(self, runs: BoundRuns | None = None) -> dict[str, Any]:
        """As JSON data, before infinities are written as strings; `runs` are those whose gate may judge it."""
        return {
            "schema_version": SCHEMA_VERSION,
            **self.provenance,
            "runs": None if runs is None else {"reference": list(runs.reference), "candidate": runs.candidate},
            "bit_equal": self.bit_equal,
            "culprits": [row.where for row in self.culprits],
            "origins": [row.where for row in self.origins],
            "rows": [{**row.document(), "inherited": self.inherited.get(row.where)} for row in self.rows],
        }


def isolate(
    weights: Weights,
    case: Case,
    options: RunOptions,
    *,
    stages: Iterable[str] = STAGES,
    steps: Sequence[int] | None = None,
    blocks: Sequence[int] | None = None,
    harmless: bool = True,
    oracle: bool = False,
    copies: bool = False,
    around: Around = nullcontext,
    inherited: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> Isolation:
    """Run official and native in lockstep, up to the last that is measured, and measure what native adds.

    Args:
        weights: the model's files.
        case: the request.
        options: device and dtype.
        stages: which of `runners.clock.STAGES` to measure.
        steps: which denoising steps to measure; None for all.
        blocks: which blocks to measure, and of denoising nothing else; None for everything.
        harmless: measure the floor of each block, too: the official block with another attention kernel.
        oracle: hold both sides to the official block in fp32.
        copies: give native copies of the weights; a trial that changes weights must not change the reference.
        around: what is entered whenever native computes: a harmless variation of its side alone.
        inherited: error of each tap in a free run, to stand beside.
        progress: told what the official run is doing.
    Raises: ConfigError for a stage, step or block that there is not, or a faster tier; else as the official runner.
    """
    if options.tier != "exact":
        raise ConfigError(
            f"Tier {options.tier!r} has fused parts, which are not those that an isolation feeds one by one; its "
            "operations are tried by `parity admit`."
        )
    chosen = tuple(stages)
    _require_known(weights, case, chosen, steps, blocks)
    choice = Choice(
        stages=frozenset(chosen),
        steps=None if steps is None else frozenset(steps),
        blocks=None if blocks is None else frozenset(blocks),
        harmless=harmless,
        oracle=oracle,
        around=around,
    )
    table = ErrorTable()
    lockstep = Lockstep(
        weights,
        case,
        options,
        choice,
        copies=copies,
        table=table,
        measure_block=partial(measure_block, table=table, choice=choice),
    )
    environment = run_official(weights, case, options, lockstep, progress)
    config = NativeRunner(weights, options).pipeline_config(case)
    return Isolation(
        rows=tuple(table.rows),
        inherited=dict(inherited or {}),
        flow=Dataflow(case, num_blocks(weights)),
        provenance={
            "case": case_document(case),
            "inputs": {image.path: sha256_of(case.image_path(image)) for image in case.request.images},
            "runner": "native",
            "tier": options.tier,
            "dtype": dtype_label(options.dtype),
            "details": details_of(config, sampling_params(case, config.reference)),
            "weights_hash": weights.of_pipeline(case.pipeline).hash,
            "environment": environment,
            "stages": list(chosen),
            "steps": sorted(steps if steps is not None else range(case.plans[0].evaluations)),
            "whole": blocks is None,
        },
    )


def _require_known(
    weights: Weights, case: Case, stages: Sequence[str], steps: Sequence[int] | None, blocks: Sequence[int] | None
) -> None:
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown or not stages:
        raise ConfigError(f"Unknown stage {', '.join(unknown) or '(none)'}; take some of {', '.join(STAGES)}.")
    counts = {
        "step": (steps, case.plans[0].evaluations),
        "block": (blocks, num_blocks(weights)),
    }
    for kind, (given, count) in counts.items():
        beyond = [index for index in given or () if not 0 <= index < count]
        if beyond or (given is not None and not given):
            raise ConfigError(f"There is no {kind} {beyond or '(none given)'}; take {kind}s from 0 to {count - 1}.")
