"""Stage and step times of a run."""

import time

import pytest
import torch

from runners.clock import STAGES, Clock

CPU = torch.device("cpu")


class Listener:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.steps: list[tuple[int, int]] = []

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def step(self, index: int, count: int) -> None:
        self.steps.append((index, count))


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as a list of one number to set."""
    clock = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    return clock


def test_loading_is_counted_apart_from_its_stage_and_a_stage_begun_again_adds_up(now: list[float]) -> None:
    listener = Listener()
    clock = Clock(CPU, listener)
    clock.begin("text_encoding")
    with clock.loading():
        now[0] += 7
    now[0] += 2
    clock.begin("denoising")  # ends the one before
    now[0] += 5
    clock.begin("text_encoding")
    now[0] += 1
    clock.end()
    now[0] += 50
    clock.end()  # nothing is under way
    assert clock.stage_s == {"text_encoding": 3.0, "load": 7.0, "denoising": 5.0}
    assert listener.stages == ["text_encoding", "denoising", "text_encoding"]


def test_steps_are_the_times_between_marks(now: list[float]) -> None:
    listener = Listener()
    clock = Clock(CPU, listener)
    for index, seconds in enumerate((3.0, 4.0, 0.5)):
        clock.mark_step(index, 2)
        now[0] += seconds
    assert clock.step_s() == [3.0, 4.0]
    assert listener.steps == [(1, 2), (2, 2)]


def test_a_run_without_steps_has_none_and_memory_is_counted_in_bytes() -> None:
    clock = Clock(CPU)
    assert clock.step_s() == []
    assert 10 << 20 < clock.peak_bytes() < 1 << 42


def test_stage_names_are_those_of_the_report() -> None:
    assert len(set(STAGES)) == 8


@pytest.mark.gpu
def test_steps_on_a_gpu_are_bracketed_by_events() -> None:
    clock = Clock(torch.device("cuda"))
    x = torch.ones(1 << 24, device="cuda")
    for index in range(3):
        clock.mark_step(index, 2)
        x = x * 1.5
    assert len(clock.step_s()) == 2 and all(seconds > 0 for seconds in clock.step_s())
    assert clock.peak_bytes() >= x.numel() * 4
