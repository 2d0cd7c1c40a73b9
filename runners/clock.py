"""Stage and step times of a run, and who is told about progress.

On CUDA a stage boundary waits for the device, a step boundary does not: steps are bracketed by events, read once at the
end, so that timing never stalls the queue inside the denoising loop.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Protocol

import torch

UPSAMPLING = "upsampling"  # between the two stages of a pipeline that has them
STAGES = (
    "text_encoding",
    "text_connector",
    "image_conditioning",
    UPSAMPLING,
    "latent_preparation",
    "denoising",
    "video_decoding",
    "audio_decoding",
)


class Progress(Protocol):
    """Told what a run is doing; `Quiet` ignores it, the command line draws it."""

    def stage(self, name: str) -> None:
        """A stage (or `load`) begins."""

    def step(self, index: int, count: int) -> None:
        """Step `index` of `count` is done."""


class Quiet:
    """A progress listener that says nothing."""

    def stage(self, name: str) -> None:
        """Ignore it."""

    def step(self, index: int, count: int) -> None:
        """Ignore it."""


class Clock:
    """Measures one run on one device. Times are seconds."""

    def __init__(self, device: torch.device, progress: Progress | None = None) -> None:
        self.device = device
        self.progress = progress or Quiet()
        self.stage_s: dict[str, float] = {}
        self._current: str | None = None
        self._told: str | None = None  # the stage that who listens takes to be under way
        self._started_s = 0.0
        self._loaded_in_stage_s = 0.0
        self._marks: list[list[float | torch.cuda.Event]] = []  # of each denoising loop
        if device.type == "cuda":
            torch.cuda.init()  # type: ignore[no-untyped-call]  # what follows knows no device before
            torch.cuda.reset_peak_memory_stats(device)

    def begin(self, name: str, *, told: bool = True) -> None:
        """A stage begins, and the one before it ends. Loading inside a stage is counted under `load`, not there.

        Args:
            name: of the stage; who listens is told once if it is the one under way.
            told: whether who listens hears of it; not where a part is made ready that works later.
        """
        self.end()
        if told and name != self._told:
            self.progress.stage(name)
            self._told = name
        self._current, self._started_s, self._loaded_in_stage_s = name, self._now_s(), 0.0

    def end(self) -> None:
        """The stage under way, if any, ends. One that is begun again adds to its time."""
        if self._current is not None:
            elapsed_s = self._now_s() - self._started_s - self._loaded_in_stage_s
            self.stage_s[self._current] = self.stage_s.get(self._current, 0.0) + elapsed_s
        self._current = None

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Time the loading of a component."""
        start_s = self._now_s()
        yield
        elapsed_s = self._now_s() - start_s
        self._loaded_in_stage_s += elapsed_s
        self.stage_s["load"] = self.stage_s.get("load", 0.0) + elapsed_s

    def mark_step(self, index: int, count: int) -> None:
        """Mark a step boundary: once before the first step (index 0) of a denoising loop, then after each one."""
        if index == 0:
            self._marks.append([])
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._marks[-1].append(event)
        else:
            self._marks[-1].append(time.perf_counter())
        if index:
            self.progress.step(index, count)

    def step_s(self) -> list[float]:
        """Seconds of each step, in order, those of all loops one after another."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return [_between_s(a, b) for marks in self._marks for a, b in pairwise(marks)]

    def peak_bytes(self) -> int:
        """Most memory held: on CUDA what the allocator gave out, on a CPU the process's resident size."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        import resource  # only POSIX has it, and only this line needs it

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _now_s(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _between_s(start: "float | torch.cuda.Event", end: "float | torch.cuda.Event") -> float:
    if isinstance(start, float) and isinstance(end, float):
        return end - start
    assert isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event)
    elapsed_ms: float = start.elapsed_time(end)
    return elapsed_ms / 1000
