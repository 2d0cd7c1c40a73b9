"""The two populations of a case: harmless variations of the official run, and the native one with each defect in it.

Both are measured now, on this machine, against the same plain official run, in the free run and, part by part, in
isolation. `parity.calibrate.limits` derives limits from them.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, partial
from typing import Final

import torch

from parity.calibrate.another_gpu import ANOTHER_GPU, compare_golden, golden_of_another_gpu
from parity.calibrate.checkpoint import CalibrationCheckpoint, Member
from parity.calibrate.drift import CandidateDrift, SketchedRun, compare_with_golden, drift, same_bits, sketched_run
from parity.calibrate.harmless import Variation, variations
from parity.calibrate.isolated_errors import added_alone
from parity.calibrate.rewrites import ALL_AT_ONCE, REWRITES, Rewrite, rewritten
from parity.calibrate.sparing import take_members
from parity.defects.catalogue import defects_of
from parity.defects.defect import Defect, present
from parity.diff.comparison import OUTPUTS, level_of
from parity.diff.isolated import isolated_numbers
from parity.diff.metric import DRIFT, ISOLATED
from parity.diff.runs import GoldenSubset, subset_of, subset_phrase
from parity.isolate.error import IsolatedError
from parity.runs.folder import Run
from parity.runs.in_memory import CPU
from parity.taps.dataflow import Dataflow
from parity.taps.group import drift_group, isolated_group
from runners.case import Case
from runners.errors import RegistryError
from runners.weights import Weights

CALIBRATION_DRAWS: Final = range(12)  # seeds of the ULP moves; `parity mutate` takes others
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Populations:
    """The two populations of one case, metric by metric."""

    case: str
    floor: dict[str, dict[str, float]]  # variation -> metric -> value
    defects: dict[str, dict[str, float]]  # defect -> metric -> value, where it could be computed
    findings: dict[str, tuple[str, ...]]  # defect -> what the comparison refused outright
    shown_at: dict[str, frozenset[str]]  # defect -> metrics of groups in which it departs first, or adds its error
    release: str = "1.0.0"  # which the case follows
    known_defects: int = 0  # how many defects matter to the case; fewer may have been measured
    compared_on: str = ""  # what was compared, if not everything


def measure(
    weights: Weights,
    case: Case,
    say: Say,
    golden: Run | None = None,
    compiled: bool = False,
    *,
    device: torch.device = CPU,
    subset: GoldenSubset | None = None,
    checkpoint: CalibrationCheckpoint | None = None,
    sparing: bool = False,
) -> Populations:
    """Run both populations of a case.

    Args:
        weights: the model's files.
        case: the request.
        say: told what is run.
        golden: an official run of the case, where official code of its release cannot run here; native, held to its
            every bit, then stands for it, also in the harmless variations. If it is reduced, outputs are before they
            are compared, since that is how candidates will be judged.
        compiled: add a run with compiled branches to the harmless ones.
        device: where everything runs.
        subset: what candidates will be judged by if the case's golden is reduced; outputs are reduced so, and drift
            is of those taps alone.
        checkpoint: which members are measured, and for how long; None takes all of them.
        sparing: measure what a large model on a GPU leaves time and memory for, the most useful members first
            (`parity.calibrate.sparing`): defects are not tried part by part, and parts only in the first two steps.
    Raises: RegistryError if the native run is not the official one, or a harmless variation spoils a metric;
        OutOfTimeError if the sitting's time is over before there is enough for limits.
    """
    runner = "official" if golden is None else "native"
    subset = subset or (None if golden is None else subset_of(golden))
    checkpoint = checkpoint or CalibrationCheckpoint()
    known = defects_of(case)
    reference = cache(partial(sketched_run, weights, case, runner, device=device))  # not for members that are kept

    def native_as_it_is() -> Member:
        if golden is None:
            same = drift(weights, case, reference(), device=device).bit_equal
        else:
            same = same_bits(compare_with_golden(golden, reference()))
        if not same:
            raise RegistryError(
                f"The native run of {case.id!r} is not the official one bit for bit, so defects in it would be "
                "measured together with what is wrong already. Mend it first; `parity diff` shows where."
            )
        return Member(metrics={})

    def spoiled(defect: Defect) -> Member:
        say(f"{case.id}: defect {defect.id}")
        with present(defect):
            drifted = drift(weights, case, reference(), subset=subset, device=device)
        rows: tuple[IsolatedError, ...] = ()
        if defect.alone and golden is None and not sparing:
            with present(defect, must_reach=False):
                rows = added_alone(weights, case)
        alone = isolated_numbers([(row.where, row.error, row.note) for row in rows])
        found = (*drifted.outputs.findings, *drifted.taps.findings, *alone.findings)
        return Member(
            metrics=dict(_worth_keeping(defect, {**drifted.metrics, **alone.metrics})),
            findings=tuple(sorted({finding.code for finding in found})),
            shown_at=tuple(sorted(set(_shown_at(defect, reference().flow, rows)))),
        )

    harmless = floor_work(
        weights,
        case,
        reference,
        variations(CALIBRATION_DRAWS, case.reference, compiled, device),
        say,
        official=golden is None,
        subset=subset,
        device=device,
        sparing=sparing,
    )
    spoilt: dict[str, Callable[[], Member]] = {defect.id: partial(spoiled, defect) for defect in known}
    work = {**harmless, **spoilt}
    checkpoint.require_known(work)
    checkpoint.take("native_as_it_is", native_as_it_is)
    members = take_members(work, checkpoint, say, sparing=sparing)
    defects = {name: member for name, member in members.items() if name in spoilt}
    return Populations(
        case=case.id,
        release=case.reference,
        floor={name: member.numbers for name, member in members.items() if name in harmless},
        defects={name: member.numbers for name, member in defects.items()},
        findings={name: member.findings for name, member in defects.items()},
        shown_at={name: frozenset(member.shown_at) for name, member in defects.items()},
        known_defects=len(known),
        compared_on=subset_phrase(subset),
    )


def measure_floor(
    weights: Weights,
    case: Case,
    reference: SketchedRun,
    harmless: Iterable[Variation],
    say: Say,
    *,
    official: bool = True,
    device: torch.device = CPU,
) -> dict[str, dict[str, float]]:
    """Distances that harmless variations and rewrites move each metric, and the errors that rewrites add by themselves.

    Args:
        weights: the model's files.
        case: the request.
        reference: its run that is taken as true.
        harmless: the variations.
        say: told what is run.
        official: whether official code of the case's release can run here.
        device: where everything runs.
    Raises: RegistryError if one of them spoils a comparison.
    """
    work = floor_work(weights, case, lambda: reference, harmless, say, official=official, device=device)
    return {name: measured().numbers for name, measured in work.items()}


def floor_work(
    weights: Weights,
    case: Case,
    reference: Callable[[], SketchedRun],
    harmless: Iterable[Variation],
    say: Say,
    *,
    official: bool = True,
    subset: GoldenSubset | None = None,
    device: torch.device = CPU,
    sparing: bool = False,
) -> dict[str, Callable[[], Member]]:
    """The measurement of each harmless variation and rewrite, by name.

    Args:
        weights: the model's files.
        case: the request.
        reference: makes its run that is taken as true.
        harmless: the variations.
        say: told what is run.
        official: whether official code of the case's release can run here: variations of it are, and parts are tried
            alone beside it.
        subset: what is compared, if not everything.
        device: where everything runs.
        sparing: native, which has the official bits and takes less time, runs the variations; rewrites are tried part
            by part alone, in the first steps.
    """

    def varied(variation: Variation) -> Member:
        say(f"{case.id}: harmless, {variation.description}")
        runner = "official" if official and not (variation.native_only or sparing) else "native"
        with variation.apply():
            drifted = drift(
                weights,
                case,
                reference(),
                variation.dtype,
                runner,
                subset=subset,
                device=device,
                variables=variation.variables,
            )
        rows: tuple[IsolatedError, ...] = ()
        if official and variation.alone:
            rows = added_alone(weights, case, every_step=not sparing, device=device, around=variation.apply)
        return Member(metrics=_harmless(variation.id, case, drifted, rows))

    def rewritten_by(rewrite: Rewrite) -> Member:
        say(f"{case.id}: harmless, {rewrite.description}")
        drifted = None
        if not sparing:
            with rewritten(rewrite):
                drifted = drift(weights, case, reference(), subset=subset, device=device)
        rows: tuple[IsolatedError, ...] = ()
        if official:
            with rewritten(rewrite):
                rows = added_alone(weights, case, every_step=not sparing, device=device)
        return Member(metrics=_harmless(rewrite.id, case, drifted, rows))

    work: dict[str, Callable[[], Member]] = {one.id: partial(varied, one) for one in harmless}
    work |= {one.id: partial(rewritten_by, one) for one in (*REWRITES, ALL_AT_ONCE)}
    if (golden := golden_of_another_gpu(case, device)) is not None:

        def elsewhere() -> Member:
            say(f"{case.id}: harmless, the golden of {golden.manifest.environment['device_name']}")
            return Member(metrics=_harmless(ANOTHER_GPU, case, compare_golden(golden, reference(), subset=subset), ()))

        work[ANOTHER_GPU] = elsewhere
    return work


def _harmless(
    name: str, case: Case, drifted: CandidateDrift | None, rows: tuple[IsolatedError, ...]
) -> dict[str, float | str]:
    alone = isolated_numbers([(row.where, row.error, row.note) for row in rows])
    free = () if drifted is None else (*drifted.outputs.findings, *drifted.taps.findings)
    if found := (*free, *alone.findings):
        what = "; ".join(f"{finding.code} at {finding.where}" for finding in found)
        raise RegistryError(f"The harmless variation {name!r} of {case.id!r} cannot be compared: {what}.")
    metrics = {} if drifted is None else drifted.metrics
    return {name: _rounded(name, value) for name, value in (metrics | dict(alone.metrics)).items()}


def _worth_keeping(defect: Defect, metrics: dict[str, float]) -> dict[str, float]:
    """The numbers of a defect to keep as samples: of outputs if it should show there, of groups if not zero."""
    return {
        name: _rounded(name, value)
        for name, value in metrics.items()
        if not math.isnan(value) and (defect.shows_in if level_of(name) == OUTPUTS else value != 0)
    }


def _rounded(metric: str, value: float) -> float:
    """Errors of groups to five digits: there are many of them, and a sketch is no more exact than that."""
    return value if level_of(metric) == OUTPUTS else float(f"{value:.5g}")


def _shown_at(defect: Defect, flow: Dataflow, rows: tuple[IsolatedError, ...]) -> Iterator[str]:
    """Metrics of the groups in which a defect is bound to show: where it departs first, and where it adds its error."""
    for tap in flow.taps:
        if any(fnmatchcase(tap, pattern) for pattern in defect.first_taps):
            yield f"{DRIFT}{drift_group(tap, flow.steps)}"
    for row in rows:
        group = isolated_group(row.where)
        if group is not None and any(fnmatchcase(row.where, pattern) for pattern in defect.places):
            yield f"{ISOLATED}{group}"
