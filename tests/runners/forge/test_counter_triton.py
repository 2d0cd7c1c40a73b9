"""The CUDA kernel against the torch form.

With Triton 3.6 and NumPy below 2.4 installed, TRITON_INTERPRET=1 makes the CPU run these tests too.
"""

import os

import pytest
import torch

from runners.forge.counter import fill_normal_torch_, stream_key

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array|overflow") if INTERPRETED else pytest.mark.gpu
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("elements", [1, 7, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("name", ["a.weight", "b"])  # keys below 2^63 and above
def test_the_kernel_gives_the_bits_of_the_torch_form(name: str, elements: int, dtype: torch.dtype) -> None:
    from runners.forge.counter_triton import fill_kernel_

    key, beyond = stream_key(0, name), 64
    expected = fill_normal_torch_(torch.empty(elements, dtype=dtype), key, mean=0.1, std=0.3)
    if INTERPRETED and dtype == torch.bfloat16:  # the interpreter cuts where a GPU rounds
        whole = fill_normal_torch_(torch.empty(elements), key, mean=0.1, std=0.3)
        expected = (whole.view(torch.int32) >> 16).to(torch.int16).view(torch.bfloat16)
    room = torch.full((elements + beyond,), torch.nan, dtype=dtype, device=DEVICE)
    fill_kernel_(room[:elements], key, mean=0.1, std=0.3)
    assert torch.equal(room[:elements].cpu(), expected)
    assert bool(room[elements:].isnan().all())


@pytest.mark.parametrize("key", [0, 1, 16, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_keys_and_starts_of_any_size_are_counted_modulo_2_to_the_64(key: int) -> None:
    from runners.forge.counter_triton import fill_kernel_

    start = (1 << 32) + 5  # further than 32 bits count
    expected = fill_normal_torch_(torch.empty(37), key, mean=-1.0, std=2.0, start=start)
    found = torch.empty(37, device=DEVICE)
    fill_kernel_(found, key, mean=-1.0, std=2.0, start=start)
    assert torch.equal(found.cpu(), expected)


def test_means_and_deviations_of_any_size_round_as_torch_rounds() -> None:
    """With multiplication and addition fused, about one value in ten of these has another last bit."""
    from runners.forge.counter_triton import fill_kernel_

    for mean, std in ((0.0, 1.0), (1.0, 0.1), (-0.6, 0.05), (1.3, 0.1), (1.0, 1.0), (-3, 1)):
        expected = fill_normal_torch_(torch.empty(4096), 5, mean=mean, std=std)
        found = torch.empty(4096, device=DEVICE)
        fill_kernel_(found, 5, mean=mean, std=std)
        assert torch.equal(found.cpu(), expected), (mean, std)


@pytest.mark.gpu
def test_a_tensor_of_more_than_2_to_the_31_elements_is_filled_to_its_end() -> None:
    from runners.forge.counter_triton import fill_kernel_

    elements, tail = (1 << 31) + 1030, 2048
    out = torch.empty(elements, dtype=torch.bfloat16, device="cuda")
    fill_kernel_(out, 9, mean=0.5, std=1.0)
    end = fill_normal_torch_(torch.empty(tail, dtype=torch.bfloat16), 9, mean=0.5, std=1.0, start=elements - tail)
    assert torch.equal(out[-tail:].cpu(), end)
