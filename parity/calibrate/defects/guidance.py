"""Defects of the passes, their combination and the Euler step.

Axes: B sample, T token, C channel.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from msgspec import structs
from torch import Tensor

from parity.calibrate.defects.defect import BOTH, SUBTLE, VIDEO, Defect, Facet, wrapped
from parity.calibrate.defects.variant import PICTURE, UNGUIDED_30_STEPS, V2A_OFF, V2A_ON, VIDEO_SKIPS
from runners.ltx23.passes import GuidancePass
from runners.ltx23.sampling import LTX23SamplingParams
from runners.ltx23.stages import denoising
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.denoising import DenoisingStage
from runners.ltx23.transformer import Skips
from runners.request import Guider

Original = Callable[..., Any]
GUIDED: Final = ("denoise/000/guided/*",)
DEFAULT_CFG_SCALE: Final = 3.0  # of the official command line


def _in_pass(name: str, **changes: Any) -> dict[str, Any]:
    """Change the skips of one pass."""

    def around(original: Original, stage: Any, one: GuidancePass, *rest: Any, **options: bool) -> Any:
        return original(stage, replace(one, skips=replace(one.skips, **changes)), *rest, **options)

    return {"around": around, "when": _is_pass(name)}


def _flag_lost_in(name: str) -> dict[str, Any]:
    """Leave V2A in one pass as it is without the request's flag."""

    def around(original: Original, *call: Any, disable_v2a_cross_attn: bool) -> Any:
        return original(*call, disable_v2a_cross_attn=False)

    return {"around": around, "when": _is_pass(name)}


def _is_pass(name: str) -> Callable[..., bool]:
    return lambda stage, one, *_, **__: one.name == name


def _guider(change: Callable[[Guider], Guider]) -> Callable[..., Any]:
    return lambda original, guider, *passes, in_fp32: original(change(guider), *passes, in_fp32=in_fp32)


def _rescaled_per_token(original: Original, guider: Guider, cond: Tensor, *rest: Any, in_fp32: bool) -> Tensor:
    guided: Tensor = original(structs.replace(guider, rescale_scale=0.0), cond, *rest, in_fp32=in_fp32)
    factor = cond.std(dim=-1, keepdim=True) / guided.std(dim=-1, keepdim=True)
    return guided * (guider.rescale_scale * factor + (1 - guider.rescale_scale))


def _default_for_one(original: Original, sampling: LTX23SamplingParams) -> None:
    for name in ("video_guidance", "audio_guidance"):
        guider: Guider = getattr(sampling, name)
        if not guider.needs_uncond:
            object.__setattr__(sampling, name, structs.replace(guider, cfg_scale=DEFAULT_CFG_SCALE))
    original(sampling)


def _guiders_exchanged(original: Original, stage: Any, batch: Batch, *rest: Any) -> Any:
    sampling = batch.sampling
    exchanged = replace(sampling, video_guidance=sampling.audio_guidance, audio_guidance=sampling.video_guidance)
    return original(stage, replace(batch, sampling=exchanged), *rest)


def _negative_is_positive(original: Original, stage: Any, batch: Batch, *rest: Any) -> Any:
    same = replace(batch, negative_video_context=batch.video_context, negative_audio_context=batch.audio_context)
    return original(stage, same, *rest)


def _combined(name: str, description: str, around: Callable[..., Any], shows_in: frozenset[Facet] = BOTH) -> Defect:
    return Defect(
        id=name,
        component="guidance",
        description=description,
        first_taps=GUIDED,
        apply=wrapped(denoising, "combine", around),
        shows_in=shows_in,
    )


