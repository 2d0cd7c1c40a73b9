"""Defects of pipelines with two stages: the upsampler between them, what the second begins with, what each runs with.

Axes: B sample, T token, C channel, F latent frame, H and W cell.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final
from unittest.mock import patch

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from parity.defects.defect import AUDIO, BOTH, VIDEO, Defect, replaces, together, wrapped
from parity.defects.variant import DISTILLED, KEYFRAMES, TWO_STAGE, TWO_STAGE_HQ
from runners.ltx23 import sampling, upsampler
from runners.ltx23.guidance import combine
from runners.ltx23.latents import VIDEO_SCALE, LatentState
from runners.ltx23.passes import GuidancePass
from runners.ltx23.pipeline import LTX23Pipeline
from runners.ltx23.scheduler import sigma_schedule
from runners.ltx23.stages import image_conditioning, latent_preparation, upsampling, video_decoding
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.denoising import DenoisingStage, Pair, Step
from runners.ltx23.stages.image_conditioning import ImageConditioningStage
from runners.ltx23.stages.latent_preparation import LatentPreparationStage
from runners.ltx23.stages.upsampling import UpsamplingStage
from runners.ltx23.transformer import Skips
from runners.ltx23.video_tiling import Tiling
from runners.model_files import LoraSource
from runners.request import Guider
from runners.stages import StagePlan
from runners.tap import listening

Original = Callable[..., Any]
ENLARGED: Final = "upsample/latent"
SECOND_START: Final = "stage2/init/*"
SECOND_BLOCK: Final = "stage2/denoise/000/cond/block/00/*"
ROUNDED_TO_PX: Final = 64  # what the sides of a whole request are multiples of where there are two stages
SMALL_TILES: Final = Tiling(tile_px=128, overlap_px=32)  # pixels of the result, which holds more than one


def _in_second(_stage: Any, batch: Batch, *_: Any) -> bool:
    return batch.stage == 1


def _first_rounded(original: Original, *request: Any) -> tuple[StagePlan, ...]:
    first, *others = original(*request)
    sides = {name: getattr(first, name) // ROUNDED_TO_PX * ROUNDED_TO_PX for name in ("height", "width")}
    return replace(first, **sides), *others


def _stretched_to_second(original: Original, stage: UpsamplingStage, batch: Batch) -> Batch:
    filled: Batch = original(stage, batch)
    latent, plan = filled.initial_video, batch.sampling.plans[1]
    assert latent is not None
    size = (latent.shape[2], plan.height // VIDEO_SCALE[1], plan.width // VIDEO_SCALE[2])
    filled.initial_video = F.interpolate(latent, size, mode="nearest")
    return filled


half_size_rounded = Defect(
    id="half_size_rounded",
    component="sampling",
    description="half the height and width are rounded down to multiples of 64 pixels, and what comes of it stretched",
    first_taps=("image/*",),
    apply=together(
        wrapped(sampling, "plan_stages", _first_rounded),
        wrapped(UpsamplingStage, "forward", _stretched_to_second),
    ),
    shows_in=VIDEO,
    variant=DISTILLED,
    alone=False,
)


@replaces(upsampling, "upsample", ENLARGED, shows_in=VIDEO, variant=DISTILLED)
def upsampler_fed_normalized_latents(_: Original, latent: Tensor, network: Any, statistics: Any) -> Tensor:
    """The upsampler gets the model's normalized latent, and what it returns is normalized."""
    enlarged: Tensor = statistics.normalize(network(latent))
    return enlarged


@replaces(upsampling, "upsample", ENLARGED, shows_in=VIDEO, variant=TWO_STAGE)
def upsampled_latent_not_normalized(_: Original, latent: Tensor, network: Any, statistics: Any) -> Tensor:
    """The latent that the upsampler returns is not normalized again."""
    enlarged: Tensor = network(statistics.denormalize(latent))
    return enlarged


@replaces(upsampler, "shuffled", ENLARGED, shows_in=VIDEO, variant=KEYFRAMES)
def upsampler_shuffles_columns_first(_: Original, x: Tensor) -> Tensor:
    """The pixel shuffle reads the four values of a channel column by column."""
    return rearrange(x, "b (c columns rows) h w -> b c (h rows) (w columns)", rows=2, columns=2)


@replaces(upsampler.UpsamplerBlock, "forward", ENLARGED, shows_in=VIDEO, variant=DISTILLED)
def upsampler_activates_before_the_sum(_: Original, block: Any, x: Tensor) -> Tensor:
    """A residual block of the upsampler activates its branch instead of the sum."""
    inner = F.silu(block.norm1(block.conv1(x)))
    return F.silu(block.norm2(block.conv2(inner))) + x


def _loaded_otherwise(change: Callable[..., Tensor]) -> Callable[..., Batch]:
    """A stage that loads its pictures by `change`, which gets the right loader and its arguments."""

    def encoded(original: Original, stage: Any, batch: Batch) -> Batch:
        loader = vars(image_conditioning)["load_picture"]
        with patch.object(image_conditioning, "load_picture", partial(change, loader)):
            filled: Batch = original(stage, batch)
        return filled

    return encoded


