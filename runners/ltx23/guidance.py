"""Guidance: how the x0 predictions of a step's passes are combined; which passes it needs, `Guider` says.

    x0 = c + (cfg - 1)(c - u) + stg (c - p) + (modality - 1)(c - m),   then   x0 * (r std(c)/std(x0) + 1 - r)

c is the conditional pass, u the one with the negative prompt, p the one with self-attention of some blocks replaced by
its values (STG, Hyung et al. 2024), m the one with both cross-modal attentions off. The rescale is Lin et al. 2023,
equations 15 and 16. Source: ltx_core.components.guiders.MultiModalGuider 1.0.0.

Axes: B sample, T token, C channel.
"""

from torch import Tensor

from runners.request import Guider


def combine(
    guider: Guider,
    cond: Tensor,
    uncond: Tensor | None,
    perturbed: Tensor | None,
    isolated: Tensor | None,
    in_fp32: bool,
) -> Tensor:
    """The guided x0 of one modality.

    Args:
        guider: the modality's guidance.
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
    guided = c + (guider.cfg_scale - 1) * (c - u) + guider.stg_scale * (c - p) + (guider.modality_scale - 1) * (c - m)
    if guider.rescale_scale != 0:
        factor = c.std() / guided.std()
        guided = guided * (guider.rescale_scale * factor + (1 - guider.rescale_scale))
    return guided.to(dtype)
