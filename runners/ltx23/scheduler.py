"""The sigma schedule: token-count-dependent shift of a linear ramp, stretched to end at a terminal value.

Source: ltx_core.components.schedulers.LTX2Scheduler 1.0.0; the shift is that of Stable Diffusion 3 (Esser et al. 2024,
equation 23, in its exponential form). The one-stage pipeline calls it without a latent, so the token count is constant.
"""

import math

import torch
from torch import Tensor

ONE_STAGE_TOKENS = 4096  # not the request's real count: the official one-stage pipeline never passes its latent
SHIFT_ANCHORS = ((1024, 0.95), (4096, 2.05))  # (tokens, shift): the shift is linear in tokens through these
TERMINAL = 0.1  # the smallest sigma before zero


def sigma_schedule(num_steps: int, num_tokens: int = ONE_STAGE_TOKENS) -> Tensor:
    """Noise levels from 1 down to 0.

    Returns: float32 (num_steps + 1,) on the CPU. A single step goes from the terminal value, as officially.
    """
    (tokens_low, shift_low), (tokens_high, shift_high) = SHIFT_ANCHORS
    slope = (shift_high - shift_low) / (tokens_high - tokens_low)
    shift = math.exp(num_tokens * slope + (shift_low - slope * tokens_low))
    ramp = torch.linspace(1.0, 0.0, num_steps + 1)
    sigmas = torch.where(ramp != 0, shift / (shift + (1 / ramp - 1)), 0)
    positive = sigmas != 0
    distance = 1.0 - sigmas[positive]
    sigmas[positive] = 1.0 - distance / (distance[-1] / (1.0 - TERMINAL))
    return sigmas.to(torch.float32)
