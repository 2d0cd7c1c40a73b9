"""Lags. A clip shifted by a known number of steps must give that number, with its sign."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from parity.diff.lag import correlation_lag, difference_lag


def sound(seed: int, channels: int = 2, samples: int = 300) -> Tensor:
    return torch.randn(channels, samples, generator=torch.Generator().manual_seed(seed))


def shifted(clip: Tensor, lag: int) -> Tensor:
    """The clip `lag` samples later (earlier if negative), silence filled in."""
    result = torch.zeros_like(clip)
    if lag >= 0:
        result[:, lag:] = clip[:, : clip.shape[1] - lag]
    else:
        result[:, :lag] = clip[:, -lag:]
    return result


@pytest.mark.parametrize("lag", [-50, -7, -1, 0, 1, 13, 50])
def test_a_shifted_sound_gives_its_lag_despite_gain_offset_and_noise(lag: int) -> None:
    clip = sound(0)
    candidate = 0.3 * shifted(clip, lag) + 0.05 * sound(1) + 2.0
    assert correlation_lag(clip, candidate, 50) == lag
    assert correlation_lag(candidate, clip, 50) == -lag


def test_correlation_agrees_with_a_direct_search() -> None:
    clip, candidate = sound(2, samples=41), shifted(sound(2, samples=41), 9) + 0.5 * sound(3, samples=41)
    r = (clip - clip.mean(1, keepdim=True)).double().numpy()
    c = (candidate - candidate.mean(1, keepdim=True)).double().numpy()
    fits = {}
    for k in range(-20, 21):
        x, y = r[:, max(0, -k) : 41 - max(0, k)], c[:, max(0, k) : 41 + min(0, k)]
        fits[k] = (x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum())
    assert correlation_lag(clip, candidate, 20) == max(fits, key=lambda k: fits[k]) == 9


def test_of_the_lags_of_a_periodic_sound_the_nearest_to_zero_is_taken() -> None:
    tone = torch.sin(2 * math.pi * torch.arange(200, dtype=torch.float64) / 20)[None]
    assert correlation_lag(tone, torch.roll(tone, 3, dims=1), 60) == 3
    assert correlation_lag(tone, 0.5 * tone, 60) == 0


def test_sounds_without_a_lag_have_none() -> None:
    clip = sound(4)
    assert math.isnan(correlation_lag(clip, torch.full_like(clip, 0.1), 50))
    assert math.isnan(correlation_lag(torch.zeros_like(clip), clip, 50))
    assert math.isnan(correlation_lag(clip, sound(5), 50))  # other content
    assert math.isnan(correlation_lag(clip, clip, 0))


def test_a_faint_tail_that_happens_to_fit_does_not_outweigh_the_sound() -> None:
    clip = sound(6, channels=1, samples=100)
    candidate = clip + 0.5 * sound(7, channels=1, samples=100)
    candidate -= candidate.mean()
    clip[:, :50] -= clip[:, :50].mean() + 1e-3 * candidate[:, :50].mean()  # means are zero, so they hide nothing
    clip[:, 50:] = 1e-3 * candidate[:, :50]  # fits perfectly at a lag of -50, with a millionth of the energy
    assert correlation_lag(clip, candidate, 50) == 0


@pytest.mark.parametrize("lag", [-4, -1, 0, 1, 5])
def test_a_shifted_picture_gives_its_lag_even_in_a_steady_fade(lag: int) -> None:
    moments = np.arange(20.0)
    fade = np.stack([3 * moments, 100 + moments, 7 - moments], axis=1)  # (N, C): lag and level are told apart
    candidate = fade - lag * np.array([3.0, 1.0, -1.0])
    assert difference_lag(fade, candidate, 6) == lag
    wobble = 0.3 * np.random.default_rng(0).standard_normal(fade.shape)
    assert difference_lag(fade, candidate + wobble, 6) == lag


def test_a_still_picture_has_no_lag_and_a_repeating_one_the_smallest() -> None:
    still = np.full((12, 3), 40.0)
    assert math.isnan(difference_lag(still, still + 1, 4))
    noise = np.random.default_rng(1).standard_normal((240, 50))
    assert math.isnan(difference_lag(np.full((240, 50), 40.0), 40 + noise, 4))
    repeating = np.tile(np.array([[0.0], [9.0], [3.0]]), (8, 1))
    assert difference_lag(repeating, np.roll(repeating, 1, axis=0), 9) == 1
    assert math.isnan(difference_lag(still, still + 1, 0))
