"""The few tensors of a checkpoint that are filters rather than learned weights: Fourier, mel and resampling bases.

They are computed on the CPU, in float64 and rounded once but for the vocoder's own in float32, so that the rounded bits
do not depend on the machine.
Axes: K frequency bin, W mel bin, N sample of a window.
"""

import math

import torch
from torch import Tensor

from runners.ltx23.antialiased_activation import kaiser_sinc_filter

SAMPLING_RATE_HZ = 16000.0  # of the waveform that the bandwidth extension listens to
_SLANEY_KNEE_HZ, _SLANEY_LINEAR_HZ, _SLANEY_LOG = 1000.0, 200.0 / 3.0, math.log(6.4) / 27.0


def resampling_filter(shape: tuple[int, ...]) -> Tensor:
    """Anti-aliasing low-pass of the vocoder's activations, of the wanted `shape`."""
    return kaiser_sinc_filter().reshape(shape)


def binomial_filter(shape: tuple[int, ...]) -> Tensor:
    """(1, 1, 5, 5) outer product of the binomials 1, 4, 6, 4, 1, of sum 1; an upsampler's file carries it."""
    binomials = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=torch.float64) / 16
    return torch.outer(binomials, binomials).reshape(shape)


def fourier_basis(shape: tuple[int, ...]) -> Tensor:
    """(2 K, 1, N) real parts, then imaginary parts, of a discrete Fourier transform under a periodic Hann window."""
    samples = shape[-1]
    time = torch.arange(samples, dtype=torch.float64)
    window = 0.5 - 0.5 * torch.cos(2 * math.pi * time / samples)
    angle = 2 * math.pi * torch.outer(torch.arange(samples // 2 + 1, dtype=torch.float64), time) / samples
    return (torch.cat([angle.cos(), -angle.sin()]) * window).reshape(shape)


def inverse_fourier_basis(shape: tuple[int, ...]) -> Tensor:
    """(2 K, 1, N) basis for resynthesis by overlap and add; official files carry it, and nothing reads it."""
    return fourier_basis(shape) * (2.0 / shape[-1])


def mel_basis(shape: tuple[int, ...]) -> Tensor:
    """(W, K) triangles on the Slaney mel scale from 0 Hz to half the rate, each of unit area in Hz.

    Source: Slaney's Auditory Toolbox (1998): linear below 1 kHz, logarithmic above.
    """
    mel_bins, frequency_bins = shape
    edges_mel = torch.linspace(0.0, _hz_to_mel(SAMPLING_RATE_HZ / 2), mel_bins + 2, dtype=torch.float64)
    edges_hz = torch.tensor([_mel_to_hz(mel) for mel in edges_mel.tolist()], dtype=torch.float64)
    bins_hz = torch.linspace(0.0, SAMPLING_RATE_HZ / 2, frequency_bins, dtype=torch.float64)
    low, centre, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]  # (W, 1)
    triangles = torch.minimum((bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)).clamp(min=0)
    return triangles * (2.0 / (high - low))


def _hz_to_mel(hz: float) -> float:
    knee_mel = _SLANEY_KNEE_HZ / _SLANEY_LINEAR_HZ
    return hz / _SLANEY_LINEAR_HZ if hz < _SLANEY_KNEE_HZ else knee_mel + math.log(hz / _SLANEY_KNEE_HZ) / _SLANEY_LOG


def _mel_to_hz(mel: float) -> float:
    knee_mel = _SLANEY_KNEE_HZ / _SLANEY_LINEAR_HZ
    return mel * _SLANEY_LINEAR_HZ if mel < knee_mel else _SLANEY_KNEE_HZ * math.exp(_SLANEY_LOG * (mel - knee_mel))
