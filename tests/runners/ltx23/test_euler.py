"""The Euler step and the pull to given values, against the official ones."""

import pytest
import torch

from runners.ltx23.euler import euler_step, pull_to_clean
from runners.ltx23.scheduler import sigma_schedule

DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)


@DTYPES
def test_every_step_of_a_schedule_has_the_official_bits(dtype: torch.dtype) -> None:
    from ltx_core.components.diffusion_steps import EulerDiffusionStep

    sigmas = sigma_schedule(8)
    changes = sigmas.diff().tolist()
    generator = torch.Generator().manual_seed(2)
    latent, x0 = (torch.randn(1, 50, 7, generator=generator).to(dtype) for _ in range(2))
    for index, change in enumerate(changes):
        wanted = EulerDiffusionStep().step(latent, x0, sigmas, index)
        stepped = euler_step(latent, x0, sigmas.tolist()[index], change)
        assert stepped.dtype == dtype and torch.equal(stepped, wanted)


def test_the_last_step_lands_on_the_prediction() -> None:
    latent, x0 = torch.tensor([[[4.0]]]), torch.tensor([[[1.0]]])
    assert euler_step(latent, x0, 0.5, -0.5).item() == 1.0
    assert euler_step(latent, x0, 0.5, -0.25).item() == 2.5  # v = 6, x + v * -0.25


@DTYPES
def test_given_tokens_are_pulled_back_as_officially(dtype: torch.dtype) -> None:
    from ltx_pipelines.utils.helpers import post_process_latent

    x0, clean = torch.randn(1, 5, 3).to(dtype), torch.randn(1, 5, 3).to(dtype)
    mask = torch.tensor([1.0, 0.0, 0.3, 0.9, 0.5]).view(1, 5, 1)
    pulled = pull_to_clean(x0, mask, clean)
    assert torch.equal(pulled, post_process_latent(x0, mask, clean))
    assert torch.equal(pulled[:, 0], x0[:, 0]) and torch.equal(pulled[:, 1], clean[:, 1])