GUIDANCE_DEFECTS: Final = (
    Defect(
        id="perturbed_block_off_by_one",
        component="transformer",
        description="the perturbed pass perturbs the block before the one it should",
        first_taps=("denoise/000/perturbed/block/*/self_attn",),
        apply=wrapped(
            Skips,
            "at",
            lambda original, skips, block: original(skips, block + 1),
            when=lambda skips, block: bool(skips.video_self_attention),
        ),
        shows_in=SUBTLE,
    ),
    Defect(
        id="perturbed_pass_whole",
        component="stages.denoising",
        description="the perturbed pass perturbs nothing",
        first_taps=("denoise/000/perturbed/block/*/self_attn",),
        apply=wrapped(
            DenoisingStage,
            "_pass",
            **_in_pass("perturbed", video_self_attention=frozenset(), audio_self_attention=frozenset()),
        ),
        shows_in=SUBTLE,
    ),
    Defect(
        id="isolated_keeps_a2v",
        component="stages.denoising",
        description="the isolated pass lets video look at audio",
        first_taps=("denoise/000/isolated/block/00/video/*",),
        apply=wrapped(DenoisingStage, "_pass", **_in_pass("isolated", a2v=False)),
        shows_in=VIDEO,
    ),
    Defect(
        id="v2a_left_on_in_uncond",
        component="stages.denoising",
        description="with V2A off, the unconditional pass still has it",
        first_taps=("denoise/000/uncond/block/00/audio/*",),
        apply=wrapped(DenoisingStage, "_pass", **_flag_lost_in("uncond")),
        shows_in=frozenset({"audio_latent", "audio"}),
        variant=V2A_OFF,
    ),
    Defect(
        id="v2a_left_on_in_perturbed",
        component="stages.denoising",
        description="with V2A off, the perturbed pass still has it",
        first_taps=("denoise/000/perturbed/block/00/audio/*",),
        apply=wrapped(DenoisingStage, "_pass", **_flag_lost_in("perturbed")),
        shows_in=SUBTLE,
        variant=V2A_OFF,
    ),
    Defect(
        id="v2a_off",
        component="stages.denoising",
        description="V2A is off in the conditional pass although it should be on",
        first_taps=("denoise/000/cond/block/00/audio/*",),
        apply=wrapped(DenoisingStage, "_pass", **_in_pass("cond", v2a=True)),
        shows_in=frozenset({"audio_latent", "audio"}),
        variant=V2A_ON,
    ),
    Defect(
        id="v2a_off_in_perturbed",
        component="stages.denoising",
        description="V2A is off in the perturbed pass although it should be on",
        first_taps=("denoise/000/perturbed/block/00/audio/*",),
        apply=wrapped(DenoisingStage, "_pass", **_in_pass("perturbed", v2a=True)),
        shows_in=SUBTLE,
        variant=V2A_ON,
    ),
    Defect(
        id="uncond_sees_prompt",
        component="stages.denoising",
        description="the unconditional pass attends to the prompt instead of the negative prompt",
        first_taps=("denoise/000/uncond/block/00/*",),
        isolated_at=("denoise/000/uncond/context/*",),
        apply=wrapped(DenoisingStage, "evaluate_stage1_guided_x0", _negative_is_positive),
        shows_in=BOTH,
    ),
    Defect(
        id="guiders_exchanged",
        component="stages.denoising",
        description="video has the guidance of audio and audio that of video",
        first_taps=GUIDED,
        apply=wrapped(DenoisingStage, "evaluate_stage1_guided_x0", _guiders_exchanged),
        shows_in=BOTH,
    ),
    Defect(
        id="guidance_of_one_still_guided",
        component="guidance",
        description="a scale of 1, which is no guidance, is taken as none given and the default of 3 guides",
        first_taps=GUIDED,
        apply=wrapped(
            LTX23SamplingParams,
            "__post_init__",
            _default_for_one,
            when=lambda sampling: not (sampling.video_guidance.needs_uncond and sampling.audio_guidance.needs_uncond),
        ),
        shows_in=BOTH,
        variant=UNGUIDED_30_STEPS,
        alone=False,
    ),
    Defect(
        id="skip_step_ignored",
        component="stages.denoising",
        description="a modality is evaluated in the steps that it should skip",
        first_taps=("denoise/001/*",),
        apply=wrapped(
            DenoisingStage,
            "step_at",
            lambda original, stage, _index, *rest: original(stage, 0, *rest),  # the first step skips nothing
            when=lambda stage, index, batch, *_: (
                batch.sampling.video_guidance.skips(index) or batch.sampling.audio_guidance.skips(index)
            ),
        ),
        shows_in=VIDEO,
        variant=VIDEO_SKIPS,
    ),
    _combined(
        "cfg_scale_one_too_large",
        "the scale of classifier-free guidance is not reduced by one",
        _guider(lambda guider: structs.replace(guider, cfg_scale=guider.cfg_scale + 1)),
    ),
    _combined(
        "modality_scale_one_too_large",
        "the scale of modality guidance is not reduced by one",
        _guider(lambda guider: structs.replace(guider, modality_scale=guider.modality_scale + 1)),
    ),
    _combined(
        "perturbed_guidance_reversed",
        "the guidance of the perturbed pass has the wrong sign",
        _guider(lambda guider: structs.replace(guider, stg_scale=-guider.stg_scale)),
    ),
    _combined(
        "rescale_dropped",
        "the guided prediction is not rescaled",
        _guider(lambda guider: structs.replace(guider, rescale_scale=0.0)),
    ),
    _combined(
        "rescale_per_token",
        "the rescale takes each token's deviation instead of the whole prediction's",
        _rescaled_per_token,
        shows_in=SUBTLE,
    ),
    Defect(
        id="picture_not_held",
        component="euler",
        description="tokens of the picture are not pulled back to it after a step",
        first_taps=("denoise/000/latent/video",),
        apply=wrapped(denoising, "pull_to_clean", lambda original, x0, mask, clean: x0),
        shows_in=VIDEO,
        variant=PICTURE,
    ),
)
