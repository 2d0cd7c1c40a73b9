"""One Euler step along the schedule, and the pull of given tokens towards their clean values.

Source: ltx_core.components.diffusion_steps.EulerDiffusionStep, ltx_pipelines.utils.helpers.post_process_latent and
ltx_core.utils.to_velocity 1.0.0. Rectified flow: v = (x - x0) / sigma, x' = x + v (sigma' - sigma).

Axes: B sample, T token, C channel.
"""

from torch import Tensor


def pull_to_clean(x0: Tensor, denoise_mask: Tensor, clean: Tensor) -> Tensor:
    """Replace a prediction by the given value where the mask is 0, blend in between: (B, T, C), dtype of `x0`."""
    return (x0 * denoise_mask + clean.float() * (1 - denoise_mask)).to(x0.dtype)


def euler_step(latent: Tensor, x0: Tensor, sigma: float, sigma_change: float) -> Tensor:
    """The latent at the next noise level, (B, T, C) in its own dtype; sums in fp32, the velocity rounded in between.

    `sigma` is a number, not a tensor: CUDA divides by a host scalar through its reciprocal, which has other bits.
    """
    velocity = ((latent.float() - x0.float()) / sigma).to(latent.dtype)
    return (latent.float() + velocity.float() * sigma_change).to(latent.dtype)
