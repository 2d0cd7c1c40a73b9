"""Native runs of the micro model that a test asks `parity identify` about."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.defects.batched import each_pass
from parity.identify.behaviours import reference_at
from parity.runs.execute import run_to_folder
from parity.runs.folder import Run, read_run
from parity.trace.trace_writer import TraceWriter
from runners.case import Case
from runners.clock import Quiet
from runners.native.runner import NativeRunner
from runners.protocol import DTYPES, RunOptions
from runners.tap import listening
from runners.weights import WeightsFolder

CPU = torch.device("cpu")


@pytest.fixture
def left(micro_weights: WeightsFolder, tmp_path: Path) -> Callable[..., Run]:
    """Leave a native run with some switches on, whole taps kept if asked for, or no trace at all."""

    def leave(
        case: Case,
        *switches: str,
        keep: Any = "sketch",
        wrong: AbstractContextManager[Any] | None = None,
        dtype: str = "bf16",
    ) -> Run:
        behaviours = vars(reference_at(frozenset(switches)))
        options = RunOptions(device=CPU, dtype=DTYPES[dtype], behaviours=behaviours)

        def recorded(folder: Path) -> AbstractContextManager[Any]:
            return recorded_passes(folder, keep)

        with wrong or nullcontext():
            runner = NativeRunner(micro_weights, options)
            run_to_folder(runner, case, micro_weights, options, tmp_path / "run", Quiet(), recorded if keep else None)
        return read_run(tmp_path / "run")

    return leave


@contextmanager
def recorded_passes(folder: Path, keep: Any) -> Iterator[None]:
    """Leave a trace in which passes that ran as one batch stand one by one."""
    with TraceWriter(folder, pattern="*", keep=keep) as writer, listening(each_pass(writer)):
        yield
