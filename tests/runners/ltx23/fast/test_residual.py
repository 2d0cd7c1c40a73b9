"""The stream in 24 bits: values worked by hand from the bits of fp32."""

import pytest
import torch

from runners.ltx23.fast.residual import Residual

ONE = 1.0
STEP = 2.0**-15  # between two numbers of 24 bits in [1, 2)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (ONE + STEP, ONE + STEP),
        (ONE + 0.49 * STEP, ONE),
        (ONE + 0.51 * STEP, ONE + STEP),
        (-ONE - 0.51 * STEP, -ONE - STEP),
        (2 - 0.25 * STEP, 2.0),  # the carry goes through both planes into the exponent
        (257.0, 257.0),  # bf16 has 256 and 258
        (0.0, 0.0),
        (torch.inf, torch.inf),
        (-torch.inf, -torch.inf),
    ],
)
def test_values_are_rounded_to_nearest(given: float, kept: float) -> None:
    assert Residual.of(torch.full((1, 1, 2), given), torch.bfloat16).float().tolist() == [[[kept, kept]]]


def test_no_nan_becomes_a_number() -> None:
    bits = torch.tensor([[[0x7FC00000, 0x7FFFFFFF, 0x7F800001 + 0xFF]]], dtype=torch.int32)
    assert Residual.of(bits.view(torch.float32), torch.bfloat16).float().isnan().all()


def test_the_first_plane_is_the_number_cut_off_to_bf16() -> None:
    x = torch.tensor([[[257.0, -257.0]]])
    high, low = (kept := Residual.of(x, torch.bfloat16)).high, kept.low
    assert high.dtype == torch.bfloat16 and high.tolist() == [[[256.0, -256.0]]]
    assert low is not None and low.tolist() == [[[128, 128]]]  # half of the 2 between bf16 numbers there


def test_a_model_in_another_dtype_has_its_stream_in_fp32() -> None:
    kept = Residual.of(torch.tensor([[[ONE + 2**-20]]]), torch.float32)
    assert kept.low is None and kept.float().item() == ONE + 2**-20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_are_in_place_and_rows_are_copies(dtype: torch.dtype) -> None:
    x = torch.arange(3 * 2 * 5.0).reshape(3, 2, 5) + 0.5
    stream = Residual.of(x, dtype)
    copied = stream.rows((2, 0, 0))
    assert torch.equal(copied.float(), x[[2, 0, 0]])
    stream.part(slice(1, None)).copy_(torch.full((2, 2, 5), 3.0))
    assert len(stream) == 3 and torch.equal(stream.float()[0], x[0]) and (stream.float()[1:] == 3).all()
    assert torch.equal(copied.float()[0], x[2])
