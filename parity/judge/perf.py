"""Speed: baselines in `thresholds/perf_baselines.json`, and whether a run is slower than its baseline.

Timings mean something only against the same machine, so a baseline names its device and driver, and another machine is
"not_comparable", never a pass. The test is one-sided: faster is fine. A quantity is "slower" if the median of the runs
exceeds the baseline's median both by more than the percentage and by more than the absolute tolerance, and, where both
sides have at least `MIN_INTERVAL_SAMPLES` runs, the confidence interval of the difference lies above zero; if only the
medians say so, it is "inconclusive". Whole runs are resampled: the steps inside one run are not independent.
"""

import datetime
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from parity.judge.document import load_document
from parity.trace.atomic import plain, write_json_atomic
from runners.errors import RegistryError
from runners.strict import Strict

SCHEMA_VERSION: Final = 1
MIN_INTERVAL_SAMPLES: Final = 3
CONFIDENCE: Final = 0.95  # two-sided, so that a wrong "slower" has a chance of 2.5 %
RESAMPLES: Final = 4000
UNJUDGED: Final = {"stage.load": "reading weights measures the disk and its cache, not the model"}

QuantityOutcome = Literal["ok", "slower", "inconclusive", "missing", "unmatched", "unjudged"]
PerfOutcome = Literal["ok", "slower", "inconclusive", "not_comparable"]
PERF_EXIT_CODES: Final[dict[PerfOutcome, int]] = {"ok": 0, "slower": 1, "inconclusive": 2, "not_comparable": 2}


class Times(Strict, frozen=True, kw_only=True):
    """The times of one run. Stages and steps as `runners.clock` measures them."""

    end_to_end_s: float
    stage_s: dict[str, float]
    step_s: tuple[float, ...]
    peak_bytes: int

    def __post_init__(self) -> None:
        """Refuse times that no clock gives. Raises: RegistryError."""
        for value in (self.end_to_end_s, *self.stage_s.values(), *self.step_s):
            if not (math.isfinite(value) and value >= 0):
                raise RegistryError(f"A time is {value} s; wanted a finite number of at least 0.")
        if self.end_to_end_s == 0 or self.peak_bytes < 0:
            raise RegistryError(f"A run took {self.end_to_end_s} s and {self.peak_bytes} bytes; it was not measured.")

    def quantities(self) -> dict[str, float]:
        """The numbers that are judged, by name. The first step is apart: it carries warm-up and compilation."""
        named = {"end_to_end": self.end_to_end_s}
        named |= {f"stage.{name}": value for name, value in self.stage_s.items()}
        if self.step_s:
            named["step.first"] = self.step_s[0]
        if len(self.step_s) > 1:
            named["step.median_of_later"] = statistics.median(self.step_s[1:])
        return {**named, "peak_memory": float(self.peak_bytes)}


class Machine(Strict, frozen=True, kw_only=True):
    """The machine that times were taken on. torch may differ: an upgrade that slows down is what this should find."""

    device: str  # as the driver names it, or "cpu"
    driver: str  # version, "" on a CPU
    cpu: str
    threads: int
    torch: str

    def identity(self) -> dict[str, str]:
        """The key that must be equal for times to be comparable."""
        if self.driver:
            return {"device": self.device, "driver family": self.driver.split(".")[0]}
        return {"device": self.device, "cpu": self.cpu, "threads": str(self.threads)}


class TimeSubject(Strict, frozen=True, kw_only=True):
    """The subject of times. `work` names what else decides their amount, such as the weights' hash and the dtype."""

    case: str
    runner: str
    tier: str
    machine: Machine
    work: dict[str, str]

    def title(self) -> str:
        """Case, runner, tier and device in a few words."""
        return f"{self.case} / {self.runner} / {self.tier} on {self.machine.device}"

    def key(self) -> dict[str, str]:
        """Everything that must be equal for two timings to be comparable, by name."""
        return {"case": self.case, "runner": self.runner, "tier": self.tier, **self.machine.identity(), **self.work}


