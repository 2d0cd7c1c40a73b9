"""Rotary tables and rotation: worked by hand on small cases, bit for bit against ltx-core 1.0.0 on odd sizes."""

import math
from typing import Any

import pytest
import torch

from runners.errors import ShapeError
from runners.ltx23.rotary import InterleavedRotary, SplitRotary, frequency_grid, middle_of_cells, rotary_table
from runners.ltx23.transformer_config import FrequencyPrecision, RotaryConfig, RotaryKind

SPLIT = RotaryConfig(kind="split", precision="float64")


def test_frequencies_go_from_a_quarter_turn_to_theta_quarter_turns_in_equal_ratios() -> None:
    config = RotaryConfig(kind="split", theta=16.0, precision="float64")
    expected = torch.tensor([1.0, 4.0, 16.0]) * math.pi / 2
    torch.testing.assert_close(frequency_grid(config, count=3), expected, rtol=1e-6, atol=0)


def test_precisions_give_grids_that_differ_in_their_last_bits() -> None:
    double, single = (
        frequency_grid(RotaryConfig(kind="split", precision=p), count=341) for p in ("float64", "float32")
    )
    torch.testing.assert_close(single, double, rtol=1e-5, atol=0)
    assert not torch.equal(single, double)


def test_a_cell_is_placed_at_its_middle() -> None:
    starts_and_ends = torch.tensor([[[[0.0, 1.0], [1.0, 9.0]]]])  # one axis, two tokens
    assert middle_of_cells(starts_and_ends).tolist() == [[[0.5, 5.0]]]
    with pytest.raises(ShapeError, match=r"\(1, 1, 2\)"):
        middle_of_cells(starts_and_ends[..., 0])


def test_the_split_kind_pairs_channels_across_the_halves_of_a_head() -> None:
    # A quarter turn takes (first, second) to (-second, first), head by head.
    cos, sin = torch.zeros(1, 2, 1, 1), torch.ones(1, 2, 1, 1)  # two heads, one token, one frequency
    turned = SplitRotary(cos, sin, -sin).rotate(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]))
    assert turned.tolist() == [[[-2.0, 1.0, -4.0, 3.0]]]
    cos, sin = torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2)  # one head of the same width
    turned = SplitRotary(cos, sin, -sin).rotate(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]))
    assert turned.tolist() == [[[-3.0, -4.0, 1.0, 2.0]]]


def test_the_interleaved_kind_pairs_neighbours() -> None:
    cos, sin = torch.zeros(1, 1, 4), torch.ones(1, 1, 4)
    turned = InterleavedRotary(cos, sin).rotate(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]))
    assert turned.tolist() == [[[-2.0, 1.0, -4.0, 3.0]]]


def test_frequencies_alternate_between_axes_after_channels_that_stay() -> None:
    """Width 10 on 2 axes: 2 frequencies for each axis, so 1 of the 5 pairs is not turned."""
    config = RotaryConfig(kind="split", theta=4.0, precision="float64")
    positions = torch.tensor([[[3.0], [1.0]]])  # 3 of 4 and 1 of 4: +1/2 and -1/2 of each frequency
    table = rotary_table(positions, width=10, heads=1, max_positions=(4, 4), config=config, dtype=torch.float32)
    assert isinstance(table, SplitRotary)
    quarter = math.pi / 4
    angles = torch.tensor([0.0, quarter, -quarter, 4 * quarter, -4 * quarter])
    torch.testing.assert_close(table.cos[0, 0, 0], angles.cos())
    torch.testing.assert_close(table.sin[0, 0, 0], angles.sin())


def test_positions_of_other_axes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"wanted|must be \(B, 3, T\)"):
        rotary_table(torch.ones(1, 2, 5), width=12, heads=2, max_positions=(4, 5, 6), config=SPLIT, dtype=torch.float32)


@pytest.mark.parametrize("kind", ["split", "interleaved"])
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("ends", "width", "heads"), [((20, 2048, 1000), 130, 5), ((19,), 52, 2)])
def test_tables_and_rotation_have_the_official_bits(
    kind: RotaryKind, precision: FrequencyPrecision, dtype: torch.dtype, ends: tuple[int, ...], width: int, heads: int
) -> None:
    from ltx_core.model.transformer import rope

    official_kind: Any = rope.LTXRopeType(kind)
    generator = torch.Generator().manual_seed(11)
    tokens = 37
    starts = torch.rand(1, len(ends), tokens, generator=generator) * 19
    cells = torch.stack([starts, starts + 0.3], dim=-1).to(dtype)
    x = torch.randn(1, tokens, width, generator=generator).to(dtype)
    expected = rope.precompute_freqs_cis(
        cells,
        dim=width,
        out_dtype=dtype,
        theta=3000.0,
        max_pos=list(ends),
        use_middle_indices_grid=True,
        num_attention_heads=heads,
        rope_type=official_kind,
        freq_grid_generator=rope.generate_freq_grid_np if precision == "float64" else rope.generate_freq_grid_pytorch,
    )
    table = rotary_table(
        middle_of_cells(cells),
        width=width,
        heads=heads,
        max_positions=ends,
        config=RotaryConfig(kind=kind, theta=3000.0, precision=precision),
        dtype=dtype,
    )
    assert torch.equal(table.cos, expected[0])
    assert torch.equal(table.sin, expected[1])
    assert torch.equal(table.rotate(x), rope.apply_rotary_emb(x, expected, official_kind))
