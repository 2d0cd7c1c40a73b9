"""The sampler `res_2s`: an exponential Runge-Kutta step of second order, with noise put back in and an anchor refined.

In lambda = -log(sigma) the denoising equation is dx/dlambda = x0(x) - x, linear but for the prediction x0. Over a step
of length h the linear part is solved exactly, and the prediction is taken at the step's start and at its middle:

    phi_j(z) = (e^z - sum over k < j of z^k / k!) / z^j           phi_j(0) = 1 / j!
    x_mid  = x + h a (x0(x) - x)                                  a  = c phi_1(-c h),  c = 1/2
    x_next = x + h (b1 (x0(x) - x) + b2 (x0(x_mid) - x))          b2 = phi_2(-h) / c,  b1 = phi_1(-h) - b2

(Hochbruck and Ostermann, Exponential integrators, 2010, section 2.3.) Either point is then moved down to a noise level
below its own, and fresh noise of half its level is added, so that signal and noise keep the sum they have on the path
of a rectified flow; the noise of middles and of whole steps comes from two generators of fixed seeds. Where a step is
short, the start x is moved until the noisy middle lies on its path. A schedule that ends at 0 ends at LEAST_SIGMA in
place of it, and one more prediction there is the result.

Sums run in fp64; of a whole step the coefficients are fp32, as its levels are.

Source: ltx_pipelines.utils.{samplers.res2s_audio_video_denoising_loop,res2s} and
ltx_core.components.diffusion_steps.Res2sDiffusionStep 1.0.0, with the arguments that the two-stage HQ pipeline leaves
as they are.

Axes: B sample, T token, C channel.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from runners.ltx23.euler import pull_to_clean
from runners.ltx23.latents import LatentState

MIDDLE: Final = 0.5  # c: where in the step its second prediction is taken
STEP_SEED: Final = -1  # of the noise that whole steps add
MIDDLE_SEED: Final = 9999  # of the noise that middles add
NOISE_SHARE: Final = 0.5  # of the level that a point is moved to, which fresh noise makes up
MOST_NOISE_SHARE: Final = 0.9999
LEAST_SIGMA: Final = 0.0011  # in place of 0, whose logarithm is none
SHORT_STEP: Final = 0.5  # h below which the start is refined
REFINED_ABOVE: Final = 0.03  # noise level above which the start is refined
REFINEMENTS: Final = 100
NEARLY_ZERO: Final = 1e-10  # z below which phi is its limit

Pair = tuple[Tensor, Tensor]  # video, audio
States = tuple[LatentState, LatentState]


# Guided x0 of both modalities, (B, T, C) each, of two states at a noise level: fp32 () at starts, fp64 () at middles.
Predict = Callable[[LatentState, LatentState, Tensor], Pair]


@dataclass(frozen=True, kw_only=True)
class StepWeights:
    """The weights of a step in lambda; formulas in the module."""

    a: float
    b1: float
    b2: float


def phi(order: int, z: float) -> float:
    """phi_j(z) of an exponential integrator, for j = `order`."""
    if abs(z) < NEARLY_ZERO:
        return 1.0 / math.factorial(order)
    series = sum(z**power / math.factorial(power) for power in range(order))
    return (math.exp(z) - series) / z**order


def weights_of(h: float) -> StepWeights:
    """The weights of a step of length `h` in lambda."""
    b2 = phi(2, -h) / MIDDLE
    return StepWeights(a=MIDDLE * phi(1, -h * MIDDLE), b1=phi(1, -h) - b2, b2=b2)


def unit_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """fp64 noise (B, T, C) of mean 0 and deviation 1: over all of it, then, for what rounding left, over a sample."""
    noise = torch.randn(like.shape, generator=generator, dtype=torch.float64, device=generator.device)
    noise = (noise - noise.mean()) / noise.std()
    noise = noise - noise.mean(dim=(-2, -1), keepdim=True)
    return noise / noise.std(dim=(-2, -1), keepdim=True)


def renoised(start: Tensor, point: Tensor, sigma: Tensor, sigma_next: Tensor, noise: Tensor) -> Tensor:
    """A point at a noise level, with half of that level made up of fresh noise.

    The line from `start` at `sigma` through `point` at `sigma_next` is a path x = (1 - sigma) x0 + sigma noise, whose
    direction is noise - x0 and whose end at 0 is x0. With u = sigma_next / 2 the amount of fresh noise and
    d = sqrt(sigma_next^2 - u^2) what is left of the old, the new point is (1 - sigma_next) x0 + d noise + u fresh.

    Args:
        start: fp64 (B, T, C) at `sigma`.
        point: fp64 (B, T, C) at `sigma_next`.
        sigma: () in the dtype that coefficients are computed in.
        sigma_next: () below it.
        noise: fp64 (B, T, C) of mean 0 and deviation 1.
    """
    fresh = (sigma_next * NOISE_SHARE).clamp(max=sigma_next * MOST_NOISE_SHARE)
    if bool(fresh == 0):
        return point
    left = (sigma_next**2 - fresh**2).clamp(min=0) ** 0.5
    total = (1 - sigma_next) + left
    direction = (start - point) / (sigma - sigma_next)
    prediction = start - sigma * direction
    return total * (prediction + left / total * direction) + fresh * noise


def res_2s(sigmas: Tensor, video: LatentState, audio: LatentState, predict: Predict, dtype: torch.dtype) -> States:
    """Run a whole schedule.

    Args:
        sigmas: fp32 (steps + 1,) falling noise levels, on the device of the states.
        video: state at the first level.
        audio: likewise.
        predict: asks the model: at each step's start and middle, and after the last one.
        dtype: of the latents that the model sees.
    Returns: both states with the last latents.
    """
    device = video.latent.device
    of_steps = torch.Generator(device=device).manual_seed(STEP_SEED)
    of_middles = torch.Generator(device=device).manual_seed(MIDDLE_SEED)
    ends_at_zero = bool(sigmas[-1] == 0)
    levels = torch.cat([sigmas[:-1], sigmas.new_tensor([LEAST_SIGMA])]) if ends_at_zero else sigmas
    exact = levels.double().cpu()
    lengths: list[float] = (-torch.log(exact[1:] / exact[:-1])).tolist()
    states = video, audio
    for index, h in enumerate(lengths):
        states = _step(h, levels[index : index + 2], states, predict, dtype, of_steps, of_middles)
    if not ends_at_zero:
        return states
    return _with(states, _pulled(predict(*states, levels[-1]), states), dtype)


def _step(
    h: float,
    ends: Tensor,
    states: States,
    predict: Predict,
    dtype: torch.dtype,
    of_steps: torch.Generator,
    of_middles: torch.Generator,
) -> States:
    weights = weights_of(h)
    sigma, sigma_next = ends.double()
    middle = torch.sqrt(sigma * sigma_next)
    starts = [state.latent.double() for state in states]
    first = [x0.double() for x0 in _pulled(predict(*states, ends[0]), states)]
    slopes = [x0 - start for x0, start in zip(first, starts, strict=True)]
    middles = []
    for state, start, slope in zip(states, starts, slopes, strict=True):
        noise = unit_noise(state.latent, of_middles)
        middles.append(_kept(renoised(start, start + h * weights.a * slope, sigma, middle, noise), state))
    if h < SHORT_STEP and bool(sigma > REFINED_ABOVE):
        for _ in range(REFINEMENTS):
            starts = [point - h * weights.a * slope for point, slope in zip(middles, slopes, strict=True)]
            slopes = [x0 - start for x0, start in zip(first, starts, strict=True)]
    between = _with(states, (middles[0], middles[1]), dtype)
    second = _pulled(predict(*between, middle), states)
    ended = []
    for state, start, slope, x0 in zip(states, starts, slopes, second, strict=True):
        point = start + h * (weights.b1 * slope + weights.b2 * (x0.double() - start))
        noise = unit_noise(state.latent, of_steps)
        ended.append(_kept(renoised(start, point, ends[0], ends[1], noise), state))
    return _with(states, (ended[0], ended[1]), dtype)


def _kept(point: Tensor, state: LatentState) -> Tensor:
    return pull_to_clean(point, state.denoise_mask, state.clean)


def _pulled(x0: Pair, states: States) -> Pair:
    return _kept(x0[0], states[0]), _kept(x0[1], states[1])


def _with(states: States, latents: Pair, dtype: torch.dtype) -> States:
    video, audio = (replace(state, latent=latent.to(dtype)) for state, latent in zip(states, latents, strict=True))
    return video, audio
