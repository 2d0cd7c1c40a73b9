"""The mutation score: every known defect put into the native model, and what of the gate notices.

Bit equality notices everything, so the score that counts is the one under limits: what a candidate with other bits
(another engine, a faster tier) is judged by. A candidate that offers no internals is judged by its outputs alone, which
is weaker; that score stands beside it. Harmless runs, drawn apart from those that the limits came from, must raise no
alarm. A defect that no level notices is a survivor, unless the oracle shows that it is none: an equivalent defect takes
the model no farther from float32 than the reference itself is.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch

from parity.diff.oracle import CLEAR, Arbitration
from parity.judge.registry import Registry
from parity.trace.bundle import Outputs
from parity.trace.environment import fingerprint
from parity.trial.added_error import Added, error_of
from parity.trial.alone import added_alone, stages_of
from parity.trial.benign import ORACLE, variations
from parity.trial.calibrate import compare_in_dtype
from parity.trial.defect import Defect, present
from parity.trial.drift import Drifted, Recorded, drift, record
from parity.trial.evidence import Bench, Evidence
from parity.trial.execute import execute
from parity.trial.isolated_floor import measure_isolated_floor
from parity.trial.rewrites import ALL_AT_ONCE, REWRITES, rewritten
from parity.trial.variant import AS_IS, KEYFRAME_PICTURE, SOFT_PICTURE, V2A_OFF, VIDEO_SKIPS, Variant
from parity.trial.variant_limits import widened
from runners.case import Case
from runners.clock import STAGES
from runners.weights import WeightsFolder, num_blocks

FLOOR_DRAWS: Final = range(50, 52)  # for the drift of taps, and for variants of the case
ALARM_DRAWS: Final = range(100, 103)  # of harmless runs that must pass; drawn for nothing else
MAX_EQUIVALENT: Final = 3
MIN_LOCATED: Final = 0.95  # of the killed ones
OUTPUTS: Final = ("video_latent", "audio_latent", "video_frames", "audio_waveform")
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
            "drift of taps": sum(bool(one.departs_at) for one in seen),
            "isolated parts": sum(bool(one.adds_at) for one in seen),
            "under limits": len(self.killed),
        }

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
            "limits_of": self.limits_of,
            "good": self.good,
            "defects": len(self.counted),
            "killed": len(self.killed),
            "located": sum(trial.located for trial in self.killed),
            "killed_by_outputs": sum(trial.evidence.by_outputs for trial in self.counted),
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
        """Measure what is harmless in single parts. Raises: ParityError of the kind that fits what is wrong."""
        self._weights, self._case, self._registry, self._say = weights, case, registry, say
        self._stations: dict[Case, Station] = {}  # by the case that a variant makes, for some make the same
        self._oracles: dict[Case, Outputs] = {}
        environment = {key: str(value) for key, value in fingerprint(torch.device("cpu")).items()}
        self._environment = {**environment, "weights_sha256": weights.hash}
        cases = [variant.change(case) for variant in (AS_IS, KEYFRAME_PICTURE)]  # another number of tokens
        self._isolated_floor = measure_isolated_floor(weights, cases, say)

    def defects(self, catalogue: Iterable[Defect]) -> Iterator[Trial]:
        """Try every defect. Raises: RunnerError for one whose code is never reached."""
        for defect in catalogue:
            self._say(f"defect {defect.id}")
            station = self._station(defect.variant)
            with present(defect):
                drifted = drift(self._weights, station.case, station.reference)
            rows = self._added(defect, station.case, drifted)
            evidence = station.bench.examine(station.case, station.reference, drifted, rows)
            yield Trial(
                defect=defect,
                evidence=evidence,
                located=evidence.killed and evidence.located(defect.places, defect.first_taps),
                equivalent=not evidence.killed and self._no_worse(defect, drifted),
            )

    def harmless(self) -> Iterator[Alarm]:
        """Run what must pass: fresh draws, rewrites one by one, and all rewrites at once on every variant."""
        for variation in variations(ALARM_DRAWS):
            yield self._free_run(variation.id, AS_IS, variation.apply, variation.dtype)
        for rewrite in REWRITES:
            yield self._free_run(rewrite.id, AS_IS, partial(rewritten, rewrite))
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
    ) -> Alarm:
        self._say(f"harmless {name}, {variant.name}")
        station = self._station(variant)
        with apply():
            drifted = drift(self._weights, station.case, station.reference, dtype)
            rows = added_alone(self._weights, station.case, STAGES) if isolated else ()
        evidence = station.bench.examine(station.case, station.reference, drifted, rows)
        return Alarm(id=name, case=variant.name, evidence=evidence)

    def _added(self, defect: Defect, case: Case, drifted: Drifted, *, oracle: bool = False) -> tuple[Added, ...]:
        """What the stage in which a free run departs adds with a defect in it; nothing if it cannot be tried alone."""
        if not defect.alone or drifted.first_difference is None:
            return ()
        with present(defect, must_reach=False):
            return added_alone(self._weights, case, stages_of(drifted.first_difference), oracle=oracle)

    def _station(self, variant: Variant) -> Station:
        case = variant.change(self._case)
        if case not in self._stations:
            self._say(f"official run and floors: {variant.name}")
            self._stations[case] = self._opened(case)
        return self._stations[case]

    def _opened(self, case: Case) -> Station:
        reference = record(self._weights, case)
        drift_floors: dict[str, float] = {}
        output_floors: dict[str, dict[str, float]] = {}
        for variation in variations(FLOOR_DRAWS):
            with variation.apply():
                found = drift(self._weights, case, reference, variation.dtype)
            for tap, error in found.errors.items():
                drift_floors[tap] = max(drift_floors.get(tap, 0.0), error)
            output_floors[variation.id] = dict(compare_in_dtype(reference.outputs, found.outputs).metrics)
        registry = self._registry
        if case != self._case:
            registry = widened(registry, self._case.id, output_floors)
        bench = Bench(
            limits_of=self._case.id,
            registry=registry,
            environment=self._environment,
            drift_floors=drift_floors,
            isolated_floor=self._isolated_floor,
            num_blocks=num_blocks(self._weights),
        )
        return Station(case=case, reference=reference, bench=bench)

    def _no_worse(self, defect: Defect, drifted: Drifted) -> bool:
        """Whether outputs and single branches lie about as near to float32 as those of the reference."""
        station = self._station(defect.variant)
        case, reference = station.case, station.reference
        if case not in self._oracles:
            with ORACLE.apply():
                self._oracles[case] = execute("native", self._weights, case, ORACLE.dtype)
        oracle = self._oracles[case]
        found = [
            _arbitrated(getattr(oracle, name), getattr(reference.outputs, name), getattr(drifted.outputs, name))
            for name in OUTPUTS
        ]
        rows = self._added(defect, case, drifted, oracle=True)
        found += [row.oracle for row in rows if row.oracle is not None and row.error > 0]
        return all(one.ratio <= CLEAR for one in found)


def _arbitrated(oracle: torch.Tensor, official: torch.Tensor, candidate: torch.Tensor) -> Arbitration:
    return Arbitration(candidate=error_of(oracle, candidate), official=error_of(oracle, official))


def mutate(weights: WeightsFolder, case: Case, registry: Registry, catalogue: Sequence[Defect], say: Say) -> Score:
    """Try every defect and every harmless run on a case.

    Args:
        weights: the model's files.
        case: the case whose limits hold; for variants of it they are widened to what is harmless there.
        registry: limits.
        catalogue: the defects.
        say: told what is run.
    Raises: RunnerError for a defect that is never reached, RegistryError for a case without limits.
    """
    gauntlet = Gauntlet(weights, case, registry, say)
    return Score(
        limits_of=case.id,
        trials=tuple(gauntlet.defects(catalogue)),
        harmless=tuple(gauntlet.harmless()),
    )
