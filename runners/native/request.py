"""The native model's request, made of a case."""

from runners.case import Case
from runners.ltx23.sampling import LTX23SamplingParams, default_negative_prompt
from runners.releases import ReleaseBehaviours, reference_of
from runners.request import ImageCondition
from runners.strict import fields_of


def sampling_params(case: Case, reference: ReleaseBehaviours | None = None) -> LTX23SamplingParams:
    """A case as a request to the model. Raises: CaseError if a picture is not where the case says."""
    default = default_negative_prompt(reference or reference_of(case.reference))
    asked = fields_of(case.request)
    if case.request.negative_prompt is None:
        asked["negative_prompt"] = default
    asked["images"] = tuple(
        ImageCondition(**{**fields_of(image), "path": str(case.image_path(image))}) for image in case.request.images
    )
    return LTX23SamplingParams(
        **asked,
        video_guidance=case.guidance.video,
        audio_guidance=case.guidance.audio,
        skip_v2a_cross_attn_for_video_gt=case.switches.skip_v2a_cross_attn_for_video_gt,
        pipeline=case.pipeline,
        stages=case.stages,
    )
