"""A case under test: one case, its reference run, and what candidates of it are judged by.

The case at hand, and every committed case that has limits, is judged by its own limits. Anything else, such as the case
at hand with a keyframe, is judged by those of the case at hand, widened to what is harmless there.

Where official code of the case's release cannot run here, the native model as it is stands for it, on as many threads
as the golden was recorded with, once it has shown the golden's bits; on another machine it must be within the case's
own limits. Of a changed case there is no golden; there it stands for what it stands for as the case is. Parts are then
not tried alone, since nothing official runs beside them.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

import torch

from parity.calibrate.drift import CandidateDrift, SketchedRun, compare_with_golden, drift, same_bits, sketched_run
from parity.calibrate.harmless import threads, variations
from parity.calibrate.isolated_errors import added_alone
from parity.calibrate.mutation_evidence import Judge
from parity.calibrate.populations import measure_floor
from parity.calibrate.variant_limits import widened
from parity.diff.comparison import Comparison
from parity.diff.runs import GoldenSubset, subset_of_case, subset_phrase
from parity.isolate.error import IsolatedError
from parity.judge.limit_table import TableKey
from parity.judge.registry import Registry, device_of
from parity.judge.rules import judge
from parity.runs.environment import fingerprint
from parity.runs.folder import Run
from parity.runs.golden import golden_of
from parity.runs.in_memory import CPU
from runners.case import Case
from runners.errors import RegistryError
from runners.official.files import INSTALLED_RELEASE
from runners.protocol import Tier
from runners.weights import Weights

FLOOR_DRAWS: Final = range(50, 52)  # for cases without limits of their own
MACHINE_OF_BITS: Final = ("cpu", "cpu_capability", "torch", "threads")  # where these are a golden's, so are the bits
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class CaseEvidence:
    """The limits, flow and goldens that a case is judged by, known before anything is run."""

    case: Case
    changed: bool  # whether it is the case at hand with a change, of which there is no golden
    own: bool  # whether it is judged by its own limits, or by widened ones of the case at hand
    limits_of: str  # the id of whose limits they are
    registry: Registry
    environment: dict[str, str]
    golden: Run | None  # the golden, where official code of the case's release cannot run here
    subset: GoldenSubset | None  # what is compared, if not everything

    @property
    def device(self) -> torch.device:
        """The device that everything runs on."""
        return torch.device(self.environment["device"])

    @property
    def limits_on(self) -> str:
        """The device whose limits hold there, as `parity.judge.limit_table.TableKey` names it."""
        return device_of(self.environment)

    def running(self) -> AbstractContextManager[None]:
        """Compute on as many threads as the environment says."""
        count = int(self.environment["threads"])
        return nullcontext() if count == torch.get_num_threads() else threads(count)


def grounds_of(case: Case, at_hand: Case, registry: Registry, environment: Mapping[str, str]) -> CaseEvidence:
    """The limits, flow and goldens that judge a case.

    Args:
        case: the case at hand, a variant of it, or a committed case.
        at_hand: whose limits hold where a case has none.
        registry: limits.
        environment: this process and machine.
    Raises: RegistryError for own limits that decide nothing here, RunError where a golden is needed and missing.
    """
    golden = None if case.reference == INSTALLED_RELEASE else golden_of(case.id)
    here = dict(environment)
    if golden is not None:
        here["threads"] = str(golden.manifest.environment["threads"])
    changed = case.id == at_hand.id and case != at_hand
    own = case == at_hand or (not changed and TableKey(case.id, device_of(environment)) in registry.cases)
    evidence = CaseEvidence(
        case=case,
        changed=changed,
        own=own,
        limits_of=case.id if own else at_hand.id,
        registry=registry,
        environment=here,
        golden=golden,
        subset=subset_of_case(case.id) if own else None,
    )
    if own:
        _require_limits_that_hold(evidence)
    return evidence


def _require_limits_that_hold(evidence: CaseEvidence) -> None:
    """Refuse limits that decide nothing here: what the gate could not judge would count as caught."""
    registry, case = evidence.registry, evidence.case.id
    limits = registry.limits_of(case, evidence.limits_on)
    if TableKey(case, evidence.limits_on) not in registry.cases:
        raise RegistryError(
            f"There are no limits of '{TableKey(case, evidence.limits_on)}', and what cannot be judged is not caught; "
            "measure them there: `parity calibrate`, or `make thresholds-gpu`."
        )
    named = {limit.calibration for limit in limits.values() if limit.calibration is not None}
    compared_on = subset_phrase(evidence.subset)
    changes = {
        change
        for one in (registry.calibrations[name] for name in named)
        for change in (*one.changed(evidence.environment), *one.changed_population(case, compared_on))
    }
    changes |= {
        change
        for metric, limit in limits.items()
        if limit.calibration is not None
        for change in registry.calibrations[limit.calibration].changed_text(metric, padded_text=False)
    }
    if changes:
        raise RegistryError(
            f"The limits of case {case!r} decide nothing here ({'; '.join(sorted(map(str, changes)))}), and what "
            "cannot be judged is not caught; give the --threads that they were measured with, or measure them here: "
            "`parity calibrate`."
        )


@dataclass(frozen=True, kw_only=True)
class CaseUnderTest:
    """A case with its reference run, where candidates are run and judged."""

    evidence: CaseEvidence
    weights: Weights
    reference: SketchedRun
    judge: Judge
    tier: Tier = "exact"  # of the native model that is run as a candidate

    @property
    def case(self) -> Case:
        """The request."""
        return self.evidence.case

    def free_run(
        self, dtype: torch.dtype = torch.bfloat16, variables: Mapping[str, str] | None = None
    ) -> CandidateDrift:
        """The native model, as it is patched now, from prompt to outputs.

        Args:
            dtype: of weights and activations.
            variables: of the environment; some given run the model in a process of its own.
        """
        with self.evidence.running():
            return drift(
                self.weights,
                self.case,
                self.reference,
                dtype,
                subset=self.evidence.subset,
                device=self.evidence.device,
                variables=variables,
                tier=self.tier,
            )

    def parts_alone(self, *, oracle: bool = False) -> tuple[IsolatedError, ...] | None:
        """The error that every part of it adds; None where nothing official can run beside it, or its parts differ."""
        if self.evidence.golden is not None or self.tier != "exact":
            return None
        with self.evidence.running():
            return added_alone(self.weights, self.case, oracle=oracle, device=self.evidence.device, copies=True)


def open_case(weights: Weights, evidence: CaseEvidence, say: Say, tier: Tier = "exact") -> CaseUnderTest:
    """Make the reference run, and the floors of a case without limits of its own, for candidates of a tier.

    Raises: RegistryError for a native run that cannot stand for the official one, or a floor that cannot be compared.
    """
    case, golden = evidence.case, evidence.golden
    official = golden is None
    registry = evidence.registry
    with evidence.running():
        device = evidence.device
        reference = sketched_run(weights, case, "official" if official else "native", device=device)
        if golden is not None and not evidence.changed:
            _require_that_native_stands_for(golden, reference, evidence)
        if not evidence.own:
            in_fp32 = case.quantization is None  # weights kept as e4m3 have no float32 run
            harmless = variations(FLOOR_DRAWS, case.reference, device=device, oracle=in_fp32)
            beside = official and tier == "exact"  # else no part is tried alone, and needs no floor
            floor = measure_floor(weights, case, reference, harmless, say, official=beside, device=device)
            registry = widened(registry, evidence.limits_of, floor, evidence.limits_on)
    judge = Judge(
        limits_of=evidence.limits_of,
        registry=registry,
        environment=evidence.environment,
        compared_on=subset_phrase(evidence.subset),
    )
    return CaseUnderTest(evidence=evidence, weights=weights, reference=reference, judge=judge, tier=tier)


def here(weights: Weights, device: torch.device = CPU) -> dict[str, str]:
    """This process and machine, and the weights, as limits name them."""
    return {**{key: str(value) for key, value in fingerprint(device).items()}, "weights_sha256": weights.hash}


def _require_that_native_stands_for(golden: Run, reference: SketchedRun, evidence: CaseEvidence) -> None:
    plain = compare_with_golden(golden, reference)
    if same_bits(plain):
        return
    then = golden.manifest.environment
    elsewhere = any(str(then.get(key)) != evidence.environment.get(key) for key in MACHINE_OF_BITS)
    if elsewhere and evidence.own:
        found = Comparison(
            case=evidence.limits_of,
            metrics=plain.metrics,
            findings=plain.findings,
            environment_of_candidate=evidence.environment,
            compared_on=subset_phrase(evidence.subset),
        )
        if judge(found, "limits", evidence.registry).exit_code == 0:
            return
    raise RegistryError(
        f"The native run of {evidence.case.id!r} is not the recorded official one bit for bit, so defects in it would "
        "be measured together with what is wrong already. Mend it first; `parity diff` shows where."
    )
