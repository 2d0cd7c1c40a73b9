"""Tensors that the run under test kept whole, and how they stand in for ours at the entrance of the next stage.

Axes: B sample, S token of the padded prompt, D width, L Gemma layer, T token, C channel, F frame, H height, W width,
M mel bin.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from runners.ltx23.bandwidth_extension import ExtendedVocoder
from runners.ltx23.vocoder import Vocoder
from runners.real_tokens import real_tokens, with_real_tokens

VIDEO_LATENT: Final = "outputs/video_latent"
AUDIO_LATENT: Final = "outputs/audio_latent"
# Parts of the data flow at whose taps the run's own tensors stand in for ours.
FED_PARTS: Final = ("hidden", "connector", "image", "init", "x0", "guided", "latent", "mel")


@dataclass(frozen=True, kw_only=True)
class RunTensors:
    """Tensors that the run under test kept: final latents, unless it is reduced, and whole tensors of taps."""

    video_latent: Tensor | None  # (1, C, F, H, W)
    audio_latent: Tensor | None  # (1, C, T, M)
    taps: Mapping[str, Tensor] = field(default_factory=dict)


class FedVocoder:
    """A vocoder that is given the run's own spectrogram, where there is one, in place of ours."""

    def __init__(self, vocoder: Vocoder | ExtendedVocoder, feed: Callable[[Tensor], Tensor]) -> None:
        self._vocoder, self._feed = vocoder, feed
        self.output_sampling_rate_hz = vocoder.output_sampling_rate_hz

    def __call__(self, mel: Tensor) -> Tensor:
        """(B, C, T, M) of ours to the waveform of what stands in for it."""
        waveform: Tensor = self._vocoder(self._feed(mel))
        return waveform


def fed(own: Mapping[str, Tensor], name: str, ours: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The run's own tensor, where it kept one of our shape, else ours; in `dtype`, or as it is if that is None."""
    theirs = own.get(name)
    taken = ours if theirs is None or theirs.shape != ours.shape else theirs
    return taken.to(ours.device, dtype)


def fed_text(own: Mapping[str, Tensor], sign: str, ours: object, mask: object, dtype: torch.dtype) -> Tensor:
    """Our hidden states (1, S, D, L) with the run's own real tokens in them; no connector reads the padding."""
    assert isinstance(ours, Tensor) and isinstance(mask, Tensor)
    name = f"text/{sign}/hidden"
    if name not in own:
        return ours
    return with_real_tokens(ours, mask, fed(own, name, real_tokens(ours, mask), dtype))
