"""Attention of the fast tier: what it refuses. Its numbers are held to the exact tier by tests of the whole model."""

import pytest
import torch

from runners.errors import ConfigError
from runners.ltx23.attention import Attention
from runners.ltx23.fast.attention import eps_of


def test_norms_of_two_epsilons_are_refused_since_one_pass_norms_both() -> None:
    with torch.device("meta"):
        layer = Attention(query_width=20, context_width=28, heads=3, head_width=8, norm_eps=1e-6, gated=True)
    assert eps_of(layer) == 1e-6
    layer.k_norm.eps = 1e-5
    with pytest.raises(ConfigError, match="epsilons 1e-06 and 1e-05; this tier norms both with one"):
        eps_of(layer)
