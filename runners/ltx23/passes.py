"""The guidance passes of a denoising step: which run, with which prompt, and what each leaves out of the transformer.

cond (the prompt), uncond (the negative prompt), perturbed (self-attention of some blocks replaced by its values) and
isolated (both cross-modal attentions off). A pass runs for both modalities if either one's guidance gives it weight.
Source: ltx_pipelines.utils.helpers.multi_modal_guider_denoising_func 1.0.0.
"""

from dataclasses import dataclass
from functools import partial
from typing import Final

from runners.ltx23.transformer import NO_SKIPS, Skips
from runners.request import Guider

PASSES: Final = ("cond", "uncond", "perturbed", "isolated")  # in the order they run


@dataclass(frozen=True, kw_only=True)
class GuidancePass:
    """One evaluation of the transformer in a step."""

    name: str
    negative_prompt: bool = False
    video_enabled: bool = True
    audio_enabled: bool = True
    skips: Skips = NO_SKIPS


def passes_of_step(
    step: int, video: Guider, audio: Guider, *, negative_disables_skipped_modality: bool
) -> tuple[GuidancePass, ...]:
    """The passes of a step, in the order they run; none where both modalities reuse their last prediction.

    Args:
        step: number of the step.
        video: guidance of video.
        audio: guidance of audio.
        negative_disables_skipped_modality: reference behaviour; the negative pass, too, leaves out a skipped modality.
    """
    both = (video, audio)
    video_on, audio_on = (not one.skips(step) for one in both)
    if not (video_on or audio_on):
        return ()
    evaluation = partial(GuidancePass, video_enabled=video_on, audio_enabled=audio_on)
    passes = [evaluation(name="cond")]
    if any(one.needs_uncond for one in both):
        negative = evaluation if negative_disables_skipped_modality else GuidancePass
        passes.append(negative(name="uncond", negative_prompt=True))
    if any(one.needs_perturbed for one in both):
        video_blocks, audio_blocks = (frozenset(one.stg_blocks if one.needs_perturbed else ()) for one in both)
        skips = Skips(video_self_attention=video_blocks, audio_self_attention=audio_blocks)
        passes.append(evaluation(name="perturbed", skips=skips))
    if any(one.needs_isolated for one in both):
        passes.append(evaluation(name="isolated", skips=Skips(a2v=True, v2a=True)))
    return tuple(passes)


def pass_names(video: Guider, audio: Guider) -> tuple[str, ...]:
    """Names of the passes that steps are made of, in every release; a step that both modalities skip has none."""
    passes = passes_of_step(0, video, audio, negative_disables_skipped_modality=False)
    return tuple(one.name for one in passes)
