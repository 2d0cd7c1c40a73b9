"""The sampler res_2s held to its mathematics and, bit for bit, to the official loop."""

import importlib
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from runners.ltx23.latents import LatentState
from runners.ltx23.res_2s import (
    MIDDLE_SEED,
    Pair,
    phi,
    renoised,
    res_2s,
    unit_noise,
    weights_of,
)

VIDEO = (1, 6, 5)  # B, T, C
AUDIO = (1, 4, 3)


def state_of(shape: tuple[int, int, int], seed: int, dtype: torch.dtype = torch.bfloat16) -> LatentState:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(1, shape[1], 1)
    mask[:, 0] = 0.25  # a picture of strength 3/4
    mask[:, 1] = 0.0
    return LatentState(
        latent=torch.randn(shape, generator=generator).to(dtype),
        clean=torch.randn(shape, generator=generator).to(dtype),
        denoise_mask=mask,
        positions=torch.zeros(1, 1, shape[1], 2),
    )


def denoised(video: Any, audio: Any, sigma: Tensor) -> Pair:
    """A made-up model: what it says depends on latents and level, in the latents' dtype."""
    pair = [
        torch.tanh(state.latent.float() * (1 - sigma.float() / 2)).to(state.latent.dtype) for state in (video, audio)
    ]
    return pair[0], pair[1]


def official_loop(sigmas: Tensor, video: LatentState, audio: LatentState, dtype: torch.dtype) -> list[Any]:
    samplers: Any = importlib.import_module("ltx_pipelines.utils.samplers")
    official: Any = importlib.import_module("ltx_core.types").LatentState
    stepper = importlib.import_module("ltx_core.components.diffusion_steps").Res2sDiffusionStep()
    states = [
        official(
            latent=one.latent,
            denoise_mask=one.denoise_mask,
            positions=one.positions,
            clean_latent=one.clean,
        )
        for one in (video, audio)
    ]
    return list(
        samplers.res2s_audio_video_denoising_loop(
            sigmas=sigmas,
            video_state=states[0],
            audio_state=states[1],
            stepper=stepper,
            denoise_fn=lambda video_state, audio_state, sigmas, step_index: denoised(
                video_state, audio_state, sigmas[step_index]
            ),
            model_dtype=dtype,
        )
    )


# Long steps; short ones, whose starts are refined; and a schedule that does not end at 0.
@pytest.mark.parametrize("sigmas", [[1.0, 0.6, 0.2, 0.0], [0.9, 0.8, 0.72, 0.66, 0.04, 0.02, 0.0], [0.909375, 0.725]])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_schedule_has_the_bits_of_the_official_loop(sigmas: list[float], dtype: torch.dtype) -> None:
    levels = torch.tensor(sigmas)
    video, audio = state_of(VIDEO, 1, dtype), state_of(AUDIO, 2, dtype)
    ours = res_2s(levels, video, audio, denoised, dtype)
    theirs = official_loop(levels, video, audio, dtype)
    for one, other, before in zip(ours, theirs, (video, audio), strict=True):
        assert one.latent.dtype == dtype and torch.equal(one.latent, other.latent)
        assert not torch.equal(one.latent, before.latent)


def test_phi_is_the_integral_that_defines_it() -> None:
    # phi_j(z) = integral over t in [0, 1] of e^((1 - t) z) t^(j - 1) / (j - 1)!, by the midpoint rule.
    for order, z in ((1, -0.7), (2, -0.7), (2, -3.0), (3, 0.4)):
        points = [(index + 0.5) / 20000 for index in range(20000)]
        integral = sum(math.exp((1 - t) * z) * t ** (order - 1) for t in points) / 20000 / math.factorial(order - 1)
        assert phi(order, z) == pytest.approx(integral, rel=1e-7)
    assert (phi(1, 0.0), phi(2, 0.0), phi(3, 1e-12)) == (1.0, 0.5, 1 / 6)


def test_a_step_is_exact_for_a_prediction_that_is_constant_and_of_second_order_for_one_that_moves() -> None:
    # Constant x0: x(h) = x0 + e^-h (x - x0), so b1 + b2 = phi_1(-h) = (1 - e^-h) / h, and likewise to the middle.
    h = 0.8
    weights = weights_of(h)
    assert h * (weights.b1 + weights.b2) == pytest.approx(1 - math.exp(-h))
    assert h * weights.a == pytest.approx(1 - math.exp(-h / 2))

    def error(steps: int) -> float:
        # dx/dlambda = sin(lambda) - x from x(0) = 1: x = (sin - cos)/2 + 3/2 e^-lambda.
        x, length = 1.0, 1.0 / steps
        for index in range(steps):
            now, w = index * length, weights_of(length)
            x += length * (w.b1 * (math.sin(now) - x) + w.b2 * (math.sin(now + length / 2) - x))
        return abs(x - ((math.sin(1.0) - math.cos(1.0)) / 2 + 1.5 * math.exp(-1.0)))

    assert 3.7 < error(20) / error(40) < 4.3  # halving the step quarters the error


def test_renoising_keeps_the_sum_of_signal_and_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    x0, old, fresh = (torch.randn(1, 7, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    sigma, lower = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    start, point = ((1 - level) * x0 + level * old for level in (sigma, lower))
    made = renoised(start, point, sigma, lower, fresh)
    u = 0.25
    d = math.sqrt(0.5**2 - u**2)
    torch.testing.assert_close(made, 0.5 * x0 + d * old + u * fresh, rtol=1e-12, atol=1e-12)
    assert torch.equal(renoised(start, point, sigma, torch.zeros_like(lower), fresh), point)


def test_noise_is_of_mean_0_and_deviation_1_and_never_drawn_twice() -> None:
    generator = torch.Generator().manual_seed(MIDDLE_SEED)
    like = torch.zeros(1, 9, 5, dtype=torch.bfloat16)
    first, second = unit_noise(like, generator), unit_noise(like, generator)
    assert first.dtype == torch.float64 and first.shape == like.shape
    assert first.mean().abs() < 1e-15 and first.std() == pytest.approx(1.0)
    assert not torch.equal(first, second)


def test_a_step_asks_at_its_start_and_its_middle_and_the_schedule_once_more_at_its_end() -> None:
    asked: list[tuple[float, torch.dtype]] = []

    def predict(video: LatentState, audio: LatentState, sigma: Tensor) -> Pair:
        asked.append((round(float(sigma), 4), sigma.dtype))
        return denoised(video, audio, sigma)

    video, audio = (replace(state_of(shape, 3), denoise_mask=torch.ones(1, shape[1], 1)) for shape in (VIDEO, AUDIO))
    res_2s(torch.tensor([0.9, 0.4, 0.0]), video, audio, predict, torch.bfloat16)
    single, double = torch.float32, torch.float64
    assert asked == [
        (0.9, single),
        (0.6, double),
        (0.4, single),
        (0.021, double),  # sqrt(0.4 x 0.0011)
        (0.0011, single),
    ]
