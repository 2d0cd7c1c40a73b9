"""The shift in time at which a candidate fits its reference best. A positive lag: the candidate is late.

Axes: C channel or feature, N moment (sample or frame).

Both searches are bounded and over whole steps. A lag is preferred to one nearer zero only if its misfit is smaller by
a tenth: in a periodic clip, or where noise is larger than what one step changes, the smallest shift that explains the
data is the answer. Where no lag stands out, as in a constant clip or one of other content, there is none: `nan`.
"""

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MARGIN: Final = 0.1  # relative
_TINY: Final = 1e-9  # absolute, of misfits of order one: far above the rounding of a float64 FFT
_LEAST_CORRELATION: Final = 0.3  # clips that correlate less, at their best lag, have different content
_LEAST_ENERGY: Final = 0.05  # of either side: below, a few loud moments at an edge could fit anything


def correlation_lag(reference: Tensor, candidate: Tensor, max_lag: int) -> float:
    """Find the lag with the largest normalised cross-correlation, over all channels together.

    Suits sound: neither gain nor offset matters, and the FFT makes a wide search cheap.

    Args:
        reference: (C, N) finite, any float dtype, on the CPU; computed in float64.
        candidate: (C, N).
        max_lag: the largest shift tried either way, in samples, below N; below 1 the answer is `nan`.
    Returns: candidate[n] fits reference[n - lag]; `nan` where either side is constant or they hardly correlate.
    """
    if max_lag < 1:
        return math.nan
    r, c = (side.double() - side.double().mean(1, keepdim=True) for side in (reference, candidate))  # (C, N)
    r[(reference == reference[:, :1]).all(1)] = 0  # the mean of equal numbers is off by rounding, which would correlate
    c[(candidate == candidate[:, :1]).all(1)] = 0
    n = r.shape[1]
    size = 1 << (n + max_lag - 1).bit_length()  # room for the shift, so nothing wraps around
    correlation = torch.fft.irfft((torch.fft.rfft(r, size).conj() * torch.fft.rfft(c, size)).sum(0), size)
    lags = torch.arange(-max_lag, max_lag + 1)
    products = correlation[lags]  # sum of r[n] c[n + lag]; the FFT puts negative lags at the end, where -1 reads

    def energy(side: Tensor, first: Tensor, last: Tensor) -> Tensor:
        running = torch.nn.functional.pad(side.square().sum(0).cumsum(0), (1, 0))  # (N + 1,)
        return running[last] - running[first]

    zero, full = torch.zeros_like(lags), torch.full_like(lags, n)
    energies = (
        energy(r, torch.maximum(zero, -lags), torch.minimum(full, n - lags)),
        energy(c, torch.maximum(zero, lags), torch.minimum(full, n + lags)),
    )
    trusted = torch.ones_like(lags, dtype=torch.bool)
    for part, side in zip(energies, (r, c), strict=True):
        whole = side.square().sum()
        trusted &= (part >= _LEAST_ENERGY * whole) & (whole > 0)
    fit = torch.where(trusted, products / (energies[0] * energies[1]).sqrt(), -math.inf)
    if float(fit.max()) < _LEAST_CORRELATION:
        return math.nan
    return _nearest_to_zero(lags.numpy(), 1 - fit.numpy())


def difference_lag(reference: NDArray[np.float64], candidate: NDArray[np.float64], max_lag: int) -> float:
    """Find the lag with the smallest mean squared difference over the moments that overlap.

    Suits pictures: a slow pan shifted in time equals one offset in level, which only the difference itself tells apart.

    Args:
        reference: (N, C) float64 features of each frame.
        candidate: (N, C).
        max_lag: the largest shift tried either way, in frames, below N; below 1 the answer is `nan`.
    Returns: candidate[n] fits reference[n - lag]; `nan` where every lag fits about equally well.
    """
    if max_lag < 1:
        return math.nan
    n = len(reference)
    lags = np.arange(-max_lag, max_lag + 1)
    misfit = np.array(
        [
            np.square(candidate[max(0, k) : n + min(0, k)] - reference[max(0, -k) : n - max(0, k)]).mean()
            for k in lags.tolist()
        ]
    )
    if misfit.max() <= (1 + _MARGIN) * misfit.min() + _TINY:
        return math.nan
    return _nearest_to_zero(lags, misfit)


def _nearest_to_zero(lags: NDArray[np.int64], misfit: NDArray[np.float64]) -> float:
    """Return the lag nearest zero whose misfit is within the margin of the least."""
    near = lags[misfit <= (1 + _MARGIN) * misfit.min() + _TINY]
    return float(near[np.abs(near).argmin()])
