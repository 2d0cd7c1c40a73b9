"""The changes between two official releases: the named behaviours, and how far apart two of their runs are.

What each change does by itself takes a model to measure, see `parity.identify.release_effects`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from parity.identify.effect import ReleaseEffect, effect
from parity.runs.folder import Run
from runners.errors import RunError
from runners.releases import RELEASES

NEARER: Final = 3.0  # times nearer in frames and sound, to be taken for a follower of another release
WORDS: Final = {  # a noun phrase for what a release that has it does
    "vocoder_fp32": "vocoder in fp32",
    "keyframe_spans_one_frame": "keyframes of 1 pixel frame instead of 8",
    "negative_disables_skipped_modality": "skipped modalities left out of the negative pass, too",
    "guided_passes_repeated": "guided passes on repeated tokens, each with a noise level of its own",
    "sound_of_first_stage": "sound of the first of two stages",
    "prompts_encoded_together": "both prompts through Gemma in one pass",
    "positions_fp32": "video positions in fp32",
    "cross_timestep_per_token": "cross-modal scale and shift by the stream's own timesteps",
    "guidance_fp32": "guided combination in fp32",
    "noise_lerp_fp32": "initial noise mixed in by an fp32 lerp",
    "decoder_chunked": "video decoding in place, in temporal chunks",
    "decode_auto_tiled": "video decoding in tiles without being asked",
    "pictures_as_displayed": "pictures turned upright and converted to sRGB",
    "more_negative_phrases": "five more phrases in the default negative prompt",
    "unguided_level_per_sample": "passes without guidance with a noise level a sample",
    "lora_accumulated": "LoRAs in bf16, each further one accumulated on the sum of those before",
}


@dataclass(frozen=True, kw_only=True)
class BehaviourChange:
    """One behaviour that two releases do not share."""

    name: str
    since: str  # the first release that has it
    on: bool  # whether the second of the two has it; if not, it is undone
    words: str


@dataclass(frozen=True, kw_only=True)
class Follows:
    """The run of another release that a candidate is nearer to than to its reference."""

    release: str
    folder: Path  # of that run
    instead_of: str  # the reference's release
    times: float  # how many times nearer, in frames and sound; inf where it has every bit


@dataclass(frozen=True, kw_only=True)
class ReleaseChange:
    """Two official runs of different releases. Everything but `total` needs weights, and is empty or None without."""

    old: str
    new: str
    changes: tuple[BehaviourChange, ...]
    total: ReleaseEffect  # the two runs
    alone: dict[str, ReleaseEffect]  # native at the old release with one change against without, by name
    together: ReleaseEffect | None  # native at the new release against native at the old one
    left: dict[
        str, ReleaseEffect
    ]  # by release: native against the official run; nothing is unexplained if all bits are equal

    @property
    def explained(self) -> bool:
        """True if native has every bit of both runs, so that the named changes are all there is."""
        return bool(self.left) and all(one.bit_equal for one in self.left.values())

    def document(self) -> dict[str, Any]:
        """As JSON data, before infinities are written as strings."""
        return {
            "old": self.old,
            "new": self.new,
            "explained": self.explained if self.left else None,
            "total": self.total.document(),
            "changes": [
                {
                    **vars(change),
                    "effect": self.alone[change.name].document() if change.name in self.alone else None,
                }
                for change in self.changes
            ],
            "together": None if self.together is None else self.together.document(),
            "unexplained": {release: one.document() for release, one in self.left.items()},
        }


def changes_between(old: str, new: str) -> tuple[BehaviourChange, ...]:
    """The behaviours in which two releases differ. Raises: RunError for what is no release."""
    for release in (old, new):
        if release not in RELEASES:
            raise RunError(f"{release!r} is no release whose changes have names; known are {', '.join(RELEASES)}.")
    before, after = vars(RELEASES[old]), vars(RELEASES[new])
    return tuple(
        BehaviourChange(name=name, since=since(name), on=after[name], words=WORDS[name])
        for name in before
        if before[name] != after[name]
    )


def since(name: str) -> str:
    """The first release with a behaviour."""
    return next(release for release, reference in RELEASES.items() if getattr(reference, name))


def named(old: Run, new: Run) -> ReleaseChange:
    """The changes that two official runs of different releases show without weights. Raises: RunError for others."""
    for run in (old, new):
        if run.manifest.runner != "official":
            raise RunError(
                f"Reference mismatch: {old.folder} follows release {old.manifest.reference}, {new.folder} follows "
                f"{new.manifest.reference}, and {run.folder} is no official run, so what the releases changed cannot "
                f"be told from what the engine does. Run it with --reference {old.manifest.reference}."
            )
    return ReleaseChange(
        old=old.manifest.reference,
        new=new.manifest.reference,
        changes=changes_between(old.manifest.reference, new.manifest.reference),
        total=effect(old, new),
        alone={},
        together=None,
        left={},
    )


def follows_another(candidate: Run, reference: Run, others: Iterable[Run]) -> Follows | None:
    """The other release that a candidate has every bit of, or is far nearer to than to its reference; else None.

    Args:
        candidate: the run that was judged.
        reference: the run it was judged by.
        others: runs of the same request, of any release.
    """
    own = effect(reference, candidate)
    nearest, times = reference, 1.0
    for other in others:
        if other.manifest.reference != reference.manifest.reference:
            found = effect(other, candidate)
            both = (_ratio(own.frames, found.frames), _ratio(own.audio, found.audio))
            nearer = math.inf if found.bit_equal else min(both)
            nearest, times = (other, nearer) if nearer > times else (nearest, times)
    if times < NEARER:
        return None
    return Follows(
        release=nearest.manifest.reference,
        folder=nearest.folder,
        instead_of=reference.manifest.reference,
        times=times,
    )


def _ratio(own: float, other: float) -> float:
    """Ratio of distances; `inf` if the other is equal and this is not, 1 if both are, 0 where either is nan."""
    if math.isnan(own) or math.isnan(other):
        return 0.0
    return own / other if other else math.inf if own else 1.0