class Baseline(TimeSubject, frozen=True, kw_only=True):
    """The times of one case on one machine, every run kept; there is one baseline of each key."""

    runs: tuple[Times, ...]
    warmup_runs: int  # runs before these that were thrown away
    tolerance_percent: float = 5.0
    tolerance_abs_s: float = 0.05
    memory_tolerance_percent: float = 2.0
    memory_tolerance_bytes: int = 64 << 20
    date: str  # YYYY-MM-DD
    command: str
    code_version: str
    reason: str

    def __post_init__(self) -> None:
        """Refuse a baseline that holds nothing or that nothing could exceed. Raises: RegistryError."""
        try:
            datetime.date.fromisoformat(self.date)
        except ValueError:
            raise RegistryError(f"A baseline's date is YYYY-MM-DD; got {self.date!r}.") from None
        if not self.runs or not self.reason.strip():
            raise RegistryError(f"The baseline of {self.title()} needs at least one run and a reason.")
        first = self.runs[0].quantities().keys()
        if any(run.quantities().keys() != first or len(run.step_s) != len(self.runs[0].step_s) for run in self.runs):
            raise RegistryError(f"The runs of the baseline of {self.title()} have different stages or steps.")
        tolerances = (self.tolerance_percent, self.tolerance_abs_s, self.memory_tolerance_percent)
        if not all(math.isfinite(value) and value >= 0 for value in (*tolerances, self.memory_tolerance_bytes)):
            raise RegistryError(f"The baseline of {self.title()} has a tolerance that is negative or not finite.")

    def allowed(self, quantity: str) -> float:
        """The largest median that passes, in the quantity's unit: beyond both tolerances is too slow (or too large)."""
        middle = statistics.median(run.quantities()[quantity] for run in self.runs)
        if quantity == "peak_memory":
            return middle + max(middle * self.memory_tolerance_percent / 100, self.memory_tolerance_bytes)
        return middle + max(middle * self.tolerance_percent / 100, self.tolerance_abs_s)


class PerfRegistry(Strict, frozen=True, kw_only=True):
    """All baselines."""

    schema_version: Literal[1] = SCHEMA_VERSION
    baselines: tuple[Baseline, ...] = ()

    def __post_init__(self) -> None:
        """Refuse two baselines of the same thing. Raises: RegistryError."""
        keys = [baseline.key() for baseline in self.baselines]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise RegistryError(f"There are two baselines of {' / '.join(twice.values())}; keep one.")


