"""One number of encoder threads on every machine: the bits of a compressed picture follow it."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Final

import torch

# As many as the machines had cores on which the goldens were made: x264 takes one a core unless it is told.
ENCODER_THREADS: Final = {"cpu": 2, "cuda": 16}


@contextmanager
def fixed_encoder_threads(device: torch.device) -> Iterator[None]:
    """While inside, whatever PyAV encodes is encoded on ENCODER_THREADS threads, however many cores there are.

    The pipeline sends every picture through H.264, with as many threads as the process may use cores, and 1, 2, 3, 4
    and 8 gave five pictures, `drift.image` 0.023 to 0.032 apart. A machine with other cores is no other model.

    Args:
        device: what the run computes on; one without goldens keeps the encoder's own choice.
    """
    threads = ENCODER_THREADS.get(device.type)
    if threads is None or find_spec("av") is None:  # the environment of an engine may do without
        yield
        return
    import av

    own_open = av.open

    def open_with_threads(*arguments: Any, **named: Any) -> Any:
        container = own_open(*arguments, **named)
        return _Output(container, threads) if isinstance(container, av.container.OutputContainer) else container

    av.open = open_with_threads
    try:
        yield
    finally:
        av.open = own_open


class _Output:
    """An output container that tells each new encoder its threads. PyAV's own class, compiled, cannot be patched."""

    def __init__(self, container: Any, threads: int) -> None:
        self._container, self._threads = container, threads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def __enter__(self) -> "_Output":
        self._container.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.__exit__(kind, error, trace)

    def add_stream(self, *arguments: Any, **named: Any) -> Any:
        stream = self._container.add_stream(*arguments, **named)
        if stream.type == "video":
            stream.codec_context.thread_count = self._threads
        return stream
