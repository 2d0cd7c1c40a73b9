"""Variants of a case: what a defect needs in order to matter, such as a keyframe or audio-from-video switched off.

What no small change of a case gives, such as a prompt beyond the window, a committed case has.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from parity.runs.golden import find_case
from runners.case import Case, Guidance, case_document
from runners.errors import CaseError
from runners.forge.make import LORA_NAME
from runners.request import Lora

SOFT_STRENGTH = 0.6
LORA_STRENGTH = 0.5
KEYFRAME = 8  # pixel frame, the first of the second latent frame


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A change of a case that leaves its model, shape and seed alone, or a committed case in its place."""

    name: str
    change: Callable[[Case], Case]
    committed: bool = False  # whether it is a committed case, which may have limits of its own; then `name` is its id
    every_release: bool = False  # whether the same request of another release is that case, too

    def fits(self, case: Case) -> bool:
        """True if the case already is what the variant would make of it."""
        try:
            wanted = self.change(case)
        except CaseError:
            return False
        if self.every_release:
            wanted = msgspec.structs.replace(wanted, id=case.id, reference=case.reference)
        return case_document(wanted) == case_document(case)


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


def _with_lora(case: Case) -> Case:
    return case if case.loras else msgspec.structs.replace(case, loras=(Lora(path=LORA_NAME, strength=LORA_STRENGTH),))


def case_variant(case_id: str, every_release: bool = False) -> Variant:
    """A case under golden/, whatever the case at hand is."""
    return Variant(name=case_id, change=lambda _: find_case(case_id), committed=True, every_release=every_release)


AS_IS = Variant(name="as it is", change=lambda case: case)
PICTURE = Variant(name="a picture at frame 0", change=lambda case: _picture(case, 0, 1.0))
SOFT_PICTURE = Variant(name="a picture of less strength", change=lambda case: _picture(case, 0, SOFT_STRENGTH))
KEYFRAME_PICTURE = Variant(name="a keyframe", change=lambda case: _picture(case, KEYFRAME, 1.0))
V2A_ON = Variant(name="V2A on", change=lambda case: _v2a_skipped(case, False))
V2A_OFF = Variant(name="V2A off", change=lambda case: _v2a_skipped(case, True))
VIDEO_SKIPS = Variant(name="every other step skipped for video", change=_video_skips)
TEXT_ONLY = case_variant("tiny_text_only")
TWO_PICTURES = case_variant("tiny_two_pictures")
TWO_LORAS = case_variant("tiny_two_loras")
TWO_PICTURES_AS_DISPLAYED = case_variant("release_1.2.0_tiny_two_pictures")
LORA = Variant(name="a LoRA", change=_with_lora)
FP8_CAST = Variant(
    name="weights kept as e4m3", change=lambda case: msgspec.structs.replace(case, quantization="fp8_cast")
)
TWO_STAGE_HQ = case_variant("tiny_two_stage_hq", every_release=True)
UNGUIDED_30_STEPS = case_variant("tiny_unguided_30_steps")
DISTILLED = case_variant("tiny_distilled", every_release=True)
TWO_STAGE = case_variant("tiny_two_stage", every_release=True)
KEYFRAMES = case_variant("tiny_keyframes", every_release=True)
TILES = case_variant("release_1.2.0_tiny_tiles")
WIDE_TILES = case_variant("release_1.2.0_tiny_wide_tiles")