class PerfRow(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity against its baseline; medians over runs."""

    quantity: str
    unit: Literal["s", "bytes"]
    baseline: float | None
    allowed: float | None
    value: float | None
    change_percent: float | None
    interval: tuple[float, float] | None  # of the difference of medians; None with too few runs
    outcome: QuantityOutcome
    reason: str


class PerfVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """True if a case became slower."""

    schema_version: Literal[1] = 1
    title: str
    outcome: PerfOutcome
    rows: tuple[PerfRow, ...]
    notes: tuple[str, ...]
    reason: str  # of the baseline, or why nothing is comparable

    @property
    def exit_code(self) -> int:
        """0 fast enough, 1 too slow, 2 could not judge."""
        return PERF_EXIT_CODES[self.outcome]

    def document(self) -> dict[str, Any]:
        """The verdict as JSON data."""
        document: dict[str, Any] = plain(msgspec.to_builtins(self))
        return {**document, "exit_code": self.exit_code}


def judge_perf(registry: PerfRegistry, timed: TimeSubject, runs: Sequence[Times]) -> PerfVerdict:
    """Compare runs of a case with its baseline on the same machine.

    Raises: RegistryError if no machine has a baseline of this case, runner and tier, or if there is no run.
    """
    title, key, of = timed.title(), timed.key(), (timed.case, timed.runner, timed.tier)
    known = [entry for entry in registry.baselines if (entry.case, entry.runner, entry.tier) == of]
    if not known or not runs:
        raise RegistryError(
            f"{'No run' if known else 'No baseline'} of {title} to compare; make a baseline of three "
            "runs of this machine: `parity perf RUN RUN RUN --update`."
        )
    baseline = next((entry for entry in known if entry.key() == key), None)
    if baseline is None:
        nearest = min((differences(entry.key(), key) for entry in known), key=len)
        return PerfVerdict(
            title=title,
            outcome="not_comparable",
            rows=(),
            notes=(),
            reason=f"the baselines are of other things ({', '.join(nearest)})",
        )
    counts = {len(run.step_s) for run in runs} | {len(baseline.runs[0].step_s)}
    if len(counts) > 1:
        why = f"the numbers of steps differ ({', '.join(map(str, sorted(counts)))})"
        return PerfVerdict(title=title, outcome="not_comparable", rows=(), notes=(), reason=why)
    names = dict.fromkeys(name for run in (*baseline.runs, *runs) for name in run.quantities())
    rows = tuple(_row(baseline, name, [run.quantities().get(name) for run in runs]) for name in names)
    outcomes = {row.outcome for row in rows}
    outcome: PerfOutcome = "ok"
    if outcomes & {"slower", "missing", "unmatched"}:
        outcome = "slower"
    elif "inconclusive" in outcomes:
        outcome = "inconclusive"
    return PerfVerdict(
        title=title,
        outcome=outcome,
        rows=rows,
        notes=_notes(baseline, timed.machine, len(runs)),
        reason=baseline.reason,
    )


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Fields that two keys differ in, a phrase each."""
    names = dict.fromkeys((*old, *new))
    return [f"{name}: {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]


def _row(baseline: Baseline, name: str, values: Sequence[float | None]) -> PerfRow:
    unit: Literal["s", "bytes"] = "bytes" if name == "peak_memory" else "s"
    before = [run.quantities()[name] for run in baseline.runs if name in run.quantities()]
    now = [value for value in values if value is not None]
    if not before or len(now) < len(values):
        return PerfRow(
            quantity=name,
            unit=unit,
            baseline=statistics.median(before) if before else None,
            allowed=None,
            value=statistics.median(now) if now else None,
            change_percent=None,
            interval=None,
            outcome="missing" if before else "unmatched",
            reason="not measured in every run" if before else "has no baseline; record one with `parity perf`",
        )
    old, new, allowed = statistics.median(before), statistics.median(now), baseline.allowed(name)
    interval = median_difference_interval(before, now)
    outcome: QuantityOutcome = "ok"
    if name in UNJUDGED:
        outcome = "unjudged"
    elif new > allowed:
        outcome = "slower" if interval is None or interval[0] > 0 else "inconclusive"
    return PerfRow(
        quantity=name,
        unit=unit,
        baseline=old,
        allowed=allowed,
        value=new,
        change_percent=100 * (new - old) / old if old else None,
        interval=interval,
        outcome=outcome,
        reason=UNJUDGED.get(name, ""),
    )


def _notes(baseline: Baseline, machine: Machine, runs: int) -> tuple[str, ...]:
    notes = []
    if min(runs, len(baseline.runs)) < MIN_INTERVAL_SAMPLES:
        notes.append(
            f"no confidence interval: {len(baseline.runs)} baseline runs and {runs} runs now, "
            f"{MIN_INTERVAL_SAMPLES} of each wanted"
        )
    if baseline.machine.torch != machine.torch:
        notes.append(f"torch {baseline.machine.torch} -> {machine.torch}")
    return tuple(notes)


def median_difference_interval(before: Sequence[float], now: Sequence[float]) -> tuple[float, float] | None:
    """Percentile bootstrap interval of median(now) - median(before); None with too few samples on a side.

    The generator's seed is fixed, so the same samples always give the same verdict.
    """
    if min(len(before), len(now)) < MIN_INTERVAL_SAMPLES:
        return None
    generator = np.random.default_rng(0)
    differences = _resampled_medians(generator, now) - _resampled_medians(generator, before)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(differences, [tail, 1 - tail])
    return float(low), float(high)


def _resampled_medians(
    generator: np.random.Generator, samples: Sequence[float]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    picks = generator.integers(len(samples), size=(RESAMPLES, len(samples)))
    medians: np.ndarray[Any, np.dtype[np.float64]] = np.median(np.asarray(samples, np.float64)[picks], axis=1)
    return medians


class PerfChange(msgspec.Struct, frozen=True, kw_only=True):
    """The old and new allowance of one quantity; `old` is None for what is new, `new` None for what goes."""

    title: str
    quantity: str
    old: float | None
    new: float | None
    loosened: bool


def update_baseline(
    registry: PerfRegistry, baseline: Baseline, reason: str | None
) -> tuple[PerfRegistry, tuple[PerfChange, ...]]:
    """Put a baseline in the place of the one with the same key.

    Raises: RegistryError if a quantity may take more than before, or is no longer held to anything, without a reason.
    """
    changes = perf_changes(registry, baseline)
    given = (reason or "").strip()
    if (loosened := [change.quantity for change in changes if change.loosened]) and not given:
        raise RegistryError(f"This would loosen {', '.join(loosened)} of {baseline.title()}; say why with --reason.")
    stamped = msgspec.structs.replace(baseline, reason=f"loosened: {given}") if loosened else baseline
    others = tuple(entry for entry in registry.baselines if entry.key() != baseline.key())
    ordered = sorted((*others, stamped), key=lambda entry: tuple(entry.key().values()))
    return msgspec.structs.replace(registry, baselines=tuple(ordered)), changes


def perf_changes(registry: PerfRegistry, baseline: Baseline) -> tuple[PerfChange, ...]:
    """The changes that a new baseline makes, quantity by quantity."""
    old = next((entry for entry in registry.baselines if entry.key() == baseline.key()), None)
    now = _allowances(baseline)
    before = _allowances(old) if old else {}
    return tuple(
        PerfChange(
            title=baseline.title(),
            quantity=name,
            old=before.get(name),
            new=now.get(name),
            loosened=name in before and name not in UNJUDGED and now.get(name, math.inf) > before[name],
        )
        for name in {**before, **now}
    )


def _allowances(baseline: Baseline) -> Mapping[str, float]:
    return {name: baseline.allowed(name) for name in baseline.runs[0].quantities()}


def load_perf_registry(path: Path) -> PerfRegistry:
    """Read the baselines; none where there is no file yet. Raises: RegistryError."""
    return load_document(path, PerfRegistry, "performance registry") if path.exists() else PerfRegistry()


def save_perf_registry(path: Path, registry: PerfRegistry) -> None:
    """Write the baselines, whole or not at all."""
    write_json_atomic(path, msgspec.to_builtins(registry))
