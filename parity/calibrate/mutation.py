"""The trials of a mutation score: every known defect put into the native model, and what of the gate notices.

Every judgement is the gate's own (`parity.calibrate.mutation_evidence`). Harmless runs, other draws and other
combinations of rewrites than those that the limits came from, must raise no alarm. A defect that no level notices is a
survivor, unless the oracle shows that it is none: an equivalent defect takes the model no farther from float32 than the
reference itself is. What they count up to is in `parity.calibrate.mutation_score`.

A faster tier is tried in the same way: it must pass as it is, and with each defect in it be stopped. It has fused
parts, which are not fed alone, and code of its own: defects in code that it does not run are named as unreached, those
that it refuses to run with as refused, and neither are counted.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Literal

import torch

from parity.calibrate.case_under_test import CaseEvidence, CaseUnderTest, grounds_of, here, open_case
from parity.calibrate.checkpoint import Checkpoint, Measured
from parity.calibrate.drift import CandidateDrift
from parity.calibrate.harmless import noise_one_ulp_off, oracle_at, variations
from parity.calibrate.mutation_evidence import Evidence
from parity.calibrate.mutation_score import Alarm, MutationTrial, Score
from parity.calibrate.rewrites import ALL_AT_ONCE, pairs, rewritten
from parity.defects.defect import Defect, Reach, present, require_reached
from parity.defects.variant import AS_IS, KEYFRAME_PICTURE, SOFT_PICTURE, V2A_OFF, VIDEO_SKIPS, Variant
from parity.explain.oracle import CLEAR, Arbitration
from parity.isolate.error import IsolatedError, error_of
from parity.judge.registry import Registry
from parity.runs.folder import RunOutputs
from parity.runs.in_memory import CPU, run_in_memory
from runners.case import Case
from runners.errors import ParityError, RegistryError
from runners.protocol import Tier
from runners.weights import Weights

ALARM_DRAWS: Final = range(100, 103)  # of harmless runs that must pass; drawn for nothing else
CHANGES: Final = (V2A_OFF, SOFT_PICTURE, KEYFRAME_PICTURE, VIDEO_SKIPS)
OUTPUTS: Final = ("video_latent", "audio_latent", "video_frames", "audio_waveform")
MACHINE: Final = (  # what of the environment a score says
    *(
        "device",
        "device_name",
        "driver",
        "cpu",
        "cpu_capability",
        "cores",
        "threads",
        "torch",
        "transformers",
        "ltx-core",
    ),
    *("source_hash", "weights_sha256"),
)
Say = Callable[[str], None]


class Trial(Measured, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The result of one defect or harmless run, as a checkpoint keeps it."""

    outcome: Literal["tried", "unreached", "refused", "without_reference", "without_limits"] = "tried"
    evidence: Evidence | None = None  # of one that was tried
    located: bool = False
    equivalent: bool = False

    @property
    def seen(self) -> Evidence:
        """The evidence of one that was tried. Raises: RegistryError for a kept file that leaves it out."""
        if self.evidence is None:
            raise RegistryError("A kept trial says 'tried' and has no evidence; give another --samples file.")
        return self.evidence


@dataclass(kw_only=True)
class MutationCheckpoint(Checkpoint[Trial]):
    """The checkpoint of one score; without arguments it keeps nothing."""

    form: type[Trial] = Trial
    made_by: str = "parity mutate"


