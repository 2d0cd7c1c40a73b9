"""Requests as engines record them, in JSON: prompt, sizes, seed, steps and the `extra` of the native request.

The keys are the fields of a case's request, `extra` is what `LTX23SamplingParams.build_request_extra` makes, and two
keys say what the case is called and which release is its truth; a recording that has neither gets its file's name and
the release of a case that names none. A request says nothing of autocast. Like a case file it may come from a stranger:
unknown, missing and repeated keys and wrong types are errors, and a picture must stay in the request's folder.
"""

from pathlib import Path
from typing import Any

from runners.case import MAX_CASE_BYTES, Case, Guidance, Request, Switches, case_document
from runners.errors import CaseError
from runners.load import load
from runners.ltx23.sampling import GUIDER_VALUES, default_negative_prompt
from runners.native.request import sampling_params
from runners.releases import reference_of
from runners.request import Guider
from runners.strict import Strict, fields_of


class GuiderParams(Strict, frozen=True, kw_only=True):
    """Both guiders under the names that engines give their values; each must be there."""

    video_cfg_scale: float
    video_stg_scale: float
    video_rescale_scale: float
    video_modality_scale: float
    video_skip_step: int
    video_stg_blocks: tuple[int, ...]
    audio_cfg_scale: float
    audio_stg_scale: float
    audio_rescale_scale: float
    audio_modality_scale: float
    audio_skip_step: int
    audio_stg_blocks: tuple[int, ...]

    def guider(self, modality: str) -> Guider:
        """The guider of "video" or "audio"."""
        return Guider(**{name: getattr(self, f"{modality}_{name}") for name in GUIDER_VALUES})


class Extra(Strict, frozen=True, kw_only=True):
    """The dictionary that `build_request_extra` makes."""

    ltx2_stage1_guider_params: GuiderParams
    ltx2_skip_v2a_cross_attn_for_video_gt: bool = False


class EngineRequest(Request, frozen=True, kw_only=True):
    """A request as an engine records it."""

    id: str | None = None
    reference: str = "1.0.0"
    extra: Extra


def request_of(case: Case) -> dict[str, Any]:
    """The JSON document of a case's request.

    Raises: CaseError for a case that runs under autocast or in two stages, which no request can ask for, or whose
        picture is missing;
    ConfigError for a reference that is no release.
    """
    if not case.switches.disable_autocast:
        raise CaseError(
            f"Case {case.id!r} runs under autocast (switches.disable_autocast = false), and a request has no place for "
            "that. Set disable_autocast = true, and turn autocast on in the engine itself."
        )
    if case.pipeline != "one_stage" or case.loras or case.quantization is not None:
        raise CaseError(
            f"Case {case.id!r} goes through {case.pipeline!r}, with {len(case.loras)} LoRAs and quantization "
            f"{case.quantization}; a request is of one stage, without either. Give the engine the case in its terms."
        )
    sampling = sampling_params(case)
    return {
        "id": case.id,
        "reference": case.reference,
        **case_document(case)["request"],
        "negative_prompt": sampling.negative_prompt,  # written out: an engine may have another default
        "extra": sampling.build_request_extra(),
    }


def case_of_request(path: Path) -> Case:
    """The case of a request's JSON file, its pictures beside that file or still to be put there.

    Raises: CaseError naming what is wrong or cannot be said in a case; ConfigError for a reference that is no release.
    """
    remedy = "wanted is a request such as `parity case --to-request` prints; docs/runners.md shows every key"
    recorded = load(path, EngineRequest, CaseError, remedy, max_bytes=MAX_CASE_BYTES)
    asked = fields_of(recorded)
    extra: Extra = asked.pop("extra")
    name, reference = asked.pop("id"), asked.pop("reference")
    if recorded.negative_prompt == default_negative_prompt(reference_of(reference)):
        asked["negative_prompt"] = None  # says the same, and follows the release
    params = extra.ltx2_stage1_guider_params
    case = Case(
        id=path.stem if name is None else name,
        pipeline="one_stage",
        reference=reference,
        request=Request(**asked),
        guidance=Guidance(video=params.guider("video"), audio=params.guider("audio")),
        switches=Switches(skip_v2a_cross_attn_for_video_gt=extra.ltx2_skip_v2a_cross_attn_for_video_gt),
        folder=str(path.parent),
    )
    for image in case.request.images:
        if case.image_place(image).is_dir():  # an empty name, for one; a picture may still be put there
            case.image_path(image)
    return case
