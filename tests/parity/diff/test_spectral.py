"""Spectral distances, on tones whose spectra are known, and against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann
from torch import Tensor

from parity.diff import spectral

RATE_HZ = 24000


def tone(frequency_hz: float, amplitude: float = 1.0, samples: int = 6000) -> Tensor:
    return amplitude * torch.sin(2 * math.pi * frequency_hz / RATE_HZ * torch.arange(samples, dtype=torch.float64))


@pytest.mark.parametrize("resolution", spectral.RESOLUTIONS)
def test_magnitude_agrees_with_scipy(resolution: spectral.Resolution) -> None:
    samples = torch.randn(3001, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = spectral.magnitude(samples, resolution).numpy()
    window = hann(resolution.window, sym=False)
    theirs = ShortTimeFFT(window, resolution.hop, RATE_HZ, mfft=resolution.size).stft(samples.numpy())
    # both centre frame t on sample t * hop and pad with silence; scipy also has frames before the first sample
    first = -ShortTimeFFT(window, resolution.hop, RATE_HZ, mfft=resolution.size).p_min
    expected = np.abs(theirs[:, first : first + ours.shape[1]]) / window.sum()
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


def test_a_full_scale_tone_has_half_magnitude_at_every_resolution() -> None:
    for resolution in spectral.RESOLUTIONS:
        frequency_hz = 20 * RATE_HZ / resolution.size  # the middle of bin 20
        middle = spectral.magnitude(tone(frequency_hz), resolution)[:, 3000 // resolution.hop]
        assert int(middle.argmax()) == 20
        assert float(middle[20]) == pytest.approx(0.5, rel=1e-3)


def test_mel_filters_are_triangles_evenly_spaced_in_mel() -> None:
    filters = spectral.mel_filters(RATE_HZ)
    assert filters.shape == (80, 1025)
    assert bool((filters >= 0).all() & (filters <= 1).all() & (filters.sum(1) > 0).all())
    bin_hz = RATE_HZ / 2048
    top_mel = 2595 * math.log10(1 + 12000 / 700)
    for band in (0, 30, 79):
        centre_hz = 700 * (10 ** (top_mel * (band + 1) / 81 / 2595) - 1)
        assert abs(int(filters[band].argmax()) * bin_hz - centre_hz) < bin_hz
    inside = filters[:, 3:900].sum(0)  # neighbours add up to one between the first centre and the last
    torch.testing.assert_close(inside, torch.ones_like(inside), rtol=0, atol=1e-9)


def test_twice_the_amplitude_is_6_db_wherever_there_is_sound() -> None:
    noise = 0.1 * torch.randn(6000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert spectral.log_mel_distance_db(noise, 2 * noise, RATE_HZ) == pytest.approx(20 * math.log10(2), rel=1e-9)
    convergence, log_db = spectral.stft_distances(noise, 2 * noise)
    assert convergence == pytest.approx(1.0, rel=1e-12)  # the error is as large as the reference
    assert log_db == pytest.approx(20 * math.log10(2), rel=1e-3)  # but for the lone bins at the floor


def test_another_pitch_is_far_and_another_phase_is_near() -> None:
    reference = tone(1000)
    phase = torch.cos(2 * math.pi * 1000 / RATE_HZ * torch.arange(6000, dtype=torch.float64))
    near, far = spectral.stft_distances(reference, phase), spectral.stft_distances(reference, tone(1500))
    assert near[0] < 0.2 < 1.2 < far[0]
    mel = [spectral.log_mel_distance_db(reference, other, RATE_HZ) for other in (phase, tone(1500))]
    assert mel[0] < mel[1] / 2


def test_silence_is_floored_and_never_a_benign_number() -> None:
    silence = torch.zeros(5000)
    assert spectral.log_mel_distance_db(silence, silence, RATE_HZ) == 0.0
    assert bool((spectral.log_mel_db(silence, RATE_HZ) == spectral.FLOOR_DB).all())
    assert spectral.stft_distances(silence, silence) == (0.0, 0.0)
    convergence, log_db = spectral.stft_distances(silence, tone(1000, samples=5000))
    assert convergence == math.inf
    assert log_db > 1
    assert math.isnan(spectral.stft_distances(silence, torch.full((5000,), math.nan))[0])


def test_a_clip_shorter_than_a_window_is_measured() -> None:
    short = tone(1000, samples=100)
    assert spectral.log_mel_distance_db(short, 0.5 * short, RATE_HZ) > 1
