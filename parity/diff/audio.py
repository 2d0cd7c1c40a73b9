"""Differences between two waveforms, channel by channel.

Axes: C channel, N sample. Full scale is 1.0. Everything is computed in float64 from the samples as they are stored.

A channel whose samples all equal the reference's has the ideal value of every metric, silent channels too. Against a
silent reference, a channel that is not silent has an SNR of -inf, an infinite relative L2 and level, and `nan` where a
number would mean nothing (correlation, lag).
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from parity.diff.comparison import Finding, count_finding, non_finite_findings
from parity.diff.lag import correlation_lag
from parity.diff.metric import highest, lowest
from parity.diff.spectral import log_mel_distance_db, stft_distances
from runners.errors import ShapeError

MAX_LAG_S: Final = 0.5  # or half of the clip, where that is less
_BITS: Final = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by element size in bytes


@dataclass(frozen=True, kw_only=True)
class AudioDiff:
    """The differences of a candidate waveform from its reference, one a channel; `nan` where none could be computed.

    `lag_samples` and `level_db` carry their sign: positive is late, and louder. `joint_lag_samples` is the best lag of
    all channels together, the one the audio-video offset is made of.
    """

    sample_rate_hz: float  # the reference's
    channels_difference: int
    length_difference_samples: int
    sample_rate_difference_hz: float
    bit_equal: bool
    snr_db: tuple[float, ...] = ()
    relative_l2: tuple[float, ...] = ()
    correlation: tuple[float, ...] = ()
    log_mel_db: tuple[float, ...] = ()
    mrstft_convergence: tuple[float, ...] = ()
    mrstft_log_db: tuple[float, ...] = ()
    lag_samples: tuple[float, ...] = ()
    level_db: tuple[float, ...] = ()
    joint_lag_samples: float = math.nan
    findings: tuple[Finding, ...] = ()

    def summary(self) -> dict[str, float]:
        """Return the `audio.` metrics: of each, the worst channel."""
        return {
            "audio.snr_db.min": lowest(self.snr_db),
            "audio.relative_l2.max": highest(self.relative_l2),
            "audio.correlation.min": lowest(self.correlation),
            "audio.log_mel_db.max": highest(self.log_mel_db),
            "audio.mrstft_convergence.max": highest(self.mrstft_convergence),
            "audio.mrstft_log_db.max": highest(self.mrstft_log_db),
            "audio.lag_samples.max_abs": highest([abs(lag) for lag in self.lag_samples]),
            "audio.level_db.max_abs": highest([abs(level) for level in self.level_db]),
            "audio.length_samples.difference": float(self.length_difference_samples),
            "audio.channels.difference": float(self.channels_difference),
            "audio.sample_rate_hz.difference": self.sample_rate_difference_hz,
        }


def compare(reference: Tensor, candidate: Tensor, *, rate_reference_hz: float, rate_candidate_hz: float) -> AudioDiff:
    """Compare two waveforms.

    Args:
        reference: (C, N) samples, any float dtype, on any device; compared on the CPU.
        candidate: (C, N) samples.
        rate_reference_hz: samples a second of the reference.
        rate_candidate_hz: samples a second of the candidate.
    Returns: an AudioDiff. Other rates, lengths or numbers of channels, no samples, NaN and Inf are findings in it.
        Nothing is cropped, resampled or matched up: with any of the first three, only those differences are numbers.
    Raises: ShapeError unless both are (C, N) of a float dtype.
    Source: SNR is 10 log10(sum r^2 / sum (c - r)^2); level is the RMS ratio; correlation is Pearson's.
    """
    for side, waveform in (("reference", reference), ("candidate", candidate)):
        if waveform.ndim != 2 or not waveform.is_floating_point():
            raise ShapeError(
                f"audio.compare wants (C, N) floats; the {side} is {tuple(waveform.shape)} {waveform.dtype}. "
                "Scale integer samples to 1.0 the way the run that made them does."
            )
    reference, candidate = reference.detach().cpu(), candidate.detach().cpu()
    findings = _cannot_compare(reference, candidate, rate_reference_hz, rate_candidate_hz)
    if findings:
        return AudioDiff(
            sample_rate_hz=rate_reference_hz,
            channels_difference=candidate.shape[0] - reference.shape[0],
            length_difference_samples=candidate.shape[1] - reference.shape[1],
            sample_rate_difference_hz=rate_candidate_hz - rate_reference_hz,
            bit_equal=False,
            findings=findings,
        )
    max_lag = min(round(MAX_LAG_S * rate_reference_hz), reference.shape[1] // 2)
    channels = [_measure(r, c, rate_reference_hz, max_lag) for r, c in zip(reference, candidate, strict=True)]
    joint_lag = math.nan
    if torch.equal(reference, candidate):  # false for NaN
        joint_lag = 0.0
    elif bool(reference.isfinite().all() & candidate.isfinite().all()):
        joint_lag = correlation_lag(reference, candidate, max_lag)
    return AudioDiff(
        sample_rate_hz=rate_reference_hz,
        channels_difference=0,
        length_difference_samples=0,
        sample_rate_difference_hz=0.0,
        bit_equal=_bit_equal(reference, candidate),
        snr_db=tuple(channel.snr_db for channel in channels),
        relative_l2=tuple(channel.relative_l2 for channel in channels),
        correlation=tuple(channel.correlation for channel in channels),
        log_mel_db=tuple(channel.log_mel_db for channel in channels),
        mrstft_convergence=tuple(channel.mrstft_convergence for channel in channels),
        mrstft_log_db=tuple(channel.mrstft_log_db for channel in channels),
        lag_samples=tuple(channel.lag_samples for channel in channels),
        level_db=tuple(channel.level_db for channel in channels),
        joint_lag_samples=joint_lag,
        findings=_census(reference, candidate),
    )


@dataclass(frozen=True, kw_only=True)
class _Channel:
    snr_db: float = math.nan
    relative_l2: float = math.nan
    correlation: float = math.nan
    log_mel_db: float = math.nan
    mrstft_convergence: float = math.nan
    mrstft_log_db: float = math.nan
    lag_samples: float = math.nan
    level_db: float = math.nan


_EQUAL: Final = _Channel(
    snr_db=math.inf,
    relative_l2=0.0,
    correlation=1.0,
    log_mel_db=0.0,
    mrstft_convergence=0.0,
    mrstft_log_db=0.0,
    lag_samples=0.0,
    level_db=0.0,
)


def _cannot_compare(
    reference: Tensor, candidate: Tensor, rate_reference_hz: float, rate_candidate_hz: float
) -> tuple[Finding, ...]:
    shapes = f"reference is {tuple(reference.shape)}, candidate is {tuple(candidate.shape)}"
    findings = []
    if reference.numel() == 0 or candidate.numel() == 0:
        findings.append(Finding(code="empty", where="audio", message=shapes))
    if reference.shape[0] != candidate.shape[0]:
        findings.append(count_finding("channel", "audio", reference.shape[0], candidate.shape[0]))
    if reference.shape[1] != candidate.shape[1]:
        findings.append(Finding(code="length_mismatch", where="audio", message=shapes))
    if rate_reference_hz != rate_candidate_hz:
        rates = f"reference has {rate_reference_hz} Hz, candidate has {rate_candidate_hz} Hz"
        findings.append(Finding(code="rate_mismatch", where="audio", message=rates))
    return tuple(findings)


def _measure(reference: Tensor, candidate: Tensor, rate_hz: float, max_lag: int) -> _Channel:
    """Measure one channel, two (N,) tensors."""
    if torch.equal(reference, candidate):
        return _EQUAL
    if not bool(reference.isfinite().all() & candidate.isfinite().all()):
        return _Channel()
    r, c = reference.double(), candidate.double()
    signal, level, noise = (float(x.square().sum()) for x in (r, c, c - r))
    convergence, log_db = stft_distances(r, c)
    return _Channel(
        snr_db=10 * _log10(signal, noise),
        relative_l2=math.sqrt(noise / signal) if signal else math.inf,
        correlation=_correlation(r, c),
        log_mel_db=log_mel_distance_db(r, c, rate_hz),
        mrstft_convergence=convergence,
        mrstft_log_db=log_db,
        lag_samples=correlation_lag(r[None], c[None], max_lag),
        level_db=10 * _log10(level, signal),
    )


def _log10(numerator: float, denominator: float) -> float:
    """Return log10 of a ratio of energies, of which at most one is zero."""
    if denominator == 0:
        return math.inf
    return math.log10(numerator / denominator) if numerator else -math.inf


def _correlation(r: Tensor, c: Tensor) -> float:
    if bool((r == r[0]).all() | (c == c[0]).all()):
        return math.nan  # a constant correlates with nothing; its mean is off by rounding, so test before subtracting
    r, c = r - r.mean(), c - c.mean()
    ratio = float(torch.dot(r, c) / (torch.linalg.vector_norm(r) * torch.linalg.vector_norm(c)))
    return min(1.0, max(-1.0, ratio))  # rounding can step over 1


def _bit_equal(reference: Tensor, candidate: Tensor) -> bool:
    if reference.dtype != candidate.dtype:
        return False
    bits = _BITS[reference.element_size()]
    return torch.equal(reference.contiguous().view(bits), candidate.contiguous().view(bits))


def _census(reference: Tensor, candidate: Tensor) -> tuple[Finding, ...]:
    """Name the NaN and Inf of each channel."""
    return tuple(
        finding
        for index, (r, c) in enumerate(zip(reference, candidate, strict=True))
        for finding in non_finite_findings(
            f"audio/channel {index}",
            nan_reference=int(r.isnan().sum()),
            nan_candidate=int(c.isnan().sum()),
            inf_reference=int(r.isinf().sum()),
            inf_candidate=int(c.isinf().sum()),
        )
    )
