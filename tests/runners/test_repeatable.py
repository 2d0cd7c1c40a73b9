"""Repeatable kernels, where a release needs them on a GPU; put back, so convolutions repeat."""

import av
import pytest
import torch
from torch.nn import functional as F

from parity.runs.environment import fingerprint_of_runs
from runners.repeatable import repeatable_kernels

CPU, CUDA = torch.device("cpu"), torch.device("cuda")  # naming a GPU touches none


@pytest.fixture(autouse=True)
def as_torch_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)


@pytest.mark.parametrize(
    ("device", "release", "behaviours", "wanted"),
    [
        (CUDA, "1.0.0", {}, False),
        (CUDA, "1.1.2", {}, True),
        (CUDA, "1.2.0", {}, True),
        (CUDA, "custom", {}, True),
        (CUDA, "1.0.0", {"vocoder_fp32": True}, True),
        (CPU, "1.2.0", {}, False),
    ],
)
def test_sums_are_ordered_where_a_gpu_computes_sound_in_float32(
    device: torch.device, release: str, behaviours: dict[str, bool], wanted: bool
) -> None:
    with repeatable_kernels(device, release, behaviours):
        assert torch.backends.cudnn.deterministic is wanted
    assert torch.backends.cudnn.deterministic is False


def test_what_somebody_asked_for_before_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    with repeatable_kernels(CPU, "1.0.0"):
        assert torch.backends.cudnn.deterministic is True
    assert torch.backends.cudnn.deterministic is True


def test_a_cpu_records_nothing_of_it() -> None:
    assert "changed_flags" not in fingerprint_of_runs(CPU, "1.2.0")


@pytest.mark.gpu
def test_a_gpu_records_it_for_the_releases_that_need_it() -> None:
    assert fingerprint_of_runs(CUDA, "1.2.0")["changed_flags"] == {"cudnn.deterministic": True}
    assert "changed_flags" not in fingerprint_of_runs(CUDA, "1.0.0")


@pytest.mark.gpu
def test_a_transposed_convolution_in_float32_has_the_same_bits_each_time() -> None:
    generator = torch.Generator(CUDA).manual_seed(0)
    x = torch.randn(1, 48, 8080, device=CUDA, generator=generator)
    weight = torch.randn(48, 24, 4, device=CUDA, generator=generator)
    with repeatable_kernels(CUDA, "1.2.0"):
        first, *others = (F.conv_transpose1d(x, weight, stride=2, padding=1) for _ in range(8))
    assert all(torch.equal(first, other) for other in others)


def test_what_is_compressed_inside_is_compressed_as_for_the_goldens() -> None:
    own_open = av.open
    with pytest.raises(KeyboardInterrupt), repeatable_kernels(CPU, "1.0.0"):
        assert av.open is not own_open
        raise KeyboardInterrupt
    assert av.open is own_open
