"""Repeatable kernels: asked for on a GPU alone, recorded, and the vocoder's convolutions then repeat themselves."""

import pytest
import torch
from torch.nn import functional as F

from parity.trace.environment import changed_flags
from parity.trace.record import device_named
from runners.repeatable import use_repeatable_kernels


def test_a_cpu_is_left_as_it_is_and_a_gpu_gets_ordered_sums_which_runs_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    use_repeatable_kernels(torch.device("cpu"))
    assert changed_flags() == {}
    use_repeatable_kernels(torch.device("cuda"))  # no GPU is touched
    assert changed_flags() == {"cudnn.deterministic": True}


@pytest.mark.gpu
def test_a_transposed_convolution_in_float32_has_the_same_bits_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    device = device_named("cuda")
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(1, 48, 8080, device=device, generator=generator)
    weight = torch.randn(48, 24, 4, device=device, generator=generator)
    first, *others = (F.conv_transpose1d(x, weight, stride=2, padding=1) for _ in range(8))
    assert all(torch.equal(first, other) for other in others)
