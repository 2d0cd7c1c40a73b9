"""Kernels and cores that give the same bits each time: without them there is no bit to hold a candidate to."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import torch

from runners.releases import RELEASES, reference_of

CORES: Final = 2  # that a run on a CPU uses, as the goldens did; more torch threads have a core each


@contextmanager
def repeatable_kernels(
    device: torch.device, release: str, behaviours: Mapping[str, bool] | None = None
) -> Iterator[None]:
    """While inside, runs of this release repeat themselves on this device.

    Releases since 1.1.2 compute sound in float32, and cuDNN then gives some of the vocoder's transposed convolutions a
    kernel (`dgrad_engine`) that adds as its threads come: two runs of the same official code differ in their last bits.
    Where it may choose only kernels that add in a fixed order, each repeats itself, and native agrees with official
    (docs/measurements/h100_vocoder_25f.json). Release 1.0.0 repeats itself as it is.

    On a CPU x264 compresses the picture with as many threads as this thread may use cores, and its bits follow: 1, 2,
    3, 4 and 8 cores gave five pictures. The run is held to CORES of them, so that machines of all sizes have one.

    Args:
        device: what the run computes on.
        release: of the case; one that is not known may compute sound in float32, too.
        behaviours: single behaviours of it set by hand.
    Raises: ConfigError for a behaviour that is not known.
    """
    fp32 = release not in RELEASES or reference_of(release, dict(behaviours or {})).vocoder_fp32
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = before or (device.type == "cuda" and fp32)
    try:
        with _cores_of_goldens(device):
            yield
    finally:
        torch.backends.cudnn.deterministic = before


@contextmanager
def _cores_of_goldens(device: torch.device) -> Iterator[None]:
    if device.type != "cpu" or not hasattr(os, "sched_setaffinity"):  # macOS and Windows do not have the call
        yield
        return
    usable = sorted(os.sched_getaffinity(0))
    first = os.getpid() % len(usable)  # processes side by side do not crowd on the same two
    held = (usable[first:] + usable[:first])[: max(CORES, torch.get_num_threads())]
    os.sched_setaffinity(0, held)
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)
