"""Every known defect, over every component, and which of them are measured on a case."""

from typing import Final

from parity.defects import decoding, guidance, latents, pictures, precision, serving, stages, text, transformer, weights
from parity.defects.defect import Defect, defects_in
from runners.case import Case

CATALOGUE: Final = defects_in(
    *(text, pictures, latents, transformer, precision, guidance, serving, stages, weights, decoding)
)

# Of the defects that matter to every case, those measured also on a case that others were made for: one for each part
# of the model and each output, so that every limit has a defect to lie below.
WITNESSES: Final = frozenset(
    {
        "text_without_first_token",
        "features_scale_dropped",
        "noise_of_next_seed",
        "sigmas_of_real_token_count",
        "head_rows_exchanged",
        "cfg_scale_one_too_large",
        "video_patches_transposed",
        "mel_last_sample_dropped",
        "extension_residual_dropped",
        "sound_half_as_loud",
        "sound_one_mel_frame_late",
    }
)
# Witnesses that the distilled pipeline never comes to: it has fixed noise levels and no guidance.
OF_GUIDED_PIPELINES: Final = frozenset({"sigmas_of_real_token_count", "cfg_scale_one_too_large"})
# The witness of a picture, where none was made for it.
OF_PICTURES: Final = frozenset({"picture_not_held"})


def defects_of(case: Case) -> tuple[Defect, ...]:
    """The defects that matter to a case as it stands, in the order of the catalogue.

    Of a committed case that some were made for, these and the witnesses: the others are measured where they are at
    home, and a calibration of every such case with all of them would take hours. Of any other case of several stages,
    the witnesses: much of one stage's code is never reached there.
    """
    fitting = tuple(defect for defect in CATALOGUE if defect.variant.fits(case))
    made_for_it = any(defect.variant.committed for defect in fitting)
    if len(case.plans) == 1 and not made_for_it:
        return fitting
    witnesses = WITNESSES if case.plans[0].guided else WITNESSES - OF_GUIDED_PIPELINES
    if not made_for_it and case.request.images:
        witnesses |= OF_PICTURES
    return tuple(defect for defect in fitting if defect.variant.committed or defect.id in witnesses)
