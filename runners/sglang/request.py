"""A case as a request to SGLang, and the check that its request holds what was asked for.

The guider values and the V2A switch come from the native request's `build_request_extra`, whose names are SGLang's own:
they are keywords of its sampling parameters, and it puts them into the `extra` of its request again.
"""

from typing import Any, Final

from runners.case import Case
from runners.errors import RunnerError
from runners.ltx23.sampling import LTX23SamplingParams
from runners.native.request import sampling_params

GUIDERS: Final = "ltx2_stage1_guider_params"
SKIP_V2A: Final = "ltx2_skip_v2a_cross_attn_for_video_gt"
CRF: Final = 33  # of the round trip that SGLang sends every picture through
MAX_IMAGES: Final = 2  # a first and a last frame


def request_keywords(case: Case) -> dict[str, Any]:
    """A case as keywords of SGLang's `LTX23SamplingParams`.

    Raises: RunnerError naming the option that SGLang has no parameter for; CaseError for a picture that is missing.
    """
    request = case.request
    if request.frame_rate != int(request.frame_rate):
        raise _refused("request.frame_rate", str(request.frame_rate), "whole numbers: its `fps` is an integer")
    if len(request.images) > MAX_IMAGES:
        raise _refused("request.images", f"{len(request.images)} pictures", "two at most, a first and a last frame")
    places = (0, request.num_frames - 1)
    for index, image in enumerate(request.images):
        where = f"request.images[{index}]"
        if image.frame_idx != places[index]:
            raise _refused(f"{where}.frame_idx", str(image.frame_idx), f"{places[index]} there")
        if image.strength != 1.0:
            raise _refused(f"{where}.strength", str(image.strength), "1.0: pictures are kept as they are")
        if image.crf != CRF:
            raise _refused(f"{where}.crf", str(image.crf), f"{CRF}, which is fixed")
    sampling = sampling_params(case)
    extra = sampling.build_request_extra()
    keywords: dict[str, Any] = {
        "prompt": sampling.prompt,
        "negative_prompt": sampling.negative_prompt,
        "seed": sampling.seed,
        "height": sampling.height,
        "width": sampling.width,
        "num_frames": sampling.num_frames,
        "fps": int(sampling.frame_rate),
        "num_inference_steps": sampling.num_inference_steps,
        **extra[GUIDERS],
    }
    if SKIP_V2A in extra:
        keywords["skip_v2a_cross_attn_for_video_gt"] = True
    if sampling.images:
        paths = [image.path for image in sampling.images]
        keywords["image_path"] = paths[0] if len(paths) == 1 else paths
    return keywords


def require_as_asked(request: Any, sampling: LTX23SamplingParams) -> None:
    """Compare the request that SGLang made with what it was asked for.

    Args:
        request: SGLang's `Req`.
        sampling: the native request of the same case.
    Raises: RunnerError naming what differs; a version that drops or changes a value is not judged as if it had it.
    """
    asked = {
        # Spaces around a prompt are not part of it, neither here nor there.
        "prompt": sampling.prompt.strip(),
        "negative_prompt": sampling.negative_prompt.strip(),
        "seed": sampling.seed,
        "height": sampling.height,
        "width": sampling.width,
        "num_frames": sampling.num_frames,
        "fps": sampling.frame_rate,
        "num_inference_steps": sampling.num_inference_steps,
    }
    held = {name: getattr(request, name) for name in asked}
    held |= {name: held[name].strip() for name in ("prompt", "negative_prompt")}
    extra = sampling.build_request_extra()
    asked |= extra[GUIDERS] | {SKIP_V2A: extra.get(SKIP_V2A, False)}
    held |= {name: request.extra.get(GUIDERS, {}).get(name) for name in extra[GUIDERS]}
    held[SKIP_V2A] = request.extra.get(SKIP_V2A, False)
    different = [f"{name} = {held[name]!r} instead of {asked[name]!r}" for name in asked if held[name] != asked[name]]
    if different:
        raise RunnerError(
            f"SGLang made another request of this case: {'; '.join(different)}. This is a version that runner 'sglang' "
            "does not know; docs/engines.md names those it does."
        )


def _refused(option: str, value: str, wanted: str) -> RunnerError:
    return RunnerError(
        f"Runner 'sglang' cannot be given {option} = {value}; SGLang takes {wanted}. "
        "Run this case with official or native, or override the option."
    )
