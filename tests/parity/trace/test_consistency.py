"""Statistics of one tensor go together, and such as no tensor has are told by what is wrong with them."""

import math

import pytest
import torch
from torch import Tensor

from parity.trace.consistency import contradictions, unequal_statistics
from parity.trace.sketch import sketch

NORM, LARGEST, MEAN = -3, -2, -1  # columns after the buckets


def row_of(tensor: Tensor, buckets: int = 64) -> tuple[Tensor, Tensor]:
    one = sketch(tensor, buckets=buckets)
    floats = torch.cat((one.buckets, torch.tensor([one.l2, one.max_abs, one.mean])))
    return floats[None], torch.tensor([[one.checksum, one.nan_count, one.inf_count]])


def what(shape: tuple[int, ...], floats: Tensor, integers: Tensor) -> str:
    return contradictions([shape], floats, integers).get(0, "")


def honest() -> dict[str, Tensor]:
    """Tensors of every kind that a tap may be: few elements, many, sparse, constant, of one channel, not finite."""
    generator = torch.Generator().manual_seed(5)
    normal = torch.randn(3, 40, 96, generator=generator)
    one_channel = torch.zeros(2, 70, 512)
    one_channel[..., 17] = 1000 + torch.randn(2, 70, generator=generator)
    sparse = torch.zeros(5000)
    sparse[[3, 4000]] = torch.tensor([2.0, -2.0])
    broken = normal.clone()
    broken[1, 2, 3], broken[0, 0, 0] = math.nan, -math.inf
    return {
        "normal": normal,
        "bf16": normal.bfloat16(),
        "one channel": one_channel,
        "sparse": sparse,
        "broken": broken,
        "all broken": torch.full((9,), math.nan),
        "constant": torch.full((7, 333), -0.25),
        "mask": torch.ones(1, 45, dtype=torch.bool),
        "bytes": torch.arange(256, dtype=torch.uint8).repeat(9),
        "zero": torch.zeros(11, 3),
        "one": torch.tensor([[-3.5]]),
        "few": torch.tensor([1.0, -2.0, 3.0]),
        "empty": torch.zeros(0, 4),
        "large": normal * 1e36,
        "small": normal * 1e-30,
        "overflowing": normal * 5e37,
    }


@pytest.mark.parametrize("buckets", [16, 64])
@pytest.mark.parametrize("name", list(honest()))
def test_no_tensor_contradicts_itself(name: str, buckets: int) -> None:
    tensor = honest()[name]
    assert what(tuple(tensor.shape), *row_of(tensor, buckets)) == ""


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        (NORM, math.nan, "norm is not a number"),
        (NORM, math.inf, "norm is not a number"),  # elements of about 3 do not overflow
        (NORM, -1.0, "norm is not a number"),
        (NORM, 3.0, "largest magnitude is greater"),
        (NORM, 1e6, "norm is too large"),
        (LARGEST, math.nan, "not a number"),
        (LARGEST, math.inf, "not a number"),
        (LARGEST, 1e-3, "norm is too large"),
        (LARGEST, 1e6, "largest magnitude is greater"),
        (MEAN, math.nan, "not a number"),
        (MEAN, math.inf, "not a number"),
        (MEAN, 1.5, "mean is too large"),  # root mean square is 1
        (MEAN, -1.5, "mean is too large"),
    ],
)
def test_statistics_that_no_tensor_has_are_told(column: int, value: float, said: str) -> None:
    tensor = honest()["normal"]
    floats, integers = row_of(tensor)
    floats[0, column] = value
    assert said in what(tuple(tensor.shape), floats, integers)


@pytest.mark.parametrize("factor", [0.0, 0.2, 3.5, 1e3])
def test_a_sketch_has_about_the_energy_of_its_norm(factor: float) -> None:
    tensor = honest()["normal"]
    floats, integers = row_of(tensor)
    floats[0, :-3] *= factor
    assert "another energy" in what(tuple(tensor.shape), floats, integers)
    few, counts = row_of(torch.tensor([1.0, -2.0, 3.0]))  # no two share a bucket: energy 14, exactly
    few[0, :-3] *= 1.01
    assert "another energy" in what((3,), few, counts)


@pytest.mark.parametrize("counts", [(-1, 0), (0, -1), (4, 0), (2, 2)])
def test_no_more_elements_are_broken_than_there_are(counts: tuple[int, int]) -> None:
    floats, integers = row_of(torch.tensor([1.0, -2.0, 3.0]))
    integers[0, 1:] = torch.tensor(counts)
    assert "counts" in what((3,), floats, integers)


def test_rows_are_told_apart() -> None:
    rows = [row_of(tensor) for tensor in honest().values()]
    floats, integers = torch.cat([one for one, _ in rows]), torch.cat([one for _, one in rows])
    shapes = [tuple(tensor.shape) for tensor in honest().values()]
    assert contradictions(shapes, floats, integers) == {}
    floats[6, MEAN] = math.nan
    assert list(contradictions(shapes, floats, integers)) == [6]
    changed = floats.clone()
    changed[2, 5] += 1.0 + changed[2, NORM]
    counts = integers.clone()
    counts[4, 1] += 1
    assert unequal_statistics((floats, integers), (floats, integers)) == []
    assert unequal_statistics((floats, integers), (changed, counts)) == [2, 4]
