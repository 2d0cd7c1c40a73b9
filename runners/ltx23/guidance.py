"""Guidance: which passes a step needs, and how their x0 predictions are combined.

    x0 = c + (cfg - 1)(c - u) + stg (c - p) + (modality - 1)(c - m),   then   x0 * (r std(c)/std(x0) + 1 - r)

c is the conditional pass, u the one with the negative prompt, p the one with self-attention of some blocks replaced by
its values (STG, Hyung et al. 2024), m the one with both cross-modal attentions off. The rescale is Lin et al. 2023,
equations 15 and 16. Source: ltx_core.components.guiders.MultiModalGuider 1.0.0.

Axes: B sample, T token, C channel.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from runners.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class GuidanceParameters:
    """Guidance of one modality."""

    cfg_scale: float = 1.0
    stg_scale: float = 0.0
    rescale_scale: float = 0.0
    modality_scale: float = 1.0
    skip_step: int = 0
    stg_blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what has no meaning. Raises: ConfigError."""
        if self.skip_step < 0:
            raise ConfigError(f"skip_step is {self.skip_step}; wanted 0 (evaluate every step) or more.")

    @property
    def needs_uncond(self) -> bool:
        """Whether the negative prompt's pass has any weight."""
        return not math.isclose(self.cfg_scale, 1.0)

    @property
    def needs_perturbed(self) -> bool:
        """Whether the pass with self-attention replaced by its values has any weight."""
        return not math.isclose(self.stg_scale, 0.0)

    @property
    def needs_isolated(self) -> bool:
        """Whether the pass with cross-modal attention off has any weight."""
        return not math.isclose(self.modality_scale, 1.0)

    def skips(self, step: int) -> bool:
        """Whether this modality reuses its last x0 at `step` instead of being evaluated."""
        return self.skip_step != 0 and step % (self.skip_step + 1) != 0


def combine(
    parameters: GuidanceParameters,
    cond: Tensor,
    uncond: Tensor | None,
    perturbed: Tensor | None,
    isolated: Tensor | None,
    in_fp32: bool,
) -> Tensor:
    """The guided x0 of one modality.

    Args:
        parameters: the modality's guidance.
        cond: (B, T, C) prediction of the conditional pass, in the model's dtype; the others alike.
        uncond: prediction with the negative prompt, or None where that pass was not run.
        perturbed: prediction with self-attention perturbed, or None.
        isolated: prediction with the modalities isolated, or None.
        in_fp32: combine in fp32 and cast back (reference behaviour `guidance_fp32`); else in the dtype of `cond`.
    Returns: (B, T, C) in the dtype of `cond`. A pass that was not run stands as zero, its weight being zero too.
    """
    dtype = cond.dtype
    passes = [cond, uncond, perturbed, isolated]
    if in_fp32:
        passes = [None if x is None else x.float() for x in passes]
    c, u, p, m = (0.0 if x is None else x for x in passes)
    assert isinstance(c, Tensor)
    # One expression in this order: bf16 rounds after every operation, so the order is part of the result.
    guided = (
        c
        + (parameters.cfg_scale - 1) * (c - u)
        + parameters.stg_scale * (c - p)
        + (parameters.modality_scale - 1) * (c - m)
    )
    if parameters.rescale_scale != 0:
        factor = c.std() / guided.std()
        guided = guided * (parameters.rescale_scale * factor + (1 - parameters.rescale_scale))
    return guided.to(dtype)
