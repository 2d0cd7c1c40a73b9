"""Kernels and an encoder that give the same bits each time: without them there is no bit to hold a candidate to."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from runners.encoder_threads import fixed_encoder_threads
from runners.releases import RELEASES, reference_of


@contextmanager
def repeatable_kernels(
    device: torch.device, release: str, behaviours: Mapping[str, bool] | None = None
) -> Iterator[None]:
    """While inside, runs of this release repeat themselves on this device.

    Releases since 1.1.2 compute sound in float32, and cuDNN then gives some of the vocoder's transposed convolutions a
    kernel (`dgrad_engine`) that adds as its threads come: two runs of the same official code differ in their last bits.
    Where it may choose only kernels that add in a fixed order, each repeats itself, and native agrees with official
    (docs/measurements/h100_vocoder_25f.json). Release 1.0.0 repeats itself as it is.

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
        with fixed_encoder_threads(device):
            yield
    finally:
        torch.backends.cudnn.deterministic = before
