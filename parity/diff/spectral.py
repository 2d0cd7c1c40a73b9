"""Spectral distances between two channels of sound.

Axes: N sample, T analysis frame, K frequency bin, M mel band. Full scale is 1.0; levels are dB of it.

Every spectrum is divided by the sum of its window, so levels do not depend on the resolution, and is floored at
-100 dB, below 16-bit audibility, so that silence against near-silence is not an infinite distance. All in float64.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from parity.diff.metric import average

FLOOR_DB: Final = -100.0
MEL_BANDS: Final = 80


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """One short-time Fourier transform: transform size, Hann window and hop, in samples."""

    size: int
    window: int
    hop: int


# Parallel WaveGAN (Yamamoto, Song and Kim, 2020), table 1
RESOLUTIONS: Final = (
    Resolution(size=512, window=240, hop=50),
    Resolution(size=1024, window=600, hop=120),
    Resolution(size=2048, window=1200, hop=240),
)
_MEL_RESOLUTION: Final = Resolution(size=2048, window=2048, hop=512)


def magnitude(samples: Tensor, resolution: Resolution) -> Tensor:
    """Return (N,) samples' short-time magnitude, (K, T) float64; silence is put before and after, to centre frames."""
    window = torch.hann_window(resolution.window, dtype=torch.float64, device=samples.device)
    spectrum = torch.stft(
        samples.double(),
        resolution.size,
        hop_length=resolution.hop,
        win_length=resolution.window,
        window=window,
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    return spectrum.abs() / window.sum()


@lru_cache(maxsize=4)
def mel_filters(rate_hz: float) -> Tensor:
    """Return (M, K) float64 triangles of peak 1, evenly spaced in mel from 0 to half of the rate.

    Source: mel(f) = 2595 log10(1 + f / 700), O'Shaughnessy (1987), as in the HTK book; no area normalisation.
    """
    bins_hz = torch.arange(_MEL_RESOLUTION.size // 2 + 1, dtype=torch.float64) * rate_hz / _MEL_RESOLUTION.size
    top_mel = 2595 * math.log10(1 + rate_hz / 2 / 700)
    edges_mel = torch.linspace(0, top_mel, MEL_BANDS + 2, dtype=torch.float64)
    edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)  # (M + 2,)
    low, centre, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising, falling = (bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)
    return torch.minimum(rising, falling).clamp(min=0)


def log_mel_db(samples: Tensor, rate_hz: float) -> Tensor:
    """Return the log-mel power of (N,) samples, (M, T) float64 in dB."""
    power = mel_filters(rate_hz).to(samples.device) @ magnitude(samples, _MEL_RESOLUTION).square()
    return 10 * torch.log10(power.clamp(min=10 ** (FLOOR_DB / 10)))


def log_mel_distance_db(reference: Tensor, candidate: Tensor, rate_hz: float) -> float:
    """Return the mean over bands and frames of |log-mel difference|, dB, of two (N,) channels."""
    return float((log_mel_db(candidate, rate_hz) - log_mel_db(reference, rate_hz)).abs().mean())


def stft_distances(reference: Tensor, candidate: Tensor) -> tuple[float, float]:
    """Return spectral convergence (a ratio) and mean |log-magnitude difference| (dB), averaged over `RESOLUTIONS`.

    Args:
        reference: (N,) samples.
        candidate: (N,) samples.
    Returns: the two distances; convergence is `inf` for a silent reference against a candidate that is not.
    Source: equations 4 to 6 of Parallel WaveGAN, with decibels for natural logarithms.
    """
    convergence, log_db = [], []
    floor = 10 ** (FLOOR_DB / 20)
    for resolution in RESOLUTIONS:
        r, c = magnitude(reference, resolution), magnitude(candidate, resolution)
        error, signal = float(torch.linalg.vector_norm(c - r)), float(torch.linalg.vector_norm(r))
        if signal == 0:
            convergence.append(0.0 if error == 0 else error * math.inf)  # nan stays nan
        else:
            convergence.append(error / signal)
        log_db.append(float((20 * torch.log10(c.clamp(min=floor) / r.clamp(min=floor))).abs().mean()))
    return average(convergence), average(log_db)