@replaces(ImageConditioningStage, "forward", "stage2/image/*", shows_in=VIDEO, variant=DISTILLED, when=_in_second)
def second_picture_of_first_size(original: Original, stage: Any, batch: Batch) -> Batch:
    """The second stage's picture is the first one's, stretched to twice the size."""

    def stretched(load: Original, path: Any, crf: int, height: int, width: int, *rest: Any) -> Tensor:
        small = load(path, crf, height // 2, width // 2, *rest)
        return F.interpolate(small, (1, height, width), mode="trilinear")

    return _loaded_otherwise(stretched)(original, stage, batch)


@replaces(ImageConditioningStage, "forward", "stage2/image/*", shows_in=VIDEO, variant=TWO_STAGE, when=_in_second)
def second_picture_not_compressed(original: Original, stage: Any, batch: Batch) -> Batch:
    """The second stage's picture does not go through H.264."""

    def plain(load: Original, path: Any, _crf: int, *rest: Any) -> Any:
        return load(path, 0, *rest)

    return _loaded_otherwise(plain)(original, stage, batch)


@replaces(ImageConditioningStage, "forward", "stage2/image/*", shows_in=VIDEO, variant=KEYFRAMES, when=_in_second)
def pictures_change_places_in_second(original: Original, stage: Any, batch: Batch) -> Batch:
    """The second stage takes the pictures in another order than the frames they belong to."""
    exchanged = replace(batch, sampling=replace(batch.sampling, images=batch.sampling.images[::-1]))
    batch.image_latents = original(stage, exchanged).image_latents
    return batch


@replaces(
    LatentPreparationStage, "conditioned_video", "stage2/init/video", shows_in=VIDEO, variant=KEYFRAMES, when=_in_second
)
def pictures_in_first_stage_alone(original: Original, stage: LatentPreparationStage, batch: Batch) -> LatentState:
    """The second stage is not conditioned on the pictures."""
    none = replace(batch, sampling=replace(batch.sampling, images=()), image_latents=[])
    state: LatentState = original(stage, none)
    return state


@replaces(LatentPreparationStage, "forward", SECOND_START, shows_in=BOTH, variant=DISTILLED, when=_in_second)
def second_noise_of_a_new_generator(original: Original, stage: LatentPreparationStage, batch: Batch) -> Batch:
    """The second stage seeds its generator again instead of drawing on from the first one's."""
    batch.generator = None
    prepared: Batch = original(stage, batch)
    return prepared


@replaces(LatentPreparationStage, "noise_scale", SECOND_START, shows_in=BOTH, variant=TWO_STAGE, when=_in_second)
def second_stage_begins_with_noise_alone(_original: Original, _stage: Any, _batch: Batch) -> float:
    """The share of noise in the second stage is 1 whatever its first noise level, so that the first stage is lost."""
    return 1.0


@replaces(
    latent_preparation,
    "with_noise",
    SECOND_START,
    shows_in=BOTH,
    variant=DISTILLED,
    when=lambda _state, _generator, _lerp, scale: scale < 1,
)
def second_noise_laid_on_top(
    _: Original, state: LatentState, generator: torch.Generator, _lerp_fp32: bool, scale: float
) -> LatentState:
    """Noise of the second stage is added to the latent, which is not scaled down for it."""
    latent = state.latent
    noise = torch.randn(latent.shape, generator=generator, dtype=latent.dtype, device=latent.device)
    noisy = latent + noise * state.denoise_mask * scale
    return replace(state, latent=noisy.to(latent.dtype))


@replaces(
    LatentPreparationStage, "initial_audio", "stage2/init/audio", shows_in=AUDIO, variant=DISTILLED, when=_in_second
)
def second_sound_begins_anew(original: Original, stage: LatentPreparationStage, batch: Batch) -> LatentState:
    """The second stage's sound does not go on from the first one's."""
    state: LatentState = original(stage, replace(batch, initial_audio=None))
    return state


@replaces(
    LatentPreparationStage,
    "forward",
    SECOND_BLOCK,
    isolated_at=("stage2/sigmas",),
    shows_in=BOTH,
    variant=TWO_STAGE,
    when=_in_second,
)
def sigmas_of_one_stage_in_second(original: Original, stage: LatentPreparationStage, batch: Batch) -> Batch:
    """The second stage's steps go along the schedule of a single stage with as many."""
    prepared: Batch = original(stage, batch)
    prepared.sigmas = sigma_schedule(prepared.plan.steps)
    return prepared


@replaces(
    LatentPreparationStage,
    "forward",
    "denoise/000/cond/block/00/*",
    "denoise/000/latent/*",
    isolated_at=("sigmas",),
    shows_in=BOTH,
    variant=DISTILLED,
    when=lambda _stage, batch: batch.stage == 0,
)
def sigmas_of_one_stage_in_first(original: Original, stage: LatentPreparationStage, batch: Batch) -> Batch:
    """The distilled model's steps go along the schedule of the other model with as many."""
    prepared: Batch = original(stage, batch)
    prepared.sigmas = sigma_schedule(prepared.plan.steps)
    return prepared


@replaces(
    DenoisingStage,
    "evaluate_stage1_guided_x0",
    "denoise/000/guided/*",
    isolated_at=("denoise/000/isolated", "denoise/000/guided/*"),  # a pass that the pipeline does not have
    shows_in=BOTH,
    variant=DISTILLED,
    when=lambda _stage, batch, *_: batch.stage == 0,
)
def distilled_model_guided(
    original: Original, stage: DenoisingStage, batch: Batch, step: Step, last: Pair | None
) -> Any:
    """The distilled model is guided as the other is, away from what the streams predict without each other."""
    cond = original(stage, batch, step, last)
    isolated = GuidancePass(name="isolated", skips=Skips(a2v=True, v2a=True))
    with listening(lambda *_: None):
        found = stage.predict(batch, replace(step, passes=(isolated,)), disable_v2a_cross_attn=False)["isolated"]
    guider = Guider(modality_scale=3.0)
    return tuple(combine(guider, x, None, None, alone, in_fp32=False) for x, alone in zip(cond, found, strict=True))


def _with_loras(change: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[..., None]:
    def made(
        original: Original, pipeline: Any, files: Any, config: Any, device: Any, *loras: Any, **options: Any
    ) -> None:
        original(pipeline, files, config, device, *change(*loras), **options)

    return made


@replaces(LTX23Pipeline, "__init__", "denoise/000/cond/block/00/*", shows_in=BOTH, variant=TWO_STAGE, alone=False)
def distilled_lora_in_first_stage(original: Original, pipeline: Any, *given: Any, **options: Any) -> None:
    """The distilled LoRA is fused for the first stage, too."""
    _with_loras(lambda _first, second: (second, second))(original, pipeline, *given, **options)


@replaces(LTX23Pipeline, "__init__", SECOND_BLOCK, shows_in=BOTH, variant=TWO_STAGE, alone=False)
def distilled_lora_at_half_strength(original: Original, pipeline: Any, *given: Any, **options: Any) -> None:
    """The distilled LoRA is fused at half its strength."""

    def halved(first: Any, second: tuple[LoraSource, ...]) -> Any:
        return first, (*second[:-1], replace(second[-1], strength=second[-1].strength / 2))

    _with_loras(halved)(original, pipeline, *given, **options)


@replaces(LTX23Pipeline, "_in_two_stages", "decode/mel", shows_in=AUDIO, variant=TWO_STAGE, alone=False)
def sound_of_the_other_stage(original: Original, pipeline: Any, batch: Batch, *rest: Any) -> None:
    """The sound that is decoded is the first stage's where the release decodes the second one's, or the other way."""
    reference = pipeline.config.reference
    moved = replace(reference, sound_of_first_stage=not reference.sound_of_first_stage)
    with patch.object(pipeline, "config", replace(pipeline.config, reference=moved)):
        original(pipeline, batch, *rest)


@replaces(
    video_decoding,
    "decode_frames",
    "decode/frames",
    component="stages.video_decoding",
    shows_in=frozenset({"frames"}),
    variant=TWO_STAGE_HQ,
)
def decoded_in_tiles(original: Original, decoder: Any, latent: Tensor, _tiling: Any, *rest: Any) -> Any:
    """Frames are decoded in blended tiles where the pipeline decodes them whole."""
    return original(decoder, latent, SMALL_TILES, *rest)


@replaces(latent_preparation, "condition_on_image", "init/video", shows_in=VIDEO, variant=KEYFRAMES)
def first_keyframe_put_in(original: Original, *given: Any) -> Any:
    """A keyframe at frame 0 takes the place of the first latent frame instead of standing beside it."""
    *others, _always_append, only_clean = given
    return original(*others, False, only_clean)


@replaces(
    latent_preparation,
    "condition_on_image",
    "denoise/000/cond/block/00/*",
    isolated_at=("init/video/positions",),
    variant=KEYFRAMES,
    when=lambda _state, _latent, frame_idx, *_: frame_idx == 0,
)
def first_keyframe_lasts_eight_frames(
    original: Original,
    state: LatentState,
    latent: Tensor,
    frame: int,
    strength: float,
    shape: Any,
    rate: float,
    *rest: Any,
) -> LatentState:
    """A keyframe at frame 0 lasts as long as one elsewhere, not the one frame of the clip's own first latent frame."""
    found: LatentState = original(state, latent, frame, strength, shape, rate, *rest)
    positions = found.positions.clone()
    positions[:, 0, state.latent.shape[1] :, 1] = VIDEO_SCALE[0] / rate
    return replace(found, positions=positions)
