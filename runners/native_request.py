"""What the native model is given: a case in its own terms."""

from runners.case import Case, Guider
from runners.ltx23.guidance import GuidanceParameters
from runners.ltx23.reference import Reference, reference_of
from runners.ltx23.sampling import ImageInput, SamplingParameters, default_negative_prompt


def sampling_parameters(case: Case, reference: Reference | None = None) -> SamplingParameters:
    """A case in the native model's terms. Raises: CaseError if a picture is not where the case says."""
    request = case.request
    default = default_negative_prompt(reference or reference_of(case.reference))
    negative = default if request.negative_prompt is None else request.negative_prompt
    return SamplingParameters(
        prompt=request.prompt,
        negative_prompt=negative,
        seed=request.seed,
        height=request.height,
        width=request.width,
        num_frames=request.num_frames,
        frame_rate=request.frame_rate,
        num_inference_steps=request.num_inference_steps,
        images=tuple(
            ImageInput(path=case.image_path(image), frame_idx=image.frame_idx, strength=image.strength, crf=image.crf)
            for image in request.images
        ),
        video_guidance=guidance_parameters(case.guidance.video),
        audio_guidance=guidance_parameters(case.guidance.audio),
    )


def guidance_parameters(guider: Guider) -> GuidanceParameters:
    """Guidance of one modality in the native model's terms."""
    return GuidanceParameters(
        cfg_scale=guider.cfg_scale,
        stg_scale=guider.stg_scale,
        rescale_scale=guider.rescale_scale,
        modality_scale=guider.modality_scale,
        skip_step=guider.skip_step,
        stg_blocks=guider.stg_blocks,
    )
