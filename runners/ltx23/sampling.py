"""Sampling parameters: one request to the model, and what one-stage generation takes as given."""

from dataclasses import dataclass
from pathlib import Path

from runners.ltx23.guidance import GuidanceParameters
from runners.ltx23.reference import Reference

DEFAULT_NEGATIVE_PROMPT = ", ".join(
    (
        "blurry",
        "out of focus",
        "overexposed",
        "underexposed",
        "low contrast",
        "washed out colors",
        "excessive noise",
        "grainy texture",
        "poor lighting",
        "flickering",
        "motion blur",
        "distorted proportions",
        "unnatural skin tones",
        "deformed facial features",
        "asymmetrical face",
        "missing facial features",
        "extra limbs",
        "disfigured hands",
        "wrong hand count",
        "artifacts around text",
        "inconsistent perspective",
        "camera shake",
        "incorrect depth of field",
        "background too sharp",
        "background clutter",
        "distracting reflections",
        "harsh shadows",
        "inconsistent lighting direction",
        "color banding",
        "cartoonish rendering",
        "3D CGI look",
        "unrealistic materials",
        "uncanny valley effect",
        "incorrect ethnicity",
        "wrong gender",
        "exaggerated expressions",
        "wrong gaze direction",
        "mismatched lip sync",
        "silent or muted audio",
        "distorted voice",
        "robotic voice",
        "echo",
        "background noise",
        "off-sync audio",
        "incorrect dialogue",
        "added dialogue",
        "repetitive speech",
        "jittery movement",
        "awkward pauses",
        "incorrect timing",
        "unnatural transitions",
        "inconsistent framing",
        "tilted camera",
        "flat lighting",
        "inconsistent tone",
        "cinematic oversaturation",
        "stylized filters",
        "or AI artifacts.",
    )
)  # a fact of the official model: its text is part of the numbers (ltx_pipelines.utils.constants 1.0.0)

MORE_NEGATIVE_PHRASES = (
    "has_subtitles",
    "has_blurbox",
    "transition from black",
    "transition to black",
    "speech_ending_short",
)  # stand before the others since 1.2.0


def default_negative_prompt(reference: Reference) -> str:
    """What a request without a negative prompt is given."""
    phrases = MORE_NEGATIVE_PHRASES if reference.more_negative_phrases else ()
    return ", ".join((*phrases, DEFAULT_NEGATIVE_PROMPT))


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """A picture the video must show."""

    path: Path
    frame_idx: int
    strength: float
    crf: int


@dataclass(frozen=True, kw_only=True)
class SamplingParameters:
    """One request for a clip with sound."""

    prompt: str
    negative_prompt: str
    seed: int
    height: int  # pixels
    width: int  # pixels
    num_frames: int
    frame_rate: float  # frames per second
    num_inference_steps: int
    images: tuple[ImageInput, ...]
    video_guidance: GuidanceParameters
    audio_guidance: GuidanceParameters

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the negative prompt is needed at all."""
        return self.video_guidance.needs_uncond or self.audio_guidance.needs_uncond
