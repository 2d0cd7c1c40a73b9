import hashlib
import math
import sys
from collections.abc import Iterator

import pytest
import torch

from runners.forge import counter
from runners.forge.counter import fill_normal_, stream_key
from runners.mix64 import GOLDEN

MASK = (1 << 64) - 1


def lane_sum(key: int, index: int) -> int:
    """The centred sum of four signed 16-bit lanes of one mixed counter, in plain Python."""
    word = (key + GOLDEN * (index + 1)) & MASK
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & MASK
    word ^= word >> 31
    lanes = [word >> shift & 0xFFFF for shift in (0, 16, 32, 48)]
    return sum(lane - 0x10000 if lane & 0x8000 else lane for lane in lanes) + 2


def test_values_are_those_of_plain_integer_arithmetic() -> None:
    key = stream_key(3, "a.weight")
    unit = math.sqrt(4 * (2**32 - 1) / 12)
    out = fill_normal_(torch.empty(2, 3), key, mean=0.0, std=unit)  # so that values are the integer sums themselves
    assert out.flatten().tolist() == [lane_sum(key, index) for index in range(6)]


def test_the_key_is_the_head_of_a_hash_of_seed_and_name() -> None:
    assert stream_key(7, "x") == int.from_bytes(hashlib.sha256(b"7:x").digest()[:8], "big")
    assert len({stream_key(7, "x"), stream_key(8, "x"), stream_key(7, "y")}) == 3


def test_a_slice_and_any_chunk_give_the_same_bits() -> None:
    key = stream_key(0, "b")
    whole = fill_normal_(torch.empty(1000, dtype=torch.bfloat16), key, mean=0.5, std=2.0)
    again = fill_normal_(torch.empty(1000, dtype=torch.bfloat16), key, mean=0.5, std=2.0, chunk=37)
    part = fill_normal_(torch.empty(200, dtype=torch.bfloat16), key, mean=0.5, std=2.0, start=300)
    assert torch.equal(whole.view(torch.int16), again.view(torch.int16))
    assert torch.equal(whole[300:500].view(torch.int16), part.view(torch.int16))


def test_values_look_gaussian_and_neighbours_are_unrelated() -> None:
    x = fill_normal_(torch.empty(1 << 18), stream_key(1, "c"), mean=-1.0, std=0.5).double()
    unit = (x + 1.0) / 0.5
    n = unit.numel()
    assert abs(unit.mean().item()) < 4 / math.sqrt(n)
    assert abs(unit.std().item() - 1) < 4 / math.sqrt(2 * n)
    assert abs((unit**4).mean().item() - 2.7) < 0.05  # kurtosis of a sum of four uniforms: 3 - 1.2 / 4
    assert unit.abs().max().item() < 3.47
    assert abs((unit[1:] * unit[:-1]).mean().item()) < 4 / math.sqrt(n)


def test_an_empty_tensor_is_left_empty() -> None:
    assert fill_normal_(torch.empty(0, 4), 1, mean=0.0, std=1.0).shape == (0, 4)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_cuda_gives_the_same_bits(dtype: torch.dtype) -> None:
    key = stream_key(2, "d")
    cpu = fill_normal_(torch.empty(12345, dtype=dtype), key, mean=0.1, std=0.3)
    cuda = fill_normal_(torch.empty(12345, dtype=dtype, device="cuda"), key, mean=0.1, std=0.3, chunk=1000)
    assert torch.equal(cuda.cpu(), cpu)


@pytest.fixture
def no_kernel_yet() -> Iterator[None]:
    counter.triton_kernel.cache_clear()
    yield
    counter.triton_kernel.cache_clear()


@pytest.mark.usefixtures("no_kernel_yet")
def test_without_triton_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "runners.forge.counter_triton", raising=False)
    assert counter.triton_kernel() is None


@pytest.mark.usefixtures("no_kernel_yet")
def test_a_kernel_of_ours_that_is_missing_is_no_reason_to_go_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "runners.forge.counter_triton", None)
    with pytest.raises(ModuleNotFoundError, match="counter_triton"):
        counter.triton_kernel()
