import hashlib

import pytest
import torch
from torch import Tensor

from runners.checksum import checksum64, weight_entries, weight_entry, weights_hash
from runners.errors import ShapeError
from runners.mix64 import GOLDEN, mix64_, signed64


def example(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(3, 5, 7, generator=generator).to(dtype)


def with_element(tensor: Tensor, index: int, value: Tensor) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[index] = value
    return changed


def swapped(tensor: Tensor) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[[3, 50]] = tensor.view(-1)[[50, 3]]
    return changed


def with_low_bit_flipped(tensor: Tensor) -> Tensor:
    bits = tensor.clone().view(torch.int32)
    bits.view(-1)[17] ^= 1
    return bits.view(torch.float32)


X = example()


@pytest.mark.parametrize(
    "other",
    [
        swapped(X),
        with_low_bit_flipped(X),
        with_element(X, 104, -X.view(-1)[104]),
        X.roll(1, dims=0),
        X.roll(1, dims=1),
        X.roll(1, dims=2),
        X.flip(2),
        -X,
        X.reshape(5, 3, 7),
        X.transpose(0, 1),
        X[:2],
        X.double(),
        torch.cat([X, torch.zeros(1, 5, 7)]),
    ],
    ids=str.split("swap bit sign roll0 roll1 roll2 flip negated shape transposed shorter dtype zeros"),
)
def test_every_change_of_bits_shape_or_dtype_changes_the_checksum(other: Tensor) -> None:
    assert checksum64(other) != checksum64(X)


def test_equal_bits_have_equal_checksums_whatever_strides_and_chunks() -> None:
    wanted = checksum64(X)
    assert checksum64(X.clone()) == wanted
    assert checksum64(X.permute(2, 0, 1).contiguous().permute(1, 2, 0)) == wanted
    assert [checksum64(X, chunk=chunk) for chunk in (1, 4, 104, 105, 1000)] == [wanted] * 5


def test_signs_of_zero_and_payloads_of_nan_count() -> None:
    zeros = torch.zeros(4)
    assert checksum64(zeros) != checksum64(-zeros)
    nans = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert checksum64(nans[:1]) != checksum64(nans[1:])


def test_one_byte_worked_by_hand() -> None:
    header = int.from_bytes(hashlib.sha256(b"torch.uint8:(1,)").digest()[:8], "big")
    word = torch.tensor([signed64(GOLDEN + 200)])  # position 0 weighs golden once
    total = torch.tensor([signed64(header)]) + mix64_(word, torch.empty_like(word))
    expected = int(mix64_(total, torch.empty_like(total))) & ((1 << 64) - 1)
    assert checksum64(torch.tensor([200], dtype=torch.uint8)) == expected


def test_every_element_size_and_an_empty_tensor_have_a_checksum() -> None:
    dtypes = (torch.bool, torch.uint8, torch.bfloat16, torch.float16, torch.float32, torch.int64, torch.float64)
    assert len({checksum64(torch.zeros(6, dtype=dtype)) for dtype in dtypes}) == len(dtypes)
    assert checksum64(torch.empty(0)) != checksum64(torch.empty(0, 2))
    with pytest.raises(ShapeError, match="complex128 has 16"):
        checksum64(torch.zeros(2, dtype=torch.complex128))


def test_the_weights_hash_ignores_order_and_notices_a_rename_and_a_value() -> None:
    a, b = weight_entry("a", X), weight_entry("b", -X)
    assert weights_hash([a, b]) == weights_hash([b, a])
    assert len(weights_hash([a])) == 64
    renamed = (("b", *a[1:]), ("a", *b[1:]))
    assert weights_hash(renamed) != weights_hash([a, b])
    assert weights_hash([a, weight_entry("b", X)]) != weights_hash([a, b])


def test_entries_made_together_are_those_made_one_by_one() -> None:
    dtypes = (torch.uint8, torch.bool, torch.bfloat16, torch.float32, torch.int64)
    named = {f"{dtype} {count}": torch.arange(-3, count - 3).to(dtype) for dtype in dtypes for count in (0, 1, 7, 9000)}
    named |= {"scalar": torch.tensor(2.5), "large": torch.arange(20001), "turned": X.permute(2, 0, 1)}
    named |= {f"more {place}": X[place % 3] * place for place in range(40)}
    named |= {f"wide {place}": torch.full((11, 1400), float(place)) for place in range(23)}  # more than go together
    made = list(weight_entries(named.items()))
    assert sorted(made) == sorted(weight_entry(name, tensor) for name, tensor in named.items())
    assert list(weight_entries([])) == []


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64], ids=str)
def test_cuda_gives_the_same_checksum(dtype: torch.dtype) -> None:
    assert checksum64(example(dtype).cuda(), chunk=11) == checksum64(example(dtype))
