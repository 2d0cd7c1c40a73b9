"""Sound for the page: envelopes and log-mel spectra of both runs and of their difference, and clips to play.

Axes: C channel, N sample, X column of a picture, M mel band, T analysis frame. Full scale is 1.0.
"""

import io
import wave
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from parity.diff.spectral import FLOOR_DB, MEL_BANDS, log_mel_db
from parity.report.page_pack import data_uri, packed

COLUMNS: Final = 1000  # of an envelope
SPECTRUM_COLUMNS: Final = 600
RANGES_DB: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # up to which a difference of levels is drawn
LOUD_SHARE: Final = 0.99  # of level differences that must lie within that range
PEAK: Final = 0.5  # which an amplified difference is brought to
GAINS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000, 100_000, 1_000_000)


def sound_data(
    reference: Tensor, candidate: Tensor, rates_hz: tuple[int, int], most_bytes: int
) -> tuple[dict[str, Any], list[str]]:
    """The data that the page draws and plays.

    Args:
        reference: (C, N) samples.
        candidate: (C, N) samples; of another shape or rate it is shown and played without a difference.
        rates_hz: samples a second of both.
        most_bytes: what the clips together may take, as base64; longer ones are cut, and notes say so.
    Returns: data for the page's script, and notes for its reader.
    """
    clips = {"reference": reference.detach().cpu().float(), "candidate": candidate.detach().cpu().float()}
    notes = []
    for side, clip in clips.items():
        if broken := int((~clip.isfinite()).sum()):
            notes.append(f"{broken} samples of the {side} are not finite; they are drawn and played as silence")
            clips[side] = clip.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    rates = dict(zip(("reference", "candidate"), rates_hz, strict=True))
    comparable = reference.shape == candidate.shape and len(set(rates_hz)) == 1 and reference.numel() > 0
    gain = 1
    if comparable:
        clips["difference"] = clips["candidate"] - clips["reference"]
        rates["difference"] = rates_hz[0]
        gain = _gain(clips["difference"])
    else:
        notes.append(
            f"no difference: the reference is {tuple(reference.shape)} at {rates_hz[0]} Hz, "
            f"the candidate {tuple(candidate.shape)} at {rates_hz[1]} Hz"
        )
    seconds = most_bytes * 3 / 4 / sum(2 * clip.shape[0] * rates[side] for side, clip in clips.items())
    if any(seconds < clip.shape[1] / rates[side] for side, clip in clips.items()):
        notes.append(f"clips to play are cut to their first {seconds:.1f} s; the pictures show everything")
    changes = []
    if comparable:
        pairs = zip(clips["reference"], clips["candidate"], strict=True)
        changes = [log_mel_db(new, rates_hz[0]) - log_mel_db(old, rates_hz[0]) for old, new in pairs]
    range_db = _range_db(changes)
    louder = {side: gain if side == "difference" else 1 for side in clips}
    return {
        "gain": gain,
        "bands": MEL_BANDS,
        "floor_db": FLOOR_DB,
        "difference_db": range_db,
        "sides": {
            side: {
                "channels": clip.shape[0],
                "rate_hz": rates[side],
                "seconds": clip.shape[1] / rates[side],
                "envelope": [_envelope(channel * louder[side]) for channel in clip],
                "spectrum": [] if side == "difference" else [_levels(channel, rates[side]) for channel in clip],
                "clip": _wav(clip[:, : int(seconds * rates[side])] * louder[side], rates[side]),
            }
            for side, clip in clips.items()
        },
        "level_difference": [_level_difference(change, range_db) for change in changes],
    }, notes


def _gain(difference: Tensor) -> int:
    """The largest round gain that keeps the difference below `PEAK`; 1 for none at all."""
    peak = float(difference.abs().max())
    return max(gain for gain in GAINS if gain == 1 or (peak > 0 and gain * peak <= PEAK))


def _envelope(samples: Tensor) -> dict[str, Any]:
    """Least and greatest sample of each column, as 16-bit integers, (2, X), and the largest magnitude."""
    count = samples.numel()
    if not count:
        return {"columns": 0, "peak": 0.0, "data": ""}
    columns = min(COLUMNS, count)
    edges = np.linspace(0, count, columns + 1).astype(np.int64)[:-1]
    values = samples.numpy()
    both = np.stack([np.minimum.reduceat(values, edges), np.maximum.reduceat(values, edges)])
    peak = min(1.0, float(np.abs(both).max()))
    return {"columns": columns, "peak": peak, "data": packed(_sixteen_bits(both))}


def _levels(samples: Tensor, rate_hz: int) -> dict[str, Any]:
    """Log-mel levels from FLOOR_DB (0) to full scale (255): (M, T) bytes."""
    level = _narrowed(log_mel_db(samples, rate_hz)) if samples.numel() else torch.empty(MEL_BANDS, 0)
    return {"columns": level.shape[1], "data": packed(_byte(1 - level / FLOOR_DB))}


def _range_db(changes: list[Tensor]) -> float:
    """The least range that holds nearly all changes of level."""
    worst = max((float(change.abs().flatten().quantile(LOUD_SHARE)) for change in changes), default=0.0)
    return next((range_db for range_db in RANGES_DB if worst <= range_db), RANGES_DB[-1])


def _level_difference(change: Tensor, range_db: float) -> dict[str, Any]:
    """Candidate's level minus reference's from -range_db (0) to range_db (255): (M, T) bytes."""
    narrow = _narrowed(change)
    return {"columns": narrow.shape[1], "data": packed(_byte(0.5 + narrow / (2 * range_db)))}


def _narrowed(picture: Tensor) -> Tensor:
    """(M, T) of at most SPECTRUM_COLUMNS columns, each the mean of those it stands for."""
    if picture.shape[1] <= SPECTRUM_COLUMNS:
        return picture
    return torch.nn.functional.adaptive_avg_pool1d(picture[None], SPECTRUM_COLUMNS)[0]


def _byte(share: Tensor) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    return (share.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _sixteen_bits(values: "np.ndarray[Any, Any]") -> "np.ndarray[Any, np.dtype[np.int16]]":
    scaled: np.ndarray[Any, np.dtype[np.int16]] = np.rint(np.clip(values, -1.0, 1.0) * 32767).astype(np.int16)
    return scaled


def _wav(samples: Tensor, rate_hz: int) -> str:
    """(C, N) samples as a 16-bit WAV file; what exceeds full scale is clipped."""
    file = io.BytesIO()
    with wave.open(file, "wb") as clip:
        clip.setnchannels(max(1, samples.shape[0]))
        clip.setsampwidth(2)
        clip.setframerate(rate_hz)
        clip.writeframes(_sixteen_bits(samples.T.contiguous().numpy()).tobytes())
    return data_uri("audio/wav", file.getvalue())
