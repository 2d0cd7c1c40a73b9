"""Defects of the passes, their combination and the Euler step.

Axes: B sample, T token, C channel.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from msgspec import structs
from torch import Tensor

from parity.defects.defect import AUDIO, BOTH, VIDEO, replaces
from parity.defects.variant import PICTURE, UNGUIDED_30_STEPS, V2A_OFF, V2A_ON, VIDEO_SKIPS
from runners.ltx23.passes import GuidancePass
from runners.ltx23.sampling import LTX23SamplingParams
from runners.ltx23.stages import denoising
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.denoising import DenoisingStage
from runners.ltx23.transformer import Skips
from runners.request import Guider

Original = Callable[..., Any]
GUIDED: Final = "denoise/000/guided/*"
DEFAULT_CFG_SCALE: Final = 3.0  # of the official command line


def _with_skips(one: GuidancePass, **changes: Any) -> GuidancePass:
    return replace(one, skips=replace(one.skips, **changes))


def _is_pass(name: str) -> Callable[..., bool]:
    return lambda stage, one, *_, **__: one.name == name


@replaces(
    Skips, "at", "denoise/000/perturbed/block/*/self_attn", when=lambda skips, block: bool(skips.video_self_attention)
)
def perturbed_block_off_by_one(original: Original, skips: Any, block: Any) -> Any:
    """The perturbed pass perturbs the block before the one it should."""
    return original(skips, block + 1)


@replaces(DenoisingStage, "_pass", "denoise/000/perturbed/block/*/self_attn", when=_is_pass("perturbed"))
def perturbed_pass_whole(original: Original, stage: Any, one: GuidancePass, *rest: Any, **options: bool) -> Any:
    """The perturbed pass perturbs nothing."""
    return original(
        stage, _with_skips(one, video_self_attention=frozenset(), audio_self_attention=frozenset()), *rest, **options
    )


@replaces(DenoisingStage, "_pass", "denoise/000/isolated/block/00/video/*", shows_in=VIDEO, when=_is_pass("isolated"))
def isolated_keeps_a2v(original: Original, stage: Any, one: GuidancePass, *rest: Any, **options: bool) -> Any:
    """The isolated pass lets video look at audio."""
    return original(stage, _with_skips(one, a2v=False), *rest, **options)


@replaces(
    DenoisingStage,
    "_pass",
    "denoise/000/uncond/block/00/audio/*",
    shows_in=AUDIO,
    variant=V2A_OFF,
    when=_is_pass("uncond"),
)
def v2a_left_on_in_uncond(original: Original, *call: Any, disable_v2a_cross_attn: bool) -> Any:
    """With V2A off, the unconditional pass still has it."""
    return original(*call, disable_v2a_cross_attn=False)


@replaces(
    DenoisingStage, "_pass", "denoise/000/perturbed/block/00/audio/*", variant=V2A_OFF, when=_is_pass("perturbed")
)
def v2a_left_on_in_perturbed(original: Original, *call: Any, disable_v2a_cross_attn: bool) -> Any:
    """With V2A off, the perturbed pass still has it."""
    return original(*call, disable_v2a_cross_attn=False)


@replaces(
    DenoisingStage, "_pass", "denoise/000/cond/block/00/audio/*", shows_in=AUDIO, variant=V2A_ON, when=_is_pass("cond")
)
def v2a_off(original: Original, stage: Any, one: GuidancePass, *rest: Any, **options: bool) -> Any:
    """V2A is off in the conditional pass although it should be on."""
    return original(stage, _with_skips(one, v2a=True), *rest, **options)


@replaces(DenoisingStage, "_pass", "denoise/000/perturbed/block/00/audio/*", variant=V2A_ON, when=_is_pass("perturbed"))
def v2a_off_in_perturbed(original: Original, stage: Any, one: GuidancePass, *rest: Any, **options: bool) -> Any:
    """V2A is off in the perturbed pass although it should be on."""
    return original(stage, _with_skips(one, v2a=True), *rest, **options)


@replaces(
    DenoisingStage,
    "evaluate_stage1_guided_x0",
    "denoise/000/uncond/block/00/*",
    isolated_at=("denoise/000/uncond/context/*",),
    shows_in=BOTH,
)
def uncond_sees_prompt(original: Original, stage: Any, batch: Batch, *rest: Any) -> Any:
    """The unconditional pass attends to the prompt instead of the negative prompt."""
    same = replace(batch, negative_video_context=batch.video_context, negative_audio_context=batch.audio_context)
    return original(stage, same, *rest)


@replaces(DenoisingStage, "evaluate_stage1_guided_x0", GUIDED, shows_in=BOTH)
def guiders_exchanged(original: Original, stage: Any, batch: Batch, *rest: Any) -> Any:
    """Video has the guidance of audio and audio that of video."""
    sampling = batch.sampling
    exchanged = replace(sampling, video_guidance=sampling.audio_guidance, audio_guidance=sampling.video_guidance)
    return original(stage, replace(batch, sampling=exchanged), *rest)


@replaces(
    LTX23SamplingParams,
    "__post_init__",
    GUIDED,
    component="guidance",
    shows_in=BOTH,
    variant=UNGUIDED_30_STEPS,
    alone=False,
    when=lambda sampling: not (sampling.video_guidance.needs_uncond and sampling.audio_guidance.needs_uncond),
)
def guidance_of_one_still_guided(original: Original, sampling: LTX23SamplingParams) -> None:
    """A scale of 1, which is no guidance, is taken as none given and the default of 3 guides."""
    for name in ("video_guidance", "audio_guidance"):
        guider: Guider = getattr(sampling, name)
        if not guider.needs_uncond:
            object.__setattr__(sampling, name, structs.replace(guider, cfg_scale=DEFAULT_CFG_SCALE))
    original(sampling)


@replaces(
    DenoisingStage,
    "step_at",
    "denoise/001/*",
    shows_in=VIDEO,
    variant=VIDEO_SKIPS,
    when=lambda stage, index, batch, *_: (
        batch.sampling.video_guidance.skips(index) or batch.sampling.audio_guidance.skips(index)
    ),
)
def skip_step_ignored(original: Original, stage: Any, _index: Any, *rest: Any) -> Any:
    """A modality is evaluated in the steps that it should skip."""
    return original(stage, 0, *rest)  # the first step skips nothing


@replaces(denoising, "combine", GUIDED, shows_in=BOTH)
def cfg_scale_one_too_large(original: Original, guider: Guider, *passes: Any, in_fp32: bool) -> Any:
    """The scale of classifier-free guidance is not reduced by one."""
    return original(structs.replace(guider, cfg_scale=guider.cfg_scale + 1), *passes, in_fp32=in_fp32)


@replaces(denoising, "combine", GUIDED, shows_in=BOTH)
def modality_scale_one_too_large(original: Original, guider: Guider, *passes: Any, in_fp32: bool) -> Any:
    """The scale of modality guidance is not reduced by one."""
    return original(structs.replace(guider, modality_scale=guider.modality_scale + 1), *passes, in_fp32=in_fp32)


@replaces(denoising, "combine", GUIDED, shows_in=BOTH)
def perturbed_guidance_reversed(original: Original, guider: Guider, *passes: Any, in_fp32: bool) -> Any:
    """The guidance of the perturbed pass has the wrong sign."""
    return original(structs.replace(guider, stg_scale=-guider.stg_scale), *passes, in_fp32=in_fp32)


@replaces(denoising, "combine", GUIDED, shows_in=BOTH)
def rescale_dropped(original: Original, guider: Guider, *passes: Any, in_fp32: bool) -> Any:
    """The guided prediction is not rescaled."""
    return original(structs.replace(guider, rescale_scale=0.0), *passes, in_fp32=in_fp32)


@replaces(denoising, "combine", GUIDED)
def rescale_per_token(original: Original, guider: Guider, cond: Tensor, *rest: Any, in_fp32: bool) -> Tensor:
    """The rescale takes each token's deviation instead of the whole prediction's."""
    guided: Tensor = original(structs.replace(guider, rescale_scale=0.0), cond, *rest, in_fp32=in_fp32)
    factor = cond.std(dim=-1, keepdim=True) / guided.std(dim=-1, keepdim=True)
    return guided * (guider.rescale_scale * factor + (1 - guider.rescale_scale))


@replaces(denoising, "pull_to_clean", "denoise/000/latent/video", shows_in=VIDEO, variant=PICTURE)
def picture_not_held(original: Original, x0: Any, mask: Any, clean: Any) -> Any:
    """Tokens of the picture are not pulled back to it after a step."""
    return x0
