"""The sigma schedule against the official scheduler, and its ends."""

import pytest
import torch

from runners.ltx23.scheduler import ONE_STAGE_TOKENS, TERMINAL, sigma_schedule


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 30, 41, 100])
def test_the_schedule_has_the_official_bits(steps: int) -> None:
    from ltx_core.components.schedulers import LTX2Scheduler

    sigmas = sigma_schedule(steps)
    assert sigmas.dtype == torch.float32 and sigmas.shape == (steps + 1,)
    assert torch.equal(sigmas, LTX2Scheduler().execute(steps=steps))


def test_the_token_count_is_that_of_the_latent_where_one_is_given() -> None:
    from ltx_core.components.schedulers import LTX2Scheduler

    latent = torch.zeros(1, 128, 3, 8, 12)  # 288 tokens
    assert torch.equal(sigma_schedule(7, 288), LTX2Scheduler().execute(steps=7, latent=latent))
    assert not torch.equal(sigma_schedule(7, 288), sigma_schedule(7, ONE_STAGE_TOKENS))


def test_it_falls_from_one_over_the_terminal_value_to_zero() -> None:
    sigmas = sigma_schedule(30)
    assert sigmas[0].item() == pytest.approx(1, abs=1e-6) and sigmas[-1] == 0
    assert sigmas[-2].item() == pytest.approx(TERMINAL, abs=1e-6)
    assert (sigmas.diff() < 0).all()


def test_a_single_step_goes_from_the_terminal_value() -> None:
    assert sigma_schedule(1).tolist() == [pytest.approx(TERMINAL), 0.0]
