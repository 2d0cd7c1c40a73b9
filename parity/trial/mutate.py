"""The mutation score: every known defect put into the native model, and what of the gate notices.

Bit equality notices everything, so the score that counts is the one under limits: what a candidate with other bits
(another engine, a faster tier) is judged by. A candidate that offers no internals is judged by its outputs alone, which
is weaker; that score stands beside it. Every judgement is the gate's own (`parity.trial.evidence`). Harmless runs,
other draws and other combinations of rewrites than those that the limits came from, must raise no alarm. A defect that
no level notices is a survivor, unless the oracle shows that it is none: an equivalent defect takes the model no farther
from float32 than the reference itself is.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import torch

from parity.diff.levels import LEVELS
from parity.diff.oracle import CLEAR, Arbitration
from parity.judge.registry import Registry
from parity.judge.strength import KIND, key
from parity.trace.bundle import Outputs
from parity.trace.environment import fingerprint
from parity.trial.added_error import Added, error_of
from parity.trial.alone import added_alone
from parity.trial.benign import ORACLE, noise_one_ulp_off, variations
from parity.trial.calibrate import measure_floor
from parity.trial.defect import Defect, present, together
from parity.trial.drift import Recorded, drift, record
from parity.trial.evidence import Bench, Evidence
from parity.trial.execute import execute
from parity.trial.rewrites import ALL_AT_ONCE, REWRITES, Rewrite, rewritten
from parity.trial.variant import AS_IS, KEYFRAME_PICTURE, SOFT_PICTURE, V2A_OFF, VIDEO_SKIPS, Variant
from parity.trial.variant_limits import widened
from runners.case import Case
from runners.errors import RegistryError
from runners.weights import WeightsFolder

FLOOR_DRAWS: Final = range(50, 52)  # for variants of the case
ALARM_DRAWS: Final = range(100, 103)  # of harmless runs that must pass; drawn for nothing else
MAX_EQUIVALENT: Final = 3
MIN_LOCATED: Final = 0.95  # of the killed ones
OUTPUTS: Final = ("video_latent", "audio_latent", "video_frames", "audio_waveform")
MACHINE: Final = (  # what of the environment a score says
    *("device", "device_name", "cpu", "cpu_capability", "cores", "threads", "torch", "transformers", "ltx-core"),
    *("source_hash", "weights_sha256"),
)
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One defect and what came of it."""

    defect: Defect
    evidence: Evidence
    located: bool
    equivalent: bool  # not killed, and the oracle says that it is no farther off than the reference

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "id": self.defect.id,
            "component": self.defect.component,
            "description": self.defect.description,
            "case": self.defect.variant.name,
            "located": self.located,
            "equivalent": self.equivalent,
            **self.evidence.document(),
        }


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """One harmless run and what the gate said."""

    id: str
    case: str  # name of the variant
    evidence: Evidence


