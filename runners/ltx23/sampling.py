"""Sampling parameters: one request to the model, and what one-stage generation takes as given."""

from dataclasses import dataclass
from typing import Any, Final

from runners.errors import CaseError
from runners.releases import ReleaseBehaviours
from runners.request import Guider, ImageCondition, check_guider, check_request
from runners.stages import PIPELINES, Pipeline, StagePlan, Stages, check_stages, plan_stages

# A fact of the official model: its text is part of the numbers (ltx_pipelines.utils.constants 1.0.0).
DEFAULT_NEGATIVE_PROMPT = (
    "blurry, out of focus, overexposed, underexposed, low contrast, washed out colors, excessive noise, grainy "
    "texture, poor lighting, flickering, motion blur, distorted proportions, unnatural skin tones, deformed facial "
    "features, asymmetrical face, missing facial features, extra limbs, disfigured hands, wrong hand count, "
    "artifacts around text, inconsistent perspective, camera shake, incorrect depth of field, background too sharp, "
    "background clutter, distracting reflections, harsh shadows, inconsistent lighting direction, color banding, "
    "cartoonish rendering, 3D CGI look, unrealistic materials, uncanny valley effect, incorrect ethnicity, wrong "
    "gender, exaggerated expressions, wrong gaze direction, mismatched lip sync, silent or muted audio, distorted "
    "voice, robotic voice, echo, background noise, off-sync audio, incorrect dialogue, added dialogue, repetitive "
    "speech, jittery movement, awkward pauses, incorrect timing, unnatural transitions, inconsistent framing, tilted "
    "camera, flat lighting, inconsistent tone, cinematic oversaturation, stylized filters, or AI artifacts."
)

MORE_NEGATIVE_PHRASES = (
    "has_subtitles",
    "has_blurbox",
    "transition from black",
    "transition to black",
    "speech_ending_short",
)  # stand before the others since 1.2.0


def default_negative_prompt(reference: ReleaseBehaviours) -> str:
    """The negative prompt of a request that has none."""
    phrases = MORE_NEGATIVE_PHRASES if reference.more_negative_phrases else ()
    return ", ".join((*phrases, DEFAULT_NEGATIVE_PROMPT))


VIDEO_GUIDER = Guider(
    cfg_scale=3.0, stg_scale=1.0, rescale_scale=0.7, modality_scale=3.0, skip_step=0, stg_blocks=(28,)
)
AUDIO_GUIDER = Guider(
    cfg_scale=7.0, stg_scale=1.0, rescale_scale=0.7, modality_scale=3.0, skip_step=0, stg_blocks=(28,)
)
GUIDER_VALUES = ("cfg_scale", "stg_scale", "rescale_scale", "modality_scale", "skip_step", "stg_blocks")
_TYPES: dict[str, tuple[type, ...]] = {
    "prompt": (str,),
    "negative_prompt": (str,),
    "seed": (int,),
    "height": (int,),
    "width": (int,),
    "num_frames": (int,),
    "frame_rate": (float, int),
    "num_inference_steps": (int,),
    "images": (tuple,),
    "video_guidance": (Guider,),
    "audio_guidance": (Guider,),
    "skip_v2a_cross_attn_for_video_gt": (bool,),
    "pipeline": (str,),
    "stages": (Stages,),
}


WHOLE: Final = Stages()  # nothing said of stages


@dataclass(frozen=True, kw_only=True)
class LTX23SamplingParams:
    """One request for a clip with sound. The defaults are those of the official one-stage pipeline for LTX-2.3.

    Source: ltx_pipelines.utils.{constants.LTX_2_3_PARAMS,args} 1.0.0; a prompt has no default there.
    """

    prompt: str = ""
    negative_prompt: str = DEFAULT_NEGATIVE_PROMPT
    seed: int = 10
    height: int = 512  # pixels
    width: int = 768  # pixels
    num_frames: int = 121
    frame_rate: float = 24.0  # frames per second
    num_inference_steps: int = 30
    images: tuple[ImageCondition, ...] = ()
    video_guidance: Guider = VIDEO_GUIDER
    audio_guidance: Guider = AUDIO_GUIDER
    skip_v2a_cross_attn_for_video_gt: bool = False  # audio-from-video attention off in every block of all passes
    pipeline: str = "one_stage"
    stages: Stages = WHOLE

    def __post_init__(self) -> None:
        """Refuse what the model cannot run. Raises: CaseError."""
        whose = type(self).__name__
        for name, types in _TYPES.items():
            value = getattr(self, name)
            if type(value) not in types:
                raise CaseError(f"{whose}: {name} is {value!r}; wanted {types[0].__name__}.")
        check_request(whose, "", self)
        check_guider(f"{whose}: video_guidance", self.video_guidance)
        check_guider(f"{whose}: audio_guidance", self.audio_guidance)
        check_stages(whose, self.pipeline, self.stages, self, self.video_guidance, self.audio_guidance)

    @property
    def kind(self) -> Pipeline:
        """The pipeline that the request goes through."""
        return PIPELINES[self.pipeline]

    @property
    def plans(self) -> tuple[StagePlan, ...]:
        """Its stages, one or two."""
        return plan_stages(self.pipeline, self.stages, self, self.video_guidance, self.audio_guidance)

    @property
    def do_classifier_free_guidance(self) -> bool:
        """True if the negative prompt is needed at all."""
        return self.video_guidance.needs_uncond or self.audio_guidance.needs_uncond

    def build_request_extra(self) -> dict[str, Any]:
        """The part of a recorded request besides prompt, sizes, seed and steps, under the names that SGLang gives it.

        The flag is there only where it is set: requests recorded before there was one stay as they are, byte for byte.
        """
        values: dict[str, Any] = {
            f"{modality}_{name}": getattr(guider, name)
            for modality, guider in (("video", self.video_guidance), ("audio", self.audio_guidance))
            for name in GUIDER_VALUES
        }
        for name in ("video_stg_blocks", "audio_stg_blocks"):
            values[name] = list(values[name])  # as JSON has it
        extra: dict[str, Any] = {"ltx2_stage1_guider_params": values}
        if self.skip_v2a_cross_attn_for_video_gt:
            extra["ltx2_skip_v2a_cross_attn_for_video_gt"] = True
        return extra
