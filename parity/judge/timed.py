"""The times that a run took, in the form that baselines are kept in, alone or gathered as samples of one machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from parity.judge.document import load_document
from parity.judge.perf import Baseline, Machine, PerfRegistry, PerfVerdict, Times, TimeSubject, judge_perf
from parity.runs.folder import RunManifest
from runners.strict import Strict

SAMPLES_SCHEMA_VERSION: Final = 1


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
        },
        times=Times(
            end_to_end_s=manifest.end_to_end_s,
            stage_s=manifest.stage_s,
            step_s=tuple(manifest.step_s),
            peak_bytes=manifest.peak_bytes,
        ),
    )


def judge_timed(registry: PerfRegistry, runs: Sequence[TimedRun]) -> PerfVerdict:
    """Hold runs of one key to their baseline. Raises: RegistryError if there is none."""
    return judge_perf(registry, runs[0], [run.times for run in runs])


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