@dataclass(frozen=True, kw_only=True)
class Score:
    """What came of all of them."""

    limits_of: str
    date: str  # YYYY-MM-DD
    environment: dict[str, str]
    trials: tuple[Trial, ...]
    harmless: tuple[Alarm, ...]

    @property
    def counted(self) -> tuple[Trial, ...]:
        """Trials of defects that are not equivalent."""
        return tuple(trial for trial in self.trials if not trial.equivalent)

    @property
    def killed(self) -> tuple[Trial, ...]:
        """Trials of defects that were noticed."""
        return tuple(trial for trial in self.counted if trial.evidence.killed)

    @property
    def false_alarms(self) -> tuple[Alarm, ...]:
        """Harmless runs that were taken for defects."""
        return tuple(alarm for alarm in self.harmless if alarm.evidence.killed)

    @property
    def good(self) -> bool:
        """Everything killed, nearly everything located, no false alarm, few equivalents."""
        located = sum(trial.located for trial in self.killed)
        return (
            len(self.killed) == len(self.counted)
            and located >= MIN_LOCATED * len(self.killed)
            and not self.false_alarms
            and len(self.trials) - len(self.counted) <= MAX_EQUIVALENT
        )

    def kills_by_level(self) -> dict[str, int]:
        """How many defects each level notices by itself."""
        seen = [trial.evidence for trial in self.counted]
        return {
            "bits": sum(one.bits_differ for one in seen),
            "outputs": sum(one.by_outputs for one in seen),
            "drift of taps": sum(one.by_level("drift") for one in seen),
            "isolated errors": sum(one.by_level("isolated") for one in seen),
            "under limits": len(self.killed),
        }

    def kills_by_levels(self) -> dict[str, int]:
        """How many defects the gate stops on each set of levels, from outputs alone to all."""
        sets = [key(LEVELS[:count]) for count in (1, 2, 3)]
        return {levels: sum(trial.evidence.killed_by[levels] for trial in self.counted) for levels in sets}

    def alarms_by_levels(self) -> dict[str, int]:
        """How many harmless runs the gate stops on each set of levels."""
        sets = [key(LEVELS[:count]) for count in (1, 2, 3)]
        return {levels: sum(alarm.evidence.killed_by[levels] for alarm in self.harmless) for levels in sets}

    def kills_by_metric(self) -> dict[str, int]:
        """How many defects each output metric notices by itself, the sharpest first."""
        counts: dict[str, int] = {}
        for trial in self.counted:
            for metric in (*trial.evidence.metrics, *trial.evidence.findings):
                counts[metric] = counts.get(metric, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "schema_version": 1,
            "kind": KIND,
            "limits_of": self.limits_of,
            "date": self.date,
            "environment": self.environment,
            "good": self.good,
            "defects": len(self.counted),
            "killed": len(self.killed),
            "located": sum(trial.located for trial in self.killed),
            "killed_by_outputs": sum(trial.evidence.by_outputs for trial in self.counted),
            "killed_by_levels": self.kills_by_levels(),
            "false_alarms_by_levels": self.alarms_by_levels(),
            "equivalents": [trial.defect.id for trial in self.trials if trial.equivalent],
            "benign_runs": len(self.harmless),
            "false_alarms": len(self.false_alarms),
            "kills_by_level": self.kills_by_level(),
            "kills_by_metric": self.kills_by_metric(),
            "rows": [trial.document() for trial in self.trials],
            "benign_rows": [
                {"id": alarm.id, "case": alarm.case, **alarm.evidence.document()} for alarm in self.harmless
            ],
        }


@dataclass(frozen=True, kw_only=True)
class Station:
    """A variant of the case, with its official run and what candidates of it are judged by."""

    case: Case
    reference: Recorded
    bench: Bench


