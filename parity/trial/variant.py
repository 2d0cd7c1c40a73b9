"""Variants of a case: what a defect needs in order to matter, such as a keyframe or audio-from-video switched off."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from runners.case import Case, Guidance
from runners.errors import CaseError

SOFT_STRENGTH = 0.6
KEYFRAME = 8  # pixel frame, the first of the second latent frame


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A change of a case that leaves its model, shape and seed alone."""

    name: str
    change: Callable[[Case], Case]

    def fits(self, case: Case) -> bool:
        """Whether the case already is what the variant would make of it."""
        try:
            return self.change(case) == case
        except CaseError:
            return False


def _picture(case: Case, frame_idx: int, strength: float) -> Case:
    request = case.request
    if not request.images:
        raise CaseError(f"Case {case.id!r} has no picture; this defect needs one. Give a case with [[request.images]].")
    first = msgspec.structs.replace(request.images[0], frame_idx=frame_idx, strength=strength)
    return msgspec.structs.replace(case, request=msgspec.structs.replace(request, images=(first,)))


def _v2a_skipped(case: Case, skipped: bool) -> Case:
    switches = msgspec.structs.replace(case.switches, skip_v2a_cross_attn_for_video_gt=skipped)
    return msgspec.structs.replace(case, switches=switches)


def _video_skips(case: Case) -> Case:
    video = msgspec.structs.replace(case.guidance.video, skip_step=1)
    return msgspec.structs.replace(case, guidance=Guidance(video=video, audio=case.guidance.audio))


AS_IS = Variant(name="as it is", change=lambda case: case)
PICTURE = Variant(name="a picture at frame 0", change=lambda case: _picture(case, 0, 1.0))
SOFT_PICTURE = Variant(name="a picture of less strength", change=lambda case: _picture(case, 0, SOFT_STRENGTH))
KEYFRAME_PICTURE = Variant(name="a keyframe", change=lambda case: _picture(case, KEYFRAME, 1.0))
V2A_ON = Variant(name="V2A on", change=lambda case: _v2a_skipped(case, False))
V2A_OFF = Variant(name="V2A off", change=lambda case: _v2a_skipped(case, True))
VIDEO_SKIPS = Variant(name="every other step skipped for video", change=_video_skips)
