"""Whatever runs a case asks for repeatable kernels of that release first, and computes with them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from parity.calibrate import amplify
from parity.isolate import isolation, lockstep
from parity.runs import execute, in_memory
from parity.runs.folder import read_run
from runners.case import Case
from runners.catalogue import open_runner
from runners.clock import Quiet
from runners.protocol import RunOptions
from runners.weights import WeightsFolder

BEHAVIOURS = {"keyframe_spans_one_frame": True}
OPTIONS = RunOptions(device=torch.device("cpu"), behaviours=BEHAVIOURS)
NATIVE_CASE = {"reference": "1.2.0", "request.num_inference_steps": 1}
Asked = tuple[str, dict[str, bool]]


class Flags(Quiet):
    """Progress that keeps what the kernels were while each stage began."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def stage(self, name: str) -> None:
        self.seen.append(torch.backends.cudnn.deterministic)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """Releases and behaviours that the places which run cases asked for; a CPU is given what a GPU would be."""
    heard: list[Asked] = []

    @contextmanager
    def ordered(device: torch.device, release: str, behaviours: Mapping[str, bool] | None = None) -> Iterator[None]:
        heard.append((release, dict(behaviours or {})))
        with torch.backends.cudnn.flags(enabled=True, deterministic=True):
            yield

    for module in (execute, amplify, lockstep):
        monkeypatch.setattr(module, "repeatable_kernels", ordered)
    return heard


def test_a_recorded_run_computes_with_them_and_says_so(
    asked: list[Asked], micro_weights: WeightsFolder, micro_case: Callable[..., Case], tmp_path: Path
) -> None:
    case, flags = micro_case(NATIVE_CASE), Flags()
    execute.run_to_folder(
        open_runner("native", micro_weights, OPTIONS), case, micro_weights, OPTIONS, tmp_path / "r", flags
    )
    assert asked == [("1.2.0", BEHAVIOURS)] and flags.seen and all(flags.seen)
    assert read_run(tmp_path / "r").manifest.environment["changed_flags"]["cudnn.deterministic"] is True


def test_a_run_in_memory_computes_with_them(
    asked: list[Asked], micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    flags = Flags()
    in_memory.run_in_memory("native", micro_weights, micro_case(NATIVE_CASE), progress=flags)
    assert asked == [("1.2.0", {})] and flags.seen and all(flags.seen)


def test_amplification_computes_with_them(
    asked: list[Asked], micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    flags = Flags()
    amplify.amplify("native", micro_weights, micro_case(NATIVE_CASE), OPTIONS, after_steps=[-1], progress=flags)
    assert asked == [("1.2.0", BEHAVIOURS)] * 2 and flags.seen and all(flags.seen)


def test_isolation_computes_with_them_and_says_so(
    asked: list[Asked], micro_weights: WeightsFolder, micro_case: Callable[..., Case]
) -> None:
    flags, options = Flags(), RunOptions(device=torch.device("cpu"))
    case = micro_case({"request.num_inference_steps": 1})
    found = isolation.isolate(micro_weights, case, options, stages=["audio_decoding"], progress=flags)
    assert asked == [("1.0.0", {})] and flags.seen and all(flags.seen)
    assert found.provenance["environment"]["changed_flags"]["cudnn.deterministic"] is True
