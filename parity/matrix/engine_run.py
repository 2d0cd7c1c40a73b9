"""One run of one engine, or of the official code, on a box: what `parity run` does, of a row."""

import os
from pathlib import Path
from typing import Final

import torch

from parity.fleet.row import EngineOfRow, Row
from parity.runs.child import ChildRunner
from parity.runs.execute import run_to_folder, writing_trace
from parity.runs.folder import Run, read_run
from parity.trace.prompt_tokens import prompt_tokens
from parity.trace.trace_writer import NO_WINDOWS
from runners.case import Case
from runners.catalogue import open_runner, runner_and_tier
from runners.clock import Quiet
from runners.errors import RunnerError
from runners.files import sha256_of
from runners.forge.weights import ForgedWeights
from runners.names import NAMES
from runners.protocol import Runner, RunOptions
from runners.weights import WeightsFolder

GPUS: Final = "CUDA_VISIBLE_DEVICES"
MAX_SOURCE_BYTES: Final = 64 << 20


def official_as_engine(row: Row) -> EngineOfRow:
    """The official code of a row, in the form of an engine."""
    python = "" if row.official is None else row.official.python
    return EngineOfRow(label="official", runner="official", python=python, num_gpus=None)


def make_run(
    row: Row,
    engine: EngineOfRow,
    case: Case,
    weights: WeightsFolder | ForgedWeights,
    device: torch.device,
    out: Path,
    *,
    timed: bool = False,
    dtype: torch.dtype = torch.bfloat16,
) -> Run:
    """Run a case with an engine and leave a run folder, with its taps if it has any and is not made to be timed.

    Raises: ParityError as the runner does.
    """
    name, tier = runner_and_tier(engine.runner)
    options = RunOptions(device=device, dtype=dtype, tier=tier, engine=engine.options)
    official_root = Path(row.official.root) if name == "official" and row.official is not None else None
    engine_root = Path(engine.engine_root) if engine.engine_root else None
    if engine.source:
        _require_source(engine)
    opened: Runner
    if engine.python:
        opened = ChildRunner(
            python=Path(engine.python),
            name=name,
            weights=weights,
            options=options,
            beside=out,
            official_root=official_root,
            engine_root=engine_root,
            variables=_gpus_of(row, engine),
            threads=torch.get_num_threads(),
        )
    else:
        opened = open_runner(name, weights, options, None, None, official_root, engine_root)
    tracing = None
    if row.taps and opened.capabilities.taps and not timed:
        windows = NO_WINDOWS if name in NAMES else prompt_tokens(case, weights)
        tracing = writing_trace(row.taps, "sketch", windows)
    run_to_folder(opened, case, weights, options, out, Quiet(), tracing)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the next run's peak is its own
    return read_run(out)


def _require_source(engine: EngineOfRow) -> None:
    """Refuse another file than the driver has. Raises: RunnerError."""
    path = Path(engine.runner.rpartition(":")[0])
    if sha256_of(path, RunnerError, "put the engine there on every box", max_bytes=MAX_SOURCE_BYTES) != engine.source:
        raise RunnerError(f"{path} on this box is another file than on the driver; put the same there.")


def _gpus_of(row: Row, engine: EngineOfRow) -> dict[str, str]:
    """The GPUs of the row that an engine in a process of its own sees: as many as it wants, the first ones."""
    visible = os.environ.get(GPUS, "")
    count = engine.num_gpus or row.device.gpus
    return {GPUS: ",".join(visible.split(",")[:count])} if visible else {}