class MutationRun:
    """Runs candidates of one case, its variants and committed cases; each reference and its floors are made once."""

    def __init__(
        self,
        weights: Weights,
        case: Case,
        registry: Registry,
        say: Say,
        device: torch.device = CPU,
        tier: Tier = "exact",
        *,
        made_for: bool = False,
        checkpoint: MutationCheckpoint,
    ) -> None:
        """Nothing is run yet. `made_for`: defects were made for this very case, and none for small changes of it."""
        self._made_for, self._checkpoint = made_for, checkpoint
        self._weights, self._case, self._registry, self._say = weights, case, registry, say
        self._device, self._tier = device, tier
        # Ids of defects in code that the tier does not run, of those that it refuses to run with, and of those whose
        # case cannot be judged here (`_left_out`).
        self.left_out: dict[str, list[str]] = {
            why: [] for why in ("unreached", "refused", "without_reference", "without_limits")
        }
        self._cases: dict[Case, CaseUnderTest] = {}  # by the case that a variant makes, for some make the same
        self._oracles: dict[Case, RunOutputs] = {}
        self._plain: dict[Case, CandidateDrift] = {}  # of the tier as it is
        self.environment = here(weights, device)

    def require_evidence(self, catalogue: Iterable[Defect]) -> None:
        """Refuse before anything is run what could not be judged. Raises: RegistryError, RunError, CaseError."""
        for variant in (AS_IS, *_committed(catalogue)):
            self._evidence(variant)

    def defects(self, catalogue: Iterable[Defect]) -> Iterator[MutationTrial]:
        """Try every defect. Raises: RunnerError for one whose code is never reached, in the exact tier."""
        for defect in catalogue:
            kept = self._checkpoint.take(defect.id, partial(self._trial, defect))
            if kept.outcome == "tried":
                yield MutationTrial(defect=defect, evidence=kept.seen, located=kept.located, equivalent=kept.equivalent)
            else:
                self.left_out[kept.outcome].append(defect.id)

    def _trial(self, defect: Defect) -> Trial:
        if (why := self._left_out(defect.variant)) is not None:
            return Trial(outcome=why)
        self._say(f"defect {defect.id}")
        under_test = self._under_test(defect.variant)
        reach = Reach()
        try:
            with defect.apply(reach):
                drifted = under_test.free_run()
        except (torch.OutOfMemoryError, torch.AcceleratorError):  # nothing that runs after these says anything
            raise
        except (ParityError, RuntimeError):
            if self._tier == "exact":
                raise
            return Trial(outcome="refused")
        if self._tier != "exact" and (not reach.hits or drifted.metrics == self._as_it_is(under_test).metrics):
            return Trial(outcome="unreached")  # hooks on modules whose forward does not run move no number
        require_reached(defect, reach)
        evidence = under_test.judge.examine(drifted, self._added(defect, under_test))
        return Trial(
            evidence=evidence,
            located=evidence.killed and evidence.located(defect.places, defect.first_taps),
            equivalent=not evidence.killed and self._no_worse(defect),
        )

    def harmless(self, catalogue: Iterable[Defect], share: tuple[int, int] = (1, 1)) -> Iterator[Alarm]:
        """Run what must pass: fresh draws, pairs of rewrites, and all rewrites at once on each case of a defect.

        Of a faster tier, which is a rewrite itself: fresh draws, and it as it is on each case of a defect. `share` is
        as `mutate` has it.
        """
        for run in itertools.islice(self._harmless_runs(catalogue), share[0] - 1, None, share[1]):
            yield run()

    def _harmless_runs(self, catalogue: Iterable[Defect]) -> Iterator[Callable[[], Alarm]]:
        run = partial(partial, self._free_run)
        for one in variations(ALARM_DRAWS, self._case.reference, device=self._device):
            yield run(one.id, AS_IS, one.apply, one.dtype, variables=one.variables)
        changes = () if self._made_for else CHANGES
        used = {defect.variant.name for defect in catalogue}
        committed = (variant for variant in _committed(catalogue) if self._left_out(variant) is None)
        every = (AS_IS, *(change for change in changes if change.name in used), *committed)
        if self._tier != "exact":
            yield from (run(self._tier, variant, nullcontext) for variant in every)
            return
        for pair in pairs():
            yield run(pair.id, AS_IS, partial(rewritten, pair), isolated=True)
        for seed in ALARM_DRAWS:
            yield run(f"{ALL_AT_ONCE.id}+noise_ulp_{seed}", AS_IS, partial(_rewritten_and_moved, seed))
        for variant in every:
            yield run(ALL_AT_ONCE.id, variant, partial(rewritten, ALL_AT_ONCE), isolated=True)

    def _free_run(
        self,
        name: str,
        variant: Variant,
        apply: Callable[[], AbstractContextManager[Any]],
        dtype: torch.dtype = torch.bfloat16,
        isolated: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> Alarm:
        def trial() -> Trial:
            self._say(f"harmless {name}, {variant.name}")
            under_test = self._under_test(variant)
            with apply():
                drifted = under_test.free_run(dtype, variables=variables)
                rows = under_test.parts_alone() if isolated else None
            return Trial(evidence=under_test.judge.examine(drifted, rows))

        kept = self._checkpoint.take(f"harmless {name}, {variant.name}", trial)
        return Alarm(id=name, case=variant.name, evidence=kept.seen)

    def _added(
        self, defect: Defect, under_test: CaseUnderTest, *, oracle: bool = False
    ) -> tuple[IsolatedError, ...] | None:
        """The error that every part adds with a defect in it; None if parts cannot be tried alone."""
        if not defect.alone:
            return None
        with present(defect, must_reach=False):
            return under_test.parts_alone(oracle=oracle)

    def _evidence(self, variant: Variant) -> CaseEvidence:
        return grounds_of(variant.change(self._case), self._case, self._registry, self.environment)

    def _left_out(self, variant: Variant) -> Literal["without_reference", "without_limits"] | None:
        """The reason for which a case cannot be judged here; None if it can.

        Without reference: it is of another release, and its golden, which alone could stand for official code, is of
        other weights. Without limits: it is of another pipeline and has no limits of its own on this device; those of
        the case at hand know nothing of its stages.
        """
        evidence = self._evidence(variant)
        used = self._weights.of_pipeline(evidence.case.pipeline)
        if evidence.golden is not None and evidence.golden.manifest.weights_hash != used.hash:
            return "without_reference"
        if not evidence.own and evidence.case.pipeline != self._case.pipeline:
            return "without_limits"
        return None

    def _under_test(self, variant: Variant) -> CaseUnderTest:
        case = variant.change(self._case)
        if case not in self._cases:
            self._say(f"reference run, and floors where there are none: {variant.name}")
            self._cases[case] = open_case(self._weights, self._evidence(variant), self._say, self._tier)
        return self._cases[case]

    def _as_it_is(self, under_test: CaseUnderTest) -> CandidateDrift:
        """A free run of the tier with nothing wrong in it."""
        if under_test.case not in self._plain:
            self._plain[under_test.case] = under_test.free_run()
        return self._plain[under_test.case]

    def _no_worse(self, defect: Defect) -> bool:
        """True if outputs and single branches lie about as near to float32 as those of the reference."""
        under_test = self._under_test(defect.variant)
        case, reference = under_test.case, under_test.reference
        if case.quantization is not None:  # there is no float32 run to be near to
            return False
        if case not in self._oracles:
            oracle_run = oracle_at(case.reference)
            with oracle_run.apply():
                self._oracles[case] = run_in_memory("native", self._weights, case, oracle_run.dtype, self._device)
        oracle = self._oracles[case]
        with present(defect):
            candidate = run_in_memory("native", self._weights, case, device=self._device, tier=self._tier)
        found = [
            _arbitrated(getattr(oracle, name), getattr(reference.outputs, name), getattr(candidate, name))
            for name in OUTPUTS
        ]
        rows = self._added(defect, under_test, oracle=True) or ()
        found += [row.oracle for row in rows if row.oracle is not None and row.error > 0]
        return all(one.ratio <= CLEAR for one in found)


def _committed(catalogue: Iterable[Defect]) -> tuple[Variant, ...]:
    """The committed cases that defects name, each once, in the order of the catalogue."""
    return tuple({defect.variant.name: defect.variant for defect in catalogue if defect.variant.committed}.values())


def _arbitrated(oracle: torch.Tensor, official: torch.Tensor, candidate: torch.Tensor) -> Arbitration:
    return Arbitration(candidate=error_of(oracle, candidate), official=error_of(oracle, official))


@contextmanager
def _rewritten_and_moved(seed: int) -> Iterator[None]:
    with rewritten(ALL_AT_ONCE), noise_one_ulp_off(seed):
        yield


def _made_for(case: Case, defect: Defect) -> bool:
    """True if a defect names this committed case, of whichever release: its own limits judge, not those of 1.0.0's."""
    return defect.variant.committed and defect.variant.fits(case)


def mutate(
    weights: Weights,
    case: Case,
    registry: Registry,
    catalogue: Sequence[Defect],
    say: Say,
    *,
    device: torch.device = CPU,
    tier: Tier = "exact",
    share: tuple[int, int] = (1, 1),
    checkpoint: MutationCheckpoint | None = None,
) -> Score:
    """Try every defect and every harmless run on a case.

    Args:
        weights: the model's files; on a GPU, a model that it holds twice.
        case: the case at hand; `parity.calibrate.case_under_test` says which limits hold for it, its variants and other
            cases.
        registry: limits.
        catalogue: the defects.
        say: told what is run.
        device: where everything runs; its limits judge.
        tier: of native, which the defects are put into.
        share: (k, n) tries the k-th of n shares of the defects and of the harmless runs, so that each ends in time.
        checkpoint: keeps each as soon as it is tried, and ends in time.
    Raises: OutOfTimeError where the checkpoint says so, RunnerError for a defect that is never reached in the exact
        tier, RegistryError for a case without limits that hold here, RunError for one of a release that cannot run here
        and without a golden.
    """
    first, shares = share[0] - 1, share[1]
    made_for = any(_made_for(case, defect) for defect in catalogue)
    catalogue = [replace(defect, variant=AS_IS) if _made_for(case, defect) else defect for defect in catalogue]
    checkpoint = checkpoint or MutationCheckpoint()
    mutation = MutationRun(weights, case, registry, say, device, tier, made_for=made_for, checkpoint=checkpoint)
    mutation.require_evidence(catalogue)
    return Score(
        limits_of=case.id,
        date=datetime.now(UTC).date().isoformat(),
        environment={name: mutation.environment[name] for name in MACHINE if name in mutation.environment},
        trials=tuple(mutation.defects(catalogue[first::shares])),
        harmless=tuple(mutation.harmless(catalogue, share)),
        tier=tier,
        **{why: tuple(ids) for why, ids in mutation.left_out.items()},
        share=share,
    )
