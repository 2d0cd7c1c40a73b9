"""Speed baselines measured now: official and native by turns on one machine, every run kept.

Run times drift with temperature, clocks and neighbours, so the two are interleaved (official, native, native, official,
...) instead of measured one after the other; the first run of each is thrown away.
"""

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import torch

from parity.judge.perf import Baseline, PerfChange, PerfRegistry, update_baseline
from parity.judge.timed import TimedRun, baseline_of, timed_run
from parity.runs.environment import source_hash
from parity.runs.execute import run_to_folder
from parity.runs.folder import read_run
from runners.case import Case
from runners.catalogue import open_runner
from runners.clock import Quiet
from runners.protocol import RunOptions
from runners.weights import WeightsFolder

RUNNERS: Final = ("official", "native")
RUNS: Final = 4  # of each runner, after the warm-up
WARMUP_RUNS: Final = 1


def measure_baselines(weights: WeightsFolder, case: Case, command: str, say: Callable[[str], None]) -> list[Baseline]:
    """A baseline of each runner. Raises: ParityError of the kind that fits what is wrong."""
    timed: dict[str, list[TimedRun]] = {runner: [] for runner in RUNNERS}
    for turn in range(WARMUP_RUNS + RUNS):
        order = RUNNERS if turn % 2 == 0 else tuple(reversed(RUNNERS))
        for runner in order:
            say(f"{case.id}: speed of {runner}, {'warm-up' if turn < WARMUP_RUNS else f'run {turn} of {RUNS}'}")
            timed[runner].append(timed_once(runner, weights, case))
    return [
        baseline_of(
            timed[runner][WARMUP_RUNS:],
            date=datetime.now(UTC).date().isoformat(),
            command=command,
            code_version=source_hash(),
            reason="official and native by turns",
            warmup_runs=WARMUP_RUNS,
        )
        for runner in RUNNERS
    ]


def timed_once(runner: str, weights: WeightsFolder, case: Case) -> TimedRun:
    """One run on the CPU, which leaves nothing but its times."""
    options = RunOptions(device=torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run_to_folder(open_runner(runner, weights, options), case, weights, options, out, Quiet())
        return timed_run(read_run(out).manifest)


def update_all(
    registry: PerfRegistry, baselines: list[Baseline], reason: str | None
) -> tuple[PerfRegistry, list[PerfChange]]:
    """The registry with these baselines in place of older ones. Raises: RegistryError as `update_baseline`."""
    changes: list[PerfChange] = []
    for baseline in baselines:
        registry, changed = update_baseline(registry, baseline, reason)
        changes += changed
    return registry, changes
