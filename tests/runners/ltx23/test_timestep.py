"""Sinusoidal embedding and rows of modulation, worked by hand; the whole is held to the official bits elsewhere."""

import math

import torch

from runners.ltx23.timestep import AdaLayerNormSingle, modulate, rms_norm, sinusoidal_embedding, table_rows


def test_cosines_stand_before_sines_and_periods_grow_to_ten_thousand() -> None:
    embedded = sinusoidal_embedding(torch.tensor([0.0, 2.0], dtype=torch.float64))
    assert embedded.dtype == torch.float32
    assert embedded.shape == (2, 256)
    assert embedded[0].tolist() == [1.0] * 128 + [0.0] * 128
    assert math.isclose(embedded[1, 0].item(), math.cos(2.0), rel_tol=1e-6)
    assert math.isclose(embedded[1, 128].item(), math.sin(2.0), rel_tol=1e-6)
    # Frequency 64 of 128 is the 10000 ** -0.5 = 0.01 one; the last stops one 128th short of 10000 ** -1.
    assert math.isclose(embedded[1, 128 + 64].item(), math.sin(0.02), rel_tol=1e-5)
    assert math.isclose(embedded[1, 255].item(), math.sin(2.0 * 10000 ** (-127 / 128)), rel_tol=1e-5)


def test_noise_levels_of_a_batch_keep_their_samples() -> None:
    torch.manual_seed(0)
    model = AdaLayerNormSingle(width=6, rows=4)
    levels = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]])  # (B=2, T=3, 1)
    modulation, embedding = model(levels, batch=2, dtype=torch.float32)
    assert (modulation.shape, embedding.shape) == ((2, 3, 24), (2, 3, 6))
    alone, _ = model(torch.tensor([5.0]), batch=1, dtype=torch.float32)
    torch.testing.assert_close(modulation[1, 1], alone[0, 0])


def test_rows_of_a_table_are_added_to_the_same_rows_of_the_modulation() -> None:
    table = torch.tensor([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]])  # R = 3, C = 2
    modulation = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]])
    middle, last = table_rows(table, modulation, slice(1, 3))
    assert middle.tolist() == [[[33.0, 44.0]]]
    assert last.tolist() == [[[55.0, 66.0]]]
    assert table_rows(table, modulation.bfloat16(), slice(0, 1))[0].dtype == torch.bfloat16


def test_a_normed_token_is_scaled_by_one_more_than_its_scale() -> None:
    x = torch.tensor([[[3.0, 4.0, 0.0, 0.0]]])  # root mean square 2.5
    normed = rms_norm(x, eps=0.0)
    assert normed.tolist() == [[[1.2000000476837158, 1.600000023841858, 0.0, 0.0]]]
    assert modulate(torch.tensor([2.0]), torch.tensor([0.5]), torch.tensor([-1.0])).item() == 2.0
