"""The distance of two runs of one request, in a few numbers: taps, frames and sound. No judgement.

Unlike `parity.diff.runs`, which refuses runs of different releases, this is for what such runs are compared for: to see
what a change of the reference does. All sizes are relative L2, 0 where every bit is equal.
"""

import math
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Self

import torch
from torch import Tensor

from parity.diff import frames, tensors
from parity.diff.metric import highest
from parity.diff.runs import reduced_of
from parity.diff.sketches import relative_l2
from parity.runs.folder import TRACE_FILE, Run
from parity.taps.name import is_tap, place_of
from parity.taps.pattern import chosen
from runners.errors import RunError


@dataclass(frozen=True, kw_only=True)
class ReleaseEffect:
    """The distance of a run from another. `taps` of 0 says that one of them has no trace."""

    first_tap: str | None  # in the order of the run: other bits, or on one side only
    taps: int  # compared, by bits also where a golden keeps no sketch
    taps_moved: int  # of those, with other bits
    taps_unmatched: int  # on one side only
    taps_max: float
    taps_median: float  # of those that moved and have sketches; 0 if none did
    frames: float
    frames_psnr_db: float  # inf where every byte is equal
    audio: float
    bit_equal: bool  # every tap compared, none unmatched, every frame and sample
    left_out: tuple[str, ...] = ()  # taps of which one side holds padding, as older traces do: not compared

    def document(self) -> dict[str, Any]:
        """As JSON data, before infinities are written as strings."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Outputs:
    """Of one run: the frames to measure, what is equal if all frames are, and the waveform."""

    frames: Tensor
    all_frames: Tensor
    waveform: Tensor

    @classmethod
    def of(cls, run: Run, *, reduced: bool) -> Self:
        if reduced:
            small = reduced_of(run)
            return cls(frames=small.key_frames, all_frames=small.frame_sha256, waveform=small.audio_waveform)
        whole = run.outputs()
        return cls(frames=whole.video_frames, all_frames=whole.video_frames, waveform=whole.audio_waveform)


def require_same_request(reference: Run, candidate: Run) -> None:
    """Refuse two runs that are not of one request, apart from its name and the release it follows. Raises: RunError."""
    old, new = ({**run.manifest.case, "id": None, "reference": None} for run in (reference, candidate))
    both = f"{reference.folder} and {candidate.folder}"
    if old != new:
        keys = ", ".join(sorted(key for key in {*old, *new} if old.get(key) != new.get(key)))
        raise RunError(f"{both} are runs of different requests: they differ in {keys}. Run both with the same case.")
    for name in ("inputs", "weights_hash", "loras", "dtype"):
        if getattr(reference.manifest, name) != getattr(candidate.manifest, name):
            raise RunError(f"{both} differ in {name} too, so what their releases change cannot be told.")


def effect(reference: Run, candidate: Run) -> ReleaseEffect:
    """Measure what separates two runs of one request.

    Args:
        reference: run that relative sizes refer to. Of one that is reduced, frames are its three key frames.
        candidate: the other run.
    Raises: RunError if they are not of one request, or cannot be read.
    """
    require_same_request(reference, candidate)
    moved, sizes, compared, unmatched, omitted = _taps(reference, candidate)
    in_both = len(moved) - unmatched
    reduced = reference.reduced or candidate.reduced
    old, new = (_Outputs.of(run, reduced=reduced) for run in (reference, candidate))
    sound = tensors.compare(old.waveform, new.waveform, where="waveform")
    return ReleaseEffect(
        first_tap=next(iter(moved), None),
        taps=compared,
        taps_moved=in_both,
        taps_unmatched=unmatched,
        taps_max=highest(sizes) if sizes else 0.0,
        taps_median=_middle(sizes),
        frames=tensors.compare(old.frames, new.frames, where="frames").relative_l2,
        frames_psnr_db=frames.compare(old.frames, new.frames).summary()["frames.psnr_db.mean"],
        audio=sound.relative_l2,
        bit_equal=not moved and torch.equal(old.all_frames, new.all_frames) and sound.bit_equal,
        left_out=omitted,
    )


def _taps(reference: Run, candidate: Run) -> tuple[list[str], list[float], int, int, tuple[str, ...]]:
    """Taps that moved in the order of the run, relative L2 of those with sketches, how many were compared and how many
    are on one side only, and which were left out."""
    if not (reference.has(TRACE_FILE) and candidate.has(TRACE_FILE)):
        return [], [], 0, 0, ()
    old, new = reference.trace, candidate.trace
    old_bits, new_bits = old.bits, new.bits
    place: dict[str, int] = {}
    for names in (old_bits, new_bits):
        for index, name in enumerate(names):
            place[name] = min(index, place.get(name, index))
    wanted = sorted(
        (name for name in place if chosen(name, old.pattern_of_bits) and chosen(name, new.pattern_of_bits)),
        key=place.__getitem__,
    )
    padded = old.padded_text or new.padded_text
    omitted = tuple(name for name in wanted if padded and is_tap(name) and place_of(name).part == "hidden")
    wanted = [name for name in wanted if name not in omitted]
    both = sum(name in old_bits and name in new_bits for name in wanted)
    moved = [name for name in wanted if old_bits.get(name) != new_bits.get(name)]
    sizes = [relative_l2(old[name], new[name], where=name).estimate for name in moved if name in old and name in new]
    return moved, sizes, both, len(wanted) - both, omitted


def _middle(sizes: list[float]) -> float:
    if any(math.isnan(size) for size in sizes):
        return math.nan
    return median(sizes) if sizes else 0.0
