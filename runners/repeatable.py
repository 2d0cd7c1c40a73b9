"""Kernels that give the same bits each time: without them there is no bit to hold a candidate to."""

import torch


def use_repeatable_kernels(device: torch.device) -> None:
    """From now on, this process lets cuDNN take only kernels that add in a fixed order.

    Official releases since 1.1.2 compute sound in float32, and cuDNN then gives some of the vocoder's transposed
    convolutions a kernel (`dgrad_engine`) that adds as its threads come: two runs of the same official code differ in
    their last bits. Without it each repeats itself, and native agrees with official (docs/measurements/h100_vocoder_*).
    Runs record the setting. A CPU has no such kernel, so nothing is set there.
    """
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True
