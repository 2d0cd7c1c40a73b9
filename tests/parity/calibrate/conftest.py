"""A golden of a release whose official code cannot run here, for trials in which native stands for it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from parity.runs import golden
from parity.runs.execute import run_to_folder, writing_trace
from parity.runs.folder import RUN_FILE, Run, read_run
from parity.runs.store import ENVIRONMENT_VARIABLE
from runners.clock import Quiet
from runners.native.runner import NativeRunner
from runners.protocol import RunOptions
from runners.weights import WeightsFolder


@pytest.fixture
def golden_of_micro(
    tmp_path: Path, micro_weights: WeightsFolder, micro_case_text: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Run]]:
    """Record the micro case of release 1.1.2, of one step: by native, which has its bits, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    (tmp_path / "golden" / "micro").mkdir(parents=True)
    text = micro_case_text.replace("[request]", 'reference = "1.1.2"\n[request]', 1)
    (tmp_path / "golden" / "micro" / "case.toml").write_text(text.replace("inference_steps = 2", "inference_steps = 1"))
    monkeypatch.setenv("PARITY_ROOT", str(tmp_path))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "store"))

    def make(*, reduced: bool, pattern: str | None = None, **behaviours: bool) -> Run:
        options = RunOptions(device=torch.device("cpu"), behaviours=behaviours)
        out = tmp_path / "official"
        runner = NativeRunner(micro_weights, options)
        taps = None if pattern is None else writing_trace(pattern, "sketch")
        run_to_folder(runner, golden.find_case("micro"), micro_weights, options, out, Quiet(), taps)
        document = json.loads((out / RUN_FILE).read_text())
        (out / RUN_FILE).write_text(json.dumps({**document, "runner": "official"}))
        golden.bless(read_run(out), "for this test", reduced=reduced)
        return golden.golden_of("micro")

    yield make
    torch.set_num_threads(threads)
