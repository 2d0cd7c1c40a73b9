"""Limits of outputs that went through an encoder, and the number of known defects that they still give away.

The populations are those of `parity.calibrate.limits`; each run's outputs go through each encoder before they are
compared with the reference's that went through it, too. So one run of each serves any number of forms. What a file does
not tell of its encoder, the number of its threads, is one more harmless variation. Whether limits stop what they should
is counted on the same defects, and on harmless runs that no limit came from, without latents: a clip has none.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from parity.calibrate.drift import compare_in_dtype
from parity.calibrate.harmless import variations
from parity.calibrate.mutation import ALARM_DRAWS, MACHINE
from parity.calibrate.populations import CALIBRATION_DRAWS, Populations
from parity.calibrate.rewrites import ALL_AT_ONCE, REWRITES, Rewrite, pairs, rewritten
from parity.defects.catalogue import defects_of
from parity.defects.defect import present
from parity.diff.comparison import OUTPUTS, OUTPUTS_ONLY, Comparison
from parity.diff.imported import WITHOUT_LATENTS, import_findings
from parity.diff.outputs import OutputsDiff
from parity.judge.registry import Registry
from parity.judge.rules import judge
from parity.judge.strength import KIND_OF_FORM
from parity.runs.encoding import Encoding
from parity.runs.folder import ImportRecord, RunOutputs
from parity.runs.in_memory import run_in_memory
from parity.runs.outputs import LATENTS
from parity.runs.through_encoder import through_encoder
from runners.case import Case
from runners.errors import RegistryError
from runners.official.files import INSTALLED_RELEASE
from runners.weights import WeightsFolder

ENCODER_THREADS: Final = 4  # of the harmless variation; the reference is encoded on one
Say = Callable[[str], None]
Run = Callable[[], RunOutputs]


@dataclass(frozen=True, kw_only=True)
class FormPopulations:
    """The measurements of one form: numbers and findings of each member, by its id."""

    encoding: Encoding
    floor: Mapping[str, OutputsDiff]
    defects: Mapping[str, OutputsDiff]
    harmless: Mapping[str, OutputsDiff]  # runs that no limit comes from


@dataclass(frozen=True, kw_only=True)
class FormRow:
    """One member and what of the gate noticed it."""

    id: str
    killed: bool
    metrics: tuple[str, ...]  # beyond their limits, the farthest first
    findings: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        found = {"metrics": list(self.metrics), "findings": list(self.findings)}
        return {"id": self.id, "killed": self.killed, **found}


@dataclass(frozen=True, kw_only=True)
class FormScore:
    """The known defects of a case that outputs in a form give away."""

    form: str
    limits_of: str
    date: str  # YYYY-MM-DD
    environment: dict[str, str]
    rows: tuple[FormRow, ...]
    harmless: tuple[FormRow, ...]

    @property
    def killed(self) -> int:
        """Number of defects that are noticed."""
        return sum(row.killed for row in self.rows)

    @property
    def false_alarms(self) -> tuple[str, ...]:
        """Harmless runs that are taken for defects."""
        return tuple(row.id for row in self.harmless if row.killed)

    def document(self) -> dict[str, Any]:
        """As JSON data, in the form of a mutation score."""
        return {
            "schema_version": 1,
            "kind": KIND_OF_FORM,
            "form": self.form,
            "limits_of": self.limits_of,
            "date": self.date,
            "environment": self.environment,
            "defects": len(self.rows),
            "killed": self.killed,
            "killed_by_levels": {OUTPUTS: self.killed},
            "benign_runs": len(self.harmless),
            "false_alarms": list(self.false_alarms),
            "rows": [row.document() for row in self.rows],
            "benign_rows": [row.document() for row in self.harmless],
        }


def measure_forms(
    weights: WeightsFolder, case: Case, encodings: Sequence[Encoding], compiled: bool, say: Say
) -> list[FormPopulations]:
    """Run the populations of a case once, on this machine's CPU, and see them in each form.

    Args:
        weights: the model's files.
        case: the request; official code of its release must be the installed one.
        encodings: the forms.
        compiled: add a run with compiled branches to the harmless ones.
        say: told what is run.
    Raises: RegistryError for a case of another release, or a harmless run that cannot be compared.
    """
    if case.reference != INSTALLED_RELEASE:
        raise RegistryError(
            f"Case {case.id!r} follows {case.reference}; through encoders limits are measured where official code runs "
            f"in this process, which is {INSTALLED_RELEASE}. Take a case of that."
        )
    reference = run_in_memory("official", weights, case)
    lost = [through_encoder(reference, encoding) for encoding in encodings]

    def seen(members: Iterable[tuple[str, Run]], what: str) -> dict[str, list[OutputsDiff]]:
        found = {}
        for name, run in members:
            say(f"{case.id}: {what} {name}")
            outputs = run()
            pairs = zip(lost, encodings, strict=True)
            found[name] = [_seen(old, through_encoder(outputs, encoding), encoding) for old, encoding in pairs]
        return found

    floor = seen(_harmless(weights, case, compiled), "harmless")
    floor["encoder_threads"] = [
        _seen(old, through_encoder(reference, encoding, ENCODER_THREADS), encoding)
        for old, encoding in zip(lost, encodings, strict=True)
    ]
    defects = seen(_spoiled(weights, case), "defect")
    harmless = seen(_other_harmless(weights, case), "harmless, no limit's,")
    return [
        FormPopulations(
            encoding=encoding,
            floor={name: diffs[index] for name, diffs in floor.items()},
            defects={name: diffs[index] for name, diffs in defects.items()},
            harmless={name: diffs[index] for name, diffs in harmless.items()},
        )
        for index, encoding in enumerate(encodings)
    ]


def _seen(reference: RunOutputs, candidate: RunOutputs, encoding: Encoding) -> OutputsDiff:
    """Both as the gate compares an import: with what it finds of tags and channels."""
    diff = compare_in_dtype(reference, candidate)
    imported = ImportRecord(form=encoding.label, latents=False, sources={})
    return replace(diff, findings=(*import_findings(reference, candidate, imported), *diff.findings))


def populations_of(case: Case, found: FormPopulations) -> Populations:
    """The two populations of a form, as limits are derived from. Raises: RegistryError for a harmless run refused."""
    for name, diff in found.floor.items():
        if diff.findings:
            what = "; ".join(f"{finding.code} at {finding.where}" for finding in diff.findings)
            raise RegistryError(f"The harmless variation {name!r} of {case.id!r} cannot be compared: {what}.")
    return Populations(
        case=case.id,
        release=case.reference,
        floor={name: dict(diff.metrics) for name, diff in found.floor.items()},
        defects={
            defect.id: {
                metric: value
                for metric, value in found.defects[defect.id].metrics.items()
                if value == value and defect.shows_in
            }
            for defect in defects_of(case)
        },
        findings={name: tuple(sorted({one.code for one in diff.findings})) for name, diff in found.defects.items()},
        shown_at={},
        known_defects=len(found.defects),
        compared_on=found.encoding.label,
    )


def score_of(
    case: Case,
    found: FormPopulations,
    registry: Registry,
    environment: Mapping[str, str],
    equivalents: Sequence[str],
) -> FormScore:
    """Judge every member as the gate judges a clip without latents.

    Args:
        case: whose limits hold.
        found: what was measured.
        registry: of the form.
        environment: this process and machine.
        equivalents: defects that the oracle showed to be none; they are not counted.
    """

    def row(name: str, diff: OutputsDiff) -> FormRow:
        comparison = Comparison(
            case=case.id,
            metrics={metric: value for metric, value in diff.metrics.items() if not _of_latents(metric)},
            findings=tuple(one for one in diff.findings if one.where not in LATENTS),
            levels={**OUTPUTS_ONLY, OUTPUTS: WITHOUT_LATENTS},
            environment_of_candidate=environment,
            compared_on=found.encoding.label,
            form=found.encoding.label,
        )
        verdict = judge(comparison, "limits", registry)
        return FormRow(
            id=name,
            killed=verdict.exit_code != 0,
            metrics=tuple(one.metric for one in sorted(verdict.failed_rows(), key=lambda one: -one.used)),
            findings=tuple(dict.fromkeys(failure.code for failure in verdict.failures)),
        )

    return FormScore(
        form=found.encoding.label,
        limits_of=case.id,
        date=datetime.now(UTC).date().isoformat(),
        environment={name: environment[name] for name in MACHINE if name in environment},
        rows=tuple(row(name, diff) for name, diff in found.defects.items() if name not in equivalents),
        harmless=tuple(row(name, diff) for name, diff in found.harmless.items()),
    )


def _of_latents(metric: str) -> bool:
    return metric in WITHOUT_LATENTS.without


def _harmless(weights: WeightsFolder, case: Case, compiled: bool) -> Iterable[tuple[str, Run]]:
    for variation in variations(CALIBRATION_DRAWS, case.reference, compiled):
        runner = "native" if variation.native_only else "official"

        def varied(variation: Any = variation, runner: str = runner) -> RunOutputs:
            with variation.apply():
                return run_in_memory(runner, weights, case, variation.dtype, variables=variation.variables)

        yield variation.id, varied
    for rewrite in (*REWRITES, ALL_AT_ONCE):
        yield rewrite.id, partial(_rewritten, rewrite, weights, case)


def _rewritten(rewrite: Rewrite, weights: WeightsFolder, case: Case) -> RunOutputs:
    with rewritten(rewrite):
        return run_in_memory("native", weights, case)


def _spoiled(weights: WeightsFolder, case: Case) -> Iterable[tuple[str, Run]]:
    for defect in defects_of(case):

        def run(defect: Any = defect) -> RunOutputs:
            with present(defect):
                return run_in_memory("native", weights, case)

        yield defect.id, run


def _other_harmless(weights: WeightsFolder, case: Case) -> Iterable[tuple[str, Run]]:
    """Other draws and other combinations of rewrites than those that limits come from."""
    fixed = {variation.id for variation in variations(range(0), case.reference)}
    for variation in variations(ALARM_DRAWS, case.reference):
        if variation.id not in fixed:

            def moved(variation: Any = variation) -> RunOutputs:
                with variation.apply():
                    return run_in_memory("native", weights, case, variation.dtype)

            yield variation.id, moved
    for pair in pairs():
        yield pair.id, partial(_rewritten, pair, weights, case)
