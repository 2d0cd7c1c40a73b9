"""The times in a run's record, in the form that baselines are kept in."""

from collections.abc import Sequence
from dataclasses import dataclass

from parity.judge.perf import Baseline, Machine, PerfRegistry, PerfVerdict, Times, judge_perf, like
from parity.trace.bundle import RunRecord


@dataclass(frozen=True, kw_only=True)
class TimedRun:
    """One run's times and everything that decides what they are times of."""

    case: str
    runner: str
    tier: str
    machine: Machine
    work: dict[str, str]
    times: Times

    def key(self) -> dict[str, str]:
        """What must be equal for two runs' times to be comparable."""
        return like(self.case, self.runner, self.tier, self.machine, self.work)


def timed_run(record: RunRecord) -> TimedRun:
    """Read the times of a run. Raises: RegistryError for times that no clock gives."""
    environment = record.environment
    on_cpu = environment.get("device") == "cpu"
    return TimedRun(
        case=str(record.case["id"]),
        runner=record.runner,
        tier=record.tier,
        machine=Machine(
            device="cpu" if on_cpu else str(environment.get("device_name")),
            driver="" if on_cpu else str(environment.get("driver")),
            cpu=str(environment.get("cpu")),
            threads=int(environment.get("threads", 0)),
            torch=str(environment.get("torch")),
        ),
        work={
            "weights": record.weights_hash,
            "dtype": record.dtype,
            "reference": record.reference,
            "trace": "taps recorded" if "trace.safetensors" in record.files else "no taps",
        },
        times=Times(
            end_to_end_s=record.end_to_end_s,
            stage_s=record.stage_s,
            step_s=tuple(record.step_s),
            peak_bytes=record.peak_bytes,
        ),
    )


def judge_timed(registry: PerfRegistry, runs: Sequence[TimedRun]) -> PerfVerdict:
    """Hold runs of one key to their baseline. Raises: RegistryError if there is none."""
    first = runs[0]
    return judge_perf(
        registry,
        case=first.case,
        runner=first.runner,
        tier=first.tier,
        machine=first.machine,
        work=first.work,
        runs=[run.times for run in runs],
    )


def baseline_of(
    runs: Sequence[TimedRun], *, date: str, command: str, code_version: str, reason: str, warmup_runs: int = 0
) -> Baseline:
    """A baseline from runs of one key, every sample kept. Raises: RegistryError if they have different stages."""
    first = runs[0]
    return Baseline(
        case=first.case,
        runner=first.runner,
        tier=first.tier,
        machine=first.machine,
        work=first.work,
        runs=tuple(run.times for run in runs),
        warmup_runs=warmup_runs,
        date=date,
        command=command,
        code_version=code_version,
        reason=reason,
    )