class Gauntlet:
    """Runs candidates of one case and its variants; the official run and the floors of each are made once."""

    def __init__(self, weights: WeightsFolder, case: Case, registry: Registry, say: Say) -> None:
        """Nothing is run yet."""
        self._weights, self._case, self._registry, self._say = weights, case, registry, say
        self._stations: dict[Case, Station] = {}  # by the case that a variant makes, for some make the same
        self._oracles: dict[Case, Outputs] = {}
        environment = {key: str(value) for key, value in fingerprint(torch.device("cpu")).items()}
        self.environment = {**environment, "weights_sha256": weights.hash}

    def defects(self, catalogue: Iterable[Defect]) -> Iterator[Trial]:
        """Try every defect. Raises: RunnerError for one whose code is never reached."""
        for defect in catalogue:
            self._say(f"defect {defect.id}")
            station = self._station(defect.variant)
            with present(defect):
                drifted = drift(self._weights, station.case, station.reference)
            evidence = station.bench.examine(drifted, self._added(defect, station.case))
            yield Trial(
                defect=defect,
                evidence=evidence,
                located=evidence.killed and evidence.located(defect.places, defect.first_taps),
                equivalent=not evidence.killed and self._no_worse(defect),
            )

    def harmless(self) -> Iterator[Alarm]:
        """Run what must pass: fresh draws, pairs of rewrites, and all rewrites at once on every variant."""
        for variation in variations(ALARM_DRAWS):
            yield self._free_run(variation.id, AS_IS, variation.apply, variation.dtype, variables=variation.variables)
        for one, other in itertools.combinations(REWRITES, 2):
            pair = Rewrite(
                id=f"{one.id}+{other.id}",
                description=f"{one.description}; {other.description}",
                apply=together(one.apply, other.apply),
            )
            yield self._free_run(pair.id, AS_IS, partial(rewritten, pair), isolated=True)
        for seed in ALARM_DRAWS:
            yield self._free_run(f"{ALL_AT_ONCE.id}+noise_ulp_{seed}", AS_IS, partial(_rewritten_and_moved, seed))
        for variant in (AS_IS, V2A_OFF, SOFT_PICTURE, KEYFRAME_PICTURE, VIDEO_SKIPS):
            apply = partial(rewritten, ALL_AT_ONCE)
            yield self._free_run(ALL_AT_ONCE.id, variant, apply, isolated=True)

    def _free_run(
        self,
        name: str,
        variant: Variant,
        apply: Callable[[], AbstractContextManager[Any]],
        dtype: torch.dtype = torch.bfloat16,
        isolated: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> Alarm:
        self._say(f"harmless {name}, {variant.name}")
        station = self._station(variant)
        with apply():
            drifted = drift(self._weights, station.case, station.reference, dtype, variables=variables)
            rows = added_alone(self._weights, station.case) if isolated else None
        return Alarm(id=name, case=variant.name, evidence=station.bench.examine(drifted, rows))

    def _added(self, defect: Defect, case: Case, *, oracle: bool = False) -> tuple[Added, ...] | None:
        """What every part adds with a defect in it; None if parts cannot be tried alone."""
        if not defect.alone:
            return None
        with present(defect, must_reach=False):
            return added_alone(self._weights, case, oracle=oracle)

    def _station(self, variant: Variant) -> Station:
        case = variant.change(self._case)
        if case not in self._stations:
            self._say(f"official run and floors: {variant.name}")
            self._stations[case] = self._opened(case)
        return self._stations[case]

    def _opened(self, case: Case) -> Station:
        reference = record(self._weights, case)
        registry = self._registry
        if case != self._case:
            floor = measure_floor(self._weights, case, reference, variations(FLOOR_DRAWS), self._say)
            registry = widened(registry, self._case.id, floor)
        bench = Bench(limits_of=self._case.id, registry=registry, environment=self.environment)
        return Station(case=case, reference=reference, bench=bench)

    def _no_worse(self, defect: Defect) -> bool:
        """Whether outputs and single branches lie about as near to float32 as those of the reference."""
        station = self._station(defect.variant)
        case, reference = station.case, station.reference
        if case not in self._oracles:
            with ORACLE.apply():
                self._oracles[case] = execute("native", self._weights, case, ORACLE.dtype)
        oracle = self._oracles[case]
        with present(defect):
            candidate = execute("native", self._weights, case)
        found = [
            _arbitrated(getattr(oracle, name), getattr(reference.outputs, name), getattr(candidate, name))
            for name in OUTPUTS
        ]
        rows = self._added(defect, case, oracle=True) or ()
        found += [row.oracle for row in rows if row.oracle is not None and row.error > 0]
        return all(one.ratio <= CLEAR for one in found)


def _arbitrated(oracle: torch.Tensor, official: torch.Tensor, candidate: torch.Tensor) -> Arbitration:
    return Arbitration(candidate=error_of(oracle, candidate), official=error_of(oracle, official))


@contextmanager
def _rewritten_and_moved(seed: int) -> Iterator[None]:
    with rewritten(ALL_AT_ONCE), noise_one_ulp_off(seed):
        yield


def mutate(weights: WeightsFolder, case: Case, registry: Registry, catalogue: Sequence[Defect], say: Say) -> Score:
    """Try every defect and every harmless run on a case.

    Args:
        weights: the model's files.
        case: the case whose limits hold; for variants of it they are widened to what is harmless there.
        registry: limits.
        catalogue: the defects.
        say: told what is run.
    Raises: RunnerError for a defect that is never reached, RegistryError for a case without limits that hold here.
    """
    gauntlet = Gauntlet(weights, case, registry, say)
    _require_limits_that_hold(registry, case.id, gauntlet.environment)
    return Score(
        limits_of=case.id,
        date=datetime.now(UTC).date().isoformat(),
        environment={name: gauntlet.environment[name] for name in MACHINE if name in gauntlet.environment},
        trials=tuple(gauntlet.defects(catalogue)),
        harmless=tuple(gauntlet.harmless()),
    )


def _require_limits_that_hold(registry: Registry, case: str, environment: Mapping[str, str]) -> None:
    """Refuse limits that decide nothing here: what the gate could not judge would count as caught."""
    limits = registry.limits_of(case)
    named = {limit.calibration for limit in limits.values() if limit.calibration is not None}
    changes = {
        change
        for one in (registry.calibrations[name] for name in named)
        for change in (*one.changed(environment), *one.changed_population(case, ""))  # everything is compared here
    }
    changes |= {
        change
        for metric, limit in limits.items()
        if limit.calibration is not None
        for change in registry.calibrations[limit.calibration].changed_text(metric, padded_text=False)
    }
    if changes:
        raise RegistryError(
            f"The limits of case {case!r} decide nothing here ({'; '.join(sorted(changes))}), and what cannot be "
            "judged is not caught; give the --threads that they were measured with, or measure them here: "
            "`parity calibrate`."
        )
