"""Image conditioning of the video stream: replace the first latent frame, or append keyframe tokens.

Source: ltx_core.conditioning.types.{latent_cond,keyframe_cond} and
ltx_pipelines.utils.helpers.combined_image_conditionings 1.0.0.

Axes: B sample, C channel, F latent frame, H and W latent cell, T token.
"""

from dataclasses import replace

import torch
from torch import Tensor

from runners.errors import ShapeError
from runners.ltx23.latents import (
    VIDEO_SCALE,
    LatentState,
    VideoShape,
    cell_bounds_px,
    video_tokens,
)


def condition_on_image(
    state: LatentState,
    image_latent: Tensor,
    frame_idx: int,
    strength: float,
    shape: VideoShape,
    frame_rate: float,
    keyframe_spans_one_frame: bool,
    always_append: bool = False,
    only_clean: bool = False,
) -> LatentState:
    """Put an encoded picture into a video state.

    Args:
        state: the video state so far.
        image_latent: (B, C, 1, H, W) picture encoded by the video VAE.
        frame_idx: pixel frame at which it is to be seen; 0 replaces tokens, any other appends them.
        always_append: append them at frame 0, too, as keyframe interpolation does.
        only_clean: put the picture into the clean latent alone, and leave what is noised as it is.
        strength: 1 keeps the picture as it is, 0 leaves its tokens all to denoising.
        shape: the clip's latent shape.
        frame_rate: frames per second.
        keyframe_spans_one_frame: reference behaviour; an appended keyframe lasts 1 pixel frame instead of 8.
    Raises: ShapeError if the picture's latent does not have the clip's height and width.
    """
    if image_latent.shape[-2:] != (shape.height, shape.width):
        raise ShapeError(
            f"An image latent of {tuple(image_latent.shape[-2:])} cells cannot condition a clip of "
            f"{(shape.height, shape.width)}; encode the picture at the clip's height and width."
        )
    tokens = video_tokens(image_latent)
    if frame_idx == 0 and not always_append:
        return _replace_first_frame(state, tokens, strength, only_clean)
    begun = torch.zeros_like(tokens) if only_clean else tokens
    appended = _append_keyframe(state, image_latent, tokens, frame_idx, strength, frame_rate, keyframe_spans_one_frame)
    return replace(appended, latent=torch.cat([state.latent, begun], dim=1))


def _replace_first_frame(state: LatentState, tokens: Tensor, strength: float, only_clean: bool) -> LatentState:
    latent, clean, mask = state.latent.clone(), state.clean.clone(), state.denoise_mask.clone()
    given = slice(0, tokens.shape[1])
    if not only_clean:
        latent[:, given] = tokens
    clean[:, given] = tokens
    mask[:, given] = 1.0 - strength
    return replace(state, latent=latent, clean=clean, denoise_mask=mask)


def _append_keyframe(
    state: LatentState,
    image_latent: Tensor,
    tokens: Tensor,
    frame_idx: int,
    strength: float,
    frame_rate: float,
    spans_one_frame: bool,
) -> LatentState:
    _, _, frames, height, width = image_latent.shape
    bounds = cell_bounds_px(VideoShape(frames=frames, height=height, width=width), tokens.device)
    if frame_idx == 0:  # shifted back like the clip's own causal first frame
        bounds[:, 0] = (bounds[:, 0] + 1 - VIDEO_SCALE[0]).clamp(min=0)
    bounds[:, 0] += frame_idx
    if spans_one_frame:
        bounds[:, 0, :, 1] = bounds[:, 0, :, 0] + 1
    positions = bounds.float()
    positions[:, 0] /= frame_rate
    # The mask is made in the picture's dtype, where a strength that bf16 cannot hold is rounded; joining promotes it.
    mask = torch.full((*tokens.shape[:2], 1), 1.0 - strength, dtype=tokens.dtype, device=tokens.device)
    return LatentState(
        latent=torch.cat([state.latent, tokens], dim=1),
        clean=torch.cat([state.clean, tokens], dim=1),
        denoise_mask=torch.cat([state.denoise_mask, mask], dim=1),
        # Appended positions are fp32, and joining promotes the clip's own, which 1.0.0 has already rounded.
        positions=torch.cat([state.positions, positions], dim=2),
    )
