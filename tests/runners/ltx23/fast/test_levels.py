"""Distinct noise levels of tokens."""

import pytest
import torch

from runners.errors import ShapeError
from runners.ltx23.fast.levels import TokenLevels
from runners.ltx23.transformer import ModalityInput


def test_tokens_find_their_level_among_the_distinct_ones() -> None:
    mask = torch.tensor([0.0, 0.25, 1.0, 1.0, 0.0])[None, :, None]
    levels = TokenLevels.of(mask)
    assert levels.mask.flatten().tolist() == [0.0, 0.25, 1.0]
    assert levels.row.tolist() == [0, 1, 2, 2, 0]
    assert levels.row.dtype == torch.int32
    assert torch.equal(levels.mask[0, levels.row.long()], mask[0])


def test_a_modality_is_cut_to_its_levels() -> None:
    mask = torch.tensor([0.0, 1.0, 1.0])[None, :, None]
    sigma = torch.tensor(0.5)
    whole = ModalityInput(latent=torch.ones(1, 3, 7), sigma=sigma, timesteps=mask * sigma, context=torch.ones(1, 4, 6))
    cut = TokenLevels.of(mask).of_modality(whole, sigma)
    assert cut.latent.shape == (1, 2, 7)
    assert cut.timesteps.flatten().tolist() == [0.0, 0.5]


@pytest.mark.parametrize("shape", [(2, 5, 1), (1, 5, 3), (5, 1)])
def test_more_than_one_sample_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="denoise mask"):
        TokenLevels.of(torch.ones(shape))
