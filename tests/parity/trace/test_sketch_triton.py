"""The CUDA kernel against the torch form.

With Triton 3.6 and NumPy below 2.4 installed, TRITON_INTERPRET=1 makes the CPU run these tests too.
"""

import os

import pytest
import torch
from torch import Tensor

from parity.trace.sketch import FLOAT_STATISTICS, INTEGER_STATISTICS, sketch_torch_into

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array|overflow") if INTERPRETED else pytest.mark.gpu
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def both(tensor: Tensor, buckets: int = 64) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return rows of the torch form on the CPU and of the kernel, which is run twice."""
    from parity.trace.sketch_triton import sketch_kernel_into

    def row(device: str) -> tuple[Tensor, Tensor]:
        floats = torch.full((buckets + FLOAT_STATISTICS,), torch.nan, device=device)
        return floats, torch.full((INTEGER_STATISTICS,), -1, device=device)

    expected, found, again = row("cpu"), row(DEVICE), row(DEVICE)
    sketch_torch_into(tensor, *expected)
    sketch_kernel_into(tensor.to(DEVICE), *found)
    sketch_kernel_into(tensor.to(DEVICE), *again)
    assert torch.equal(found[0], again[0]) and torch.equal(found[1], again[1])
    return expected, (found[0].cpu(), found[1].cpu())


def assert_equal(tensor: Tensor, buckets: int = 64) -> None:
    expected, found = both(tensor, buckets)
    assert found[1].tolist() == expected[1].tolist()
    l2, max_abs = expected[0][buckets].item(), expected[0][buckets + 1].item()
    assert found[0][buckets + 1].item() == max_abs
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-6 * l2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (3,), (8,), (5, 13), (2, 37, 129), (3, 40, 512), (1, 1000, 72)])
def test_the_kernel_equals_the_torch_form(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    assert_equal((torch.randn(shape, generator=torch.Generator().manual_seed(1)) + 0.1).to(dtype))


@pytest.mark.parametrize("buckets", [16, 128, 1024])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_serves_every_number_of_buckets(dtype: torch.dtype, buckets: int) -> None:
    assert_equal(torch.randn(7, 3001, generator=torch.Generator().manual_seed(2)).to(dtype), buckets)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_counts_nan_and_infinities_and_leaves_them_out(dtype: torch.dtype) -> None:
    tensor = torch.randn(30, 1000, generator=torch.Generator().manual_seed(3)).to(dtype)
    tensor[1, 5] = torch.nan
    tensor[2, 7] = torch.inf
    tensor[0, 0] = tensor[29, 999] = -torch.inf
    assert_equal(tensor)
    assert both(tensor)[1][1].tolist()[1:] == [1, 3]


def test_the_kernel_survives_squares_beyond_float32() -> None:
    assert_equal(torch.randn(3, 1000, generator=torch.Generator().manual_seed(4)) * 1e25)


def test_strides_and_odd_addresses_are_read_right() -> None:
    tensor = torch.randn(13, 65, generator=torch.Generator().manual_seed(5)).bfloat16()
    assert_equal(tensor.T)
    assert_equal(tensor.flatten()[1:833])  # 832 elements that begin 2 bytes off


def test_an_empty_tensor_has_a_sketch_of_zeros() -> None:
    _, found = both(torch.empty(0, 4, dtype=torch.bfloat16))
    assert not found[0].any() and not found[1].any()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_large_tensor_is_sketched_by_many_programs_alike_every_time(dtype: torch.dtype) -> None:
    tensor = torch.randn(1, 3072, 4096, generator=torch.Generator().manual_seed(6)).to(dtype)
    assert_equal(tensor)
    for _ in range(20):
        both(tensor[:, :200])
