"""A second CUDA stream for audio, whose small kernels fill what video's large ones leave.

Whoever forks has to join before it reads what was written beside, and before it drops a tensor that the other side
still reads: memory that is freed goes to the next one who asks on the stream that it came from. A block forks at its
start and joins at its end, so a tensor that lives as long as a block is safe.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from runners.tap import tapping


class SideStream:
    """Runs work beside the current stream; on other devices than CUDA, and where taps are heard, in its place."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Work inside starts after everything that was started before, and runs beside what is started next."""
        if self._stream is None or tapping():  # listeners work on one stream
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            yield

    def join(self) -> None:
        """Let all that is started next wait for all that runs beside."""
        if self._stream is not None and not tapping():
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
