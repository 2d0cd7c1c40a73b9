"""Sound of a page: clips that hold the samples, envelopes that touch them, levels that can be read off."""

import base64
import io
import math
import wave

import numpy as np
import pytest
import torch

from parity.diff.spectral import FLOOR_DB, MEL_BANDS
from parity.report.page_sound import COLUMNS, sound_data

RATE_HZ = 16_000


def samples_of(uri: str) -> tuple[int, "np.ndarray[tuple[int, int], np.dtype[np.int16]]"]:
    with wave.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as clip:
        data = np.frombuffer(clip.readframes(clip.getnframes()), "<i2").reshape(-1, clip.getnchannels())
        return clip.getframerate(), data.T


def tone(hertz: float, seconds: float = 0.5) -> torch.Tensor:
    return 0.25 * torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * RATE_HZ)) / RATE_HZ)


def test_clips_hold_the_samples_and_the_difference_its_gain() -> None:
    old = torch.stack([tone(440), tone(880)])
    new = old.clone()
    new[0, 100] += 0.004
    data, notes = sound_data(old, new, (RATE_HZ, RATE_HZ), 10_000_000)
    assert notes == [] and data["gain"] == 100  # 0.4 of full scale; 200 would exceed 0.5
    rate, reference = samples_of(data["sides"]["reference"]["clip"])
    assert rate == RATE_HZ
    np.testing.assert_array_equal(reference, np.rint(old.numpy() * 32767))
    _, difference = samples_of(data["sides"]["difference"]["clip"])
    assert difference[0, 100] == pytest.approx(0.4 * 32767, abs=2) and np.abs(difference).sum() == difference[0, 100]


def test_an_envelope_touches_the_least_and_greatest_sample_of_each_column() -> None:
    clip = torch.zeros(1, 2 * COLUMNS)
    clip[0, 6], clip[0, 7] = 0.5, -0.25  # column 3
    data, _ = sound_data(clip, clip, (RATE_HZ, RATE_HZ), 10_000_000)
    [envelope] = data["sides"]["candidate"]["envelope"]
    low, high = np.frombuffer(base64.b64decode(envelope["data"]), "<i2").reshape(2, COLUMNS)
    assert (envelope["columns"], envelope["peak"]) == (COLUMNS, 0.5)
    assert (low[3], high[3]) == (round(-0.25 * 32767), round(0.5 * 32767))
    assert np.abs(low).sum() + np.abs(high).sum() == -int(low[3]) + int(high[3])


def test_louder_is_above_the_middle_of_the_change_and_a_tone_in_its_band() -> None:
    old = tone(1000)[None]
    data, _ = sound_data(old, old * 2, (RATE_HZ, RATE_HZ), 10_000_000)
    [spectrum] = data["sides"]["reference"]["spectrum"]
    levels = np.frombuffer(base64.b64decode(spectrum["data"]), np.uint8).reshape(MEL_BANDS, spectrum["columns"])
    loudest = int(levels[:, levels.shape[1] // 2].argmax())
    mel = 2595 * math.log10(1 + 1000 / 700) / (2595 * math.log10(1 + RATE_HZ / 2 / 700))
    assert abs(loudest - (mel * (MEL_BANDS + 1) - 1)) <= 1
    peak_db = FLOOR_DB * (1 - int(levels[loudest, levels.shape[1] // 2]) / 255)
    assert peak_db == pytest.approx(20 * math.log10(0.125), abs=3)  # half the amplitude; a band may miss the peak
    [change] = data["level_difference"]
    bytes_ = np.frombuffer(base64.b64decode(change["data"]), np.uint8).reshape(MEL_BANDS, change["columns"])
    assert data["difference_db"] == 10.0  # the least range that holds 6.02 dB
    assert bytes_[loudest, levels.shape[1] // 2] == round(255 * (0.5 + 6.0206 / 20))


def test_clips_are_cut_to_their_room_and_pictures_are_not() -> None:
    old = torch.stack([tone(440, seconds=2.0)])
    data, notes = sound_data(old, old, (RATE_HZ, RATE_HZ), 100_000)
    total = sum(len(side["clip"]) for side in data["sides"].values())
    assert 90_000 < total <= 100_500
    assert notes == ["clips to play are cut to their first 0.8 s; the pictures show everything"]
    assert data["sides"]["reference"]["seconds"] == 2.0


def test_other_rates_and_samples_that_are_no_numbers_are_said() -> None:
    old, new = tone(440)[None], tone(440)[None].clone()
    new[0, 3] = math.nan
    data, notes = sound_data(old, new, (RATE_HZ, 8000), 10_000_000)
    assert notes[0].startswith("1 samples of the candidate are not finite")
    assert notes[1].startswith("no difference") and "difference" not in data["sides"]
    assert samples_of(data["sides"]["candidate"]["clip"])[1][0, 3] == 0
    empty, _ = sound_data(torch.zeros(2, 0), torch.zeros(2, 0), (RATE_HZ, RATE_HZ), 1000)
    assert empty["sides"]["reference"]["seconds"] == 0
