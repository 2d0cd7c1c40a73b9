"""Waveform differences. Expected values are worked by hand or by numpy."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from parity.diff import audio
from parity.diff.audio import AudioDiff
from parity.diff.metric import METRICS
from runners.errors import ShapeError

RATE_HZ = 8000


def sound(seed: int, channels: int = 2, samples: int = 1500) -> Tensor:
    return 0.1 * torch.randn(channels, samples, generator=torch.Generator().manual_seed(seed))


def compare(reference: Tensor, candidate: Tensor) -> AudioDiff:
    return audio.compare(reference, candidate, rate_reference_hz=RATE_HZ, rate_candidate_hz=RATE_HZ)


def codes(diff: AudioDiff) -> list[str]:
    return [finding.code for finding in diff.findings]


def test_numbers_of_each_channel_are_those_worked_by_hand() -> None:
    reference = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 0.0, -2.0]])
    candidate = torch.tensor([[1.0, 2.0, 3.0, 1.0], [0.0, 1.0, 0.0, -1.0]])
    diff = compare(reference, candidate)
    # channel 0: signal 30, noise 9, level 15; channel 1: signal 8, noise 2, level 2
    assert diff.snr_db == pytest.approx((10 * math.log10(30 / 9), 10 * math.log10(4)))
    assert diff.relative_l2 == pytest.approx((math.sqrt(0.3), 0.5))
    assert diff.level_db == pytest.approx((10 * math.log10(0.5), -20 * math.log10(2)))
    expected = [np.corrcoef(r, c)[0, 1] for r, c in zip(reference.numpy(), candidate.numpy(), strict=True)]
    assert diff.correlation == pytest.approx(tuple(expected), rel=1e-6)
    summary = diff.summary()
    assert summary["audio.snr_db.min"] == diff.snr_db[0]
    assert summary["audio.relative_l2.max"] == diff.relative_l2[0]
    assert summary["audio.correlation.min"] == diff.correlation[0]
    assert summary["audio.level_db.max_abs"] == pytest.approx(20 * math.log10(2))
    assert set(summary) == {name for name in METRICS if name.startswith("audio.")}


def test_equal_waveforms_have_ideal_numbers_silent_channels_too() -> None:
    clip = sound(0)
    clip[1] = 0
    diff = compare(clip, clip.clone())
    assert diff.bit_equal and not diff.findings
    assert diff.snr_db == (math.inf, math.inf)
    for zeros in (diff.relative_l2, diff.log_mel_db, diff.mrstft_convergence, diff.mrstft_log_db, diff.lag_samples):
        assert zeros == (0.0, 0.0)
    assert diff.correlation == (1.0, 1.0)
    assert diff.joint_lag_samples == 0.0
    assert not compare(torch.zeros(1, 9), -torch.zeros(1, 9)).bit_equal  # -0.0 differs in its bits alone


def test_a_silent_side_gives_no_benign_number() -> None:
    clip, silence = sound(1), torch.zeros(2, 1500)
    diff = compare(silence, clip)
    assert diff.snr_db == (-math.inf, -math.inf)
    assert diff.relative_l2 == (math.inf, math.inf)
    assert diff.mrstft_convergence == diff.level_db == (math.inf, math.inf)
    assert all(math.isnan(value) for value in (*diff.correlation, *diff.lag_samples, diff.joint_lag_samples))
    muted = compare(clip, silence)
    assert (*muted.snr_db, *muted.level_db) == (0.0, 0.0, -math.inf, -math.inf)
    assert muted.summary()["audio.level_db.max_abs"] == math.inf
    assert math.isnan(muted.summary()["audio.correlation.min"])


@pytest.mark.parametrize("lag", [-120, 7])
def test_a_shifted_clip_gives_its_lag_with_its_sign(lag: int) -> None:
    clip = sound(2)
    diff = compare(clip, torch.roll(clip, lag, dims=1))
    assert (*diff.lag_samples, diff.joint_lag_samples) == (lag, lag, lag)
    assert diff.summary()["audio.lag_samples.max_abs"] == abs(lag)


def test_one_late_channel_is_seen_by_the_worst_of_channels() -> None:
    clip = sound(3)
    late = torch.stack((clip[0], torch.roll(clip[1], 5)))
    diff = compare(clip, late)
    assert diff.lag_samples == (0.0, 5.0)
    assert diff.summary()["audio.lag_samples.max_abs"] == 5.0
    assert diff.summary()["audio.snr_db.min"] < 0


def test_swapped_channels_and_flipped_polarity_are_seen() -> None:
    clip = sound(4)
    swapped = compare(clip, clip.flip(0)).summary()
    assert swapped["audio.snr_db.min"] < -2
    assert abs(swapped["audio.correlation.min"]) < 0.1
    flipped = compare(clip, -clip).summary()
    assert flipped["audio.correlation.min"] == pytest.approx(-1.0)
    assert flipped["audio.relative_l2.max"] == pytest.approx(2.0)
    assert flipped["audio.log_mel_db.max"] == 0.0  # which is why the spectral distances are not enough


@pytest.mark.parametrize(
    ("side", "value", "code"),
    [
        (0, math.nan, "nan_reference"),
        (1, math.nan, "nan_candidate"),
        (0, -math.inf, "inf_reference"),
        (1, math.inf, "inf_candidate"),
    ],
)
def test_a_sample_that_is_not_finite_spoils_its_channel_and_the_worst_of_channels(
    side: int, value: float, code: str
) -> None:
    pair = [sound(5), sound(6)]
    pair[side][1, 700] = value
    diff = compare(*pair)
    assert codes(diff) == [code]
    assert diff.findings[0].where == "audio/channel 1"
    assert math.isfinite(diff.snr_db[0]) and math.isnan(diff.snr_db[1])
    assert math.isnan(diff.joint_lag_samples)
    assert all(math.isnan(v) for name, v in diff.summary().items() if not name.endswith("difference"))


def test_nan_on_both_sides_is_bit_equal_and_still_a_failure() -> None:
    clip = sound(7)
    clip[0, 3] = math.nan
    diff = compare(clip, clip.clone())
    assert diff.bit_equal
    assert codes(diff) == ["nan_reference", "nan_candidate"]
    assert math.isnan(diff.summary()["audio.snr_db.min"])


@pytest.mark.parametrize(
    ("shape", "code", "metric", "difference"),
    [
        ((2, 1499), "length_mismatch", "audio.length_samples.difference", -1),
        ((1, 1500), "missing_channel", "audio.channels.difference", -1),
        ((3, 1500), "extra_channel", "audio.channels.difference", 1),
    ],
)
def test_waveforms_that_do_not_match_are_named_and_have_no_other_numbers(
    shape: tuple[int, int], code: str, metric: str, difference: int
) -> None:
    diff = compare(sound(8), sound(8, *shape))
    assert codes(diff) == [code]
    summary = diff.summary()
    assert summary[metric] == difference
    assert all(math.isnan(v) for name, v in summary.items() if not name.endswith("difference"))


def test_another_rate_and_no_samples_are_named() -> None:
    clip = sound(9)
    diff = audio.compare(clip, clip.clone(), rate_reference_hz=24000, rate_candidate_hz=48000)
    assert codes(diff) == ["rate_mismatch"]
    assert not diff.bit_equal
    assert diff.summary()["audio.sample_rate_hz.difference"] == 24000
    assert codes(compare(torch.zeros(2, 0), torch.zeros(2, 0))) == ["empty"]


def test_a_callers_mistakes_raise() -> None:
    with pytest.raises(ShapeError, match="int16"):
        compare(sound(0), torch.zeros(2, 1500, dtype=torch.int16))
    with pytest.raises(ShapeError, match=r"\(1500,\)"):
        compare(sound(0)[0], sound(0))
