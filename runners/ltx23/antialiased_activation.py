"""Snakebeta activation between a doubling and a halving of the rate, so that its harmonics do not alias.

Axes: B clip, C channel, N sample.
Source: BigVGAN v2 (Lee et al. 2023, section 3.2; Zhu et al. 2020 for snake), as in ltx_core.model.audio_vae.vocoder
1.0.0. The filters are buffers because the checkpoint carries them; a fresh module computes the same values.
"""

import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RATIO = 2  # samples inside for each sample outside
TAPS = 12  # taps of both low-pass filters
EPSILON = 1e-9  # keeps the division by beta finite


def kaiser_sinc_filter() -> Tensor:
    """(1, 1, TAPS) low-pass filter: a sinc at half the inner band under a Kaiser window, of sum 1."""
    return torch.tensor(kaiser_sinc_taps(), dtype=torch.float32).view(1, 1, TAPS)


@cache
def kaiser_sinc_taps() -> tuple[float, ...]:
    """The filter's taps, computed once: a vocoder has hundreds of these filters.

    The window's beta comes from Kaiser's formula for the stop-band attenuation that TAPS reach.
    """
    cutoff, half_width = 0.5 / RATIO, 0.6 / RATIO  # in cycles per inner sample
    attenuation_db = 2.285 * (TAPS // 2 - 1) * math.pi * (4 * half_width) + 7.95
    beta = 0.1102 * (attenuation_db - 8.7)  # the formula above 50 dB; here it is 51.0 dB
    with torch.device("cpu"):  # real values, and the same ones, whatever device and dtype are the defaults just now
        window = torch.kaiser_window(TAPS, beta=beta, periodic=False, dtype=torch.float32)
        places = torch.arange(-(TAPS // 2), TAPS // 2, dtype=torch.float32)
        phase = 2 * cutoff * (places + 0.5)  # never 0: the taps straddle the middle
        taps = 2 * cutoff * window * (torch.sin(math.pi * phase) / math.pi / phase)
        return tuple((taps / taps.sum()).tolist())


class SnakeBeta(nn.Module):
    """x + sin^2(alpha x) / beta, with both parameters of each channel stored as logarithms."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Activate (B, C, N)."""
        alpha = torch.exp(self.alpha[None, :, None])  # (1, C, 1)
        beta = torch.exp(self.beta[None, :, None])
        return x + (1.0 / (beta + EPSILON)) * torch.sin(x * alpha).pow(2)


class Doubling(nn.Module):
    """Twice the samples, interpolated by the low-pass filter; the edges continue as constants."""

    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", kaiser_sinc_filter())

    def forward(self, x: Tensor) -> Tensor:
        """Interpolate (B, C, N) to (B, C, 2 N)."""
        channels, samples = x.shape[1], x.shape[2]
        edge = TAPS // RATIO - 1
        x = F.pad(x, (edge, edge), mode="replicate")
        taps = self.filter.to(x).expand(channels, -1, -1)
        x = RATIO * F.conv_transpose1d(x, taps, stride=RATIO, groups=channels)
        start = edge * RATIO + (TAPS - RATIO) // 2
        return x[..., start : start + RATIO * samples]


class Halving(nn.Module):
    """Every second sample of the low-passed input; the edges continue as constants."""

    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", kaiser_sinc_filter())

    def forward(self, x: Tensor) -> Tensor:
        """Decimate (B, C, 2 N) to (B, C, N)."""
        channels = x.shape[1]
        x = F.pad(x, (TAPS // 2 - 1, TAPS // 2), mode="replicate")
        return F.conv1d(x, self.filter.expand(channels, -1, -1), stride=RATIO, groups=channels)


class AntiAliasedSnake(nn.Module):
    """Double the rate, activate, halve the rate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act = SnakeBeta(channels)
        self.upsample = Doubling()
        self.downsample = nn.ModuleDict({"lowpass": Halving()})  # the checkpoint's key is downsample.lowpass.filter

    def forward(self, x: Tensor) -> Tensor:
        """Activate (B, C, N), shape kept."""
        return self.downsample["lowpass"](self.act(self.upsample(x)))  # type: ignore[no-any-return]
