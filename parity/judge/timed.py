"""The times that a run took, in the form that baselines are kept in, alone or gathered as samples of one machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from parity.judge.document import load_document
from parity.judge.perf import (
    Baseline,
    Machine,
    PerfRegistry,
    PerfVerdict,
    Times,
    TimeSubject,
    differences,
    judge_perf,
)
from parity.runs.folder import RunManifest
from runners.strict import Strict

SAMPLES_SCHEMA_VERSION: Final = 1
ANY_DATE: Final = "1970-01-01"  # of a baseline that is made for one comparison
MOST_OTHERS: Final = 0.25  # of the cores


class TimedRun(TimeSubject, frozen=True, kw_only=True):
    """One run's times and everything that decides what they are times of."""

    times: Times


class TimedSamples(Strict, frozen=True, kw_only=True):
    """Runs measured by turns on one machine, without the runs themselves: what travels home from a GPU box."""

    kind: Literal["samples"] = "samples"
    schema_version: Literal[1] = SAMPLES_SCHEMA_VERSION
    date: str  # YYYY-MM-DD
    command: str
    box: str  # one start of one machine; samples of two are not comparable to a percent
    code_version: str
    warmup_runs: int  # of each runner, thrown away
    environment: dict[str, Any]
    runs: tuple[TimedRun, ...]  # in the order they were made

    def groups(self) -> list[list[TimedRun]]:
        """The runs, those of one key together, in order."""
        groups: dict[tuple[str, ...], list[TimedRun]] = {}
        for run in self.runs:
            groups.setdefault(tuple(run.key().values()), []).append(run)
        return list(groups.values())

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document


def read_samples(path: Path) -> TimedSamples:
    """Samples that were saved. Raises: RegistryError."""
    return load_document(path, TimedSamples, "file of timing samples")


def timed_run(manifest: RunManifest) -> TimedRun:
    """Read the times of a run. Raises: RegistryError for times that no clock gives."""
    environment = manifest.environment
    on_cpu = environment.get("device") == "cpu"
    return TimedRun(
        case=str(manifest.case["id"]),
        runner=manifest.runner,
        tier=manifest.tier,
        machine=Machine(
            device="cpu" if on_cpu else str(environment.get("device_name")),
            driver="" if on_cpu else str(environment.get("driver")),
            cpu=str(environment.get("cpu")),
            threads=int(environment.get("threads", 0)),
            torch=str(environment.get("torch")),
        ),
        work={
            "weights": manifest.weights_hash,
            "dtype": manifest.dtype,
            "reference": manifest.reference,
            "trace": "taps recorded" if "trace.safetensors" in manifest.files else "no taps",
            **({"second_device": second} if (second := manifest.details.get("second_device")) else {}),
            **{key: str(manifest.case[key]) for key in ("quantization",) if key in manifest.case},
        },
        times=Times(
            end_to_end_s=manifest.end_to_end_s,
            stage_s=manifest.stage_s,
            step_s=tuple(manifest.step_s),
            peak_bytes=manifest.peak_bytes,
        ),
    )


class Tolerance(Strict, frozen=True, kw_only=True):
    """The slowdown that still passes: the larger of both. None leaves what the baseline allows; of memory all stays."""

    percent: float | None = None
    abs_s: float | None = None

    def of(self, baseline: Baseline) -> Baseline:
        """The baseline with this tolerance of times."""
        given = {"tolerance_percent": self.percent, "tolerance_abs_s": self.abs_s}
        return msgspec.structs.replace(baseline, **{name: value for name, value in given.items() if value is not None})


def judge_timed(registry: PerfRegistry, runs: Sequence[TimedRun], tolerance: Tolerance | None = None) -> PerfVerdict:
    """Hold runs of one key to their baseline. Raises: RegistryError if there is none."""
    if tolerance is not None:
        registry = msgspec.structs.replace(registry, baselines=tuple(map(tolerance.of, registry.baselines)))
    return judge_perf(registry, runs[0], [run.times for run in runs])


def compare_timed(old: Sequence[TimedRun], new: Sequence[TimedRun], tolerance: Tolerance) -> PerfVerdict:
    """Hold runs to others of the same case and machine, which may be of another runner; what else differs is noted."""
    first, other = old[0], new[0]
    baseline = tolerance.of(baseline_of(old, date=ANY_DATE, command="", code_version="", reason="the other runs"))
    # Machine and case must be the same; the rest is what is compared.
    held = msgspec.structs.replace(other, runner=first.runner, tier=first.tier, work=first.work)
    found = judge_perf(PerfRegistry(baselines=(baseline,)), held, [run.times for run in new])
    changed = differences(
        {"runner": first.runner, "tier": first.tier, **first.work},
        {"runner": other.runner, "tier": other.tier, **other.work},
    )
    title = f"{other.title()} against {first.runner} / {first.tier}"
    return msgspec.structs.replace(found, title=title, notes=(*found.notes, *changed))


def busy_with_others(load: float, threads: int, cores: int) -> bool:
    """True if more than a quarter of a machine's cores was taken by others while runs took so many threads.

    Args:
        load: average number of processes that computed or waited for a core, as `os.getloadavg` has it.
        threads: that the runs themselves took.
        cores: of the machine.
    """
    return load - min(threads, cores) > cores * MOST_OTHERS


def baseline_of(
    runs: Sequence[TimedRun], *, date: str, command: str, code_version: str, reason: str, warmup_runs: int = 0
) -> Baseline:
    """A baseline from runs of one key, every sample kept. Raises: RegistryError if they have different stages."""
    return Baseline(
        **{name: getattr(runs[0], name) for name in TimeSubject.__struct_fields__},
        runs=tuple(run.times for run in runs),
        warmup_runs=warmup_runs,
        date=date,
        command=command,
        code_version=code_version,
        reason=reason,
    )
