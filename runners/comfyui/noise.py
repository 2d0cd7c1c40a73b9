"""The reference's first noise as one of ComfyUI's NOISE objects, which any custom node may hand to its sampler.

ComfyUI lays noise out by channel; officially it is drawn by token, in the model's dtype, video before audio.

Axes: B sample, C channel, F frame, H height, W width, T audio token, M mel bin.
"""

import importlib
from typing import Any

import torch


class OfficialNoise:
    """Noise as the official pipeline draws it from a seed."""

    def __init__(self, seed: int, dtype: torch.dtype, device: torch.device) -> None:
        """Prepare a generator on the run's device."""
        self.seed = seed
        self._dtype, self._device = dtype, device

    def generate_noise(self, latent: dict[str, Any]) -> Any:
        """Noise for a latent of two streams, fp32 in their layouts, as ComfyUI asks for it."""
        video, audio = latent["samples"].unbind()
        generator = torch.Generator(self._device).manual_seed(self.seed)
        b, c, f, h, w = video.shape
        t, channels, m = audio.shape[2], audio.shape[1], audio.shape[3]
        # (B, T, C), drawn as whole tensors one after the other
        by_token, sound = (
            torch.randn(size, generator=generator, dtype=self._dtype, device=self._device)
            for size in ((b, f * h * w, c), (b, t, channels * m))
        )
        nested = importlib.import_module("comfy.nested_tensor")
        return nested.NestedTensor(
            (
                by_token.transpose(1, 2).reshape(b, c, f, h, w).float().to(video.device),
                sound.view(b, t, channels, m).permute(0, 2, 1, 3).contiguous().float().to(audio.device),
            )
        )
