"""Defects of pictures: how a file is read, scaled and encoded, and where and how firmly it is put into the latent.

Axes: B sample, C channel, F latent frame, H row, W column, T token.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch import Tensor
from torch.nn import functional as F

from parity.defects.defect import VIDEO, Defect, Reach, edits, replaces, wrapped
from parity.defects.variant import (
    KEYFRAME_PICTURE,
    PICTURE,
    SOFT_PICTURE,
    TWO_PICTURES,
    TWO_PICTURES_AS_DISPLAYED,
)
from runners.ltx23 import image
from runners.ltx23.latents import VIDEO_SCALE
from runners.ltx23.stages import latent_preparation
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.latent_preparation import LatentPreparationStage
from runners.ltx23.video_encoder import VideoEncoder

Original = Callable[..., Any]
PICTURE_READ: Final = ("image/0/picture",)
VIDEO_START: Final = ("init/video*",)
FIRST_BLOCK: Final = "denoise/000/cond/block/00/*"
QUARTER_TURNS: Final = {3: 2, 6: 3, 8: 1}  # of EXIF orientations, counter-clockwise


def _antialiased(reach: Reach) -> AbstractContextManager[Any]:
    def interpolate(picture: Tensor, size: tuple[int, int], *, mode: str, align_corners: bool) -> Tensor:
        reach.hit()
        return F.interpolate(picture, size, mode=mode, align_corners=align_corners, antialias=True)

    return patch.object(image, "functional", SimpleNamespace(interpolate=interpolate))


def _quarter_turns(picture: Image.Image) -> int:
    return QUARTER_TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1), 0)


def _is_turned(path: Path, as_displayed: bool = False) -> bool:
    with Image.open(path) as picture:
        return not as_displayed and _quarter_turns(picture) > 0


def _has_alpha(path: Path, *_: Any) -> bool:
    with Image.open(path) as picture:
        return "A" in picture.getbands()


def _held_firmly(original: Original, state: Any, latent: Tensor, frame: int, _: float, *rest: Any) -> Any:
    return original(state, latent, frame, 1.0, *rest)


@replaces(image, "compression_round_trip", "image/0/latent", isolated_at=PICTURE_READ, variant=PICTURE)
def picture_not_compressed(original: Original, pixels: Any, crf: Any) -> Any:
    """The H.264 round trip (CRF) of the picture is skipped."""
    return pixels


@replaces(image, "fill_and_crop", "image/0/latent", isolated_at=PICTURE_READ, shows_in=VIDEO, variant=PICTURE)
def picture_stretched(_: Original, picture: Tensor, height: int, width: int) -> Tensor:
    """The picture is stretched to the clip instead of scaled and cropped."""
    resized = F.interpolate(rearrange(picture, "h w c -> 1 c h w"), (height, width), mode="bilinear")
    return rearrange(resized, "f c h w -> 1 c f h w")


@replaces(image, "read_picture", "image/0/latent", isolated_at=PICTURE_READ, shows_in=VIDEO, variant=PICTURE)
def picture_bgr(original: Original, *args: Any) -> Any:
    """Red and blue of the picture are exchanged."""
    return np.ascontiguousarray(original(*args)[..., ::-1])


@edits(VideoEncoder, "image/0/latent", variant=PICTURE)
def picture_statistics_of_one_channel(encoder: VideoEncoder) -> None:
    """The mean of one latent channel is off by one in the encoder's normalization."""
    encoder.per_channel_statistics.get_buffer("mean-of-means")[7] += 1.0


@replaces(
    latent_preparation,
    "condition_on_image",
    "init/video",
    component="stages.latent_preparation",
    isolated_at=VIDEO_START,
    shows_in=VIDEO,
    variant=PICTURE,
)
def picture_dropped(original: Original, state: Any, *_: Any) -> Any:
    """The picture never gets into the latent."""
    return state


picture_strength_ignored = Defect(
    id="picture_strength_ignored",
    component="conditioning",
    description="a picture of strength 0.6 is held as if its strength were 1",
    first_taps=("init/video",),
    isolated_at=VIDEO_START,
    apply=wrapped(
        latent_preparation,
        "condition_on_image",
        _held_firmly,
        when=lambda state, latent, frame, strength, *_: frame == 0 and strength != 1.0,
    ),
    shows_in=VIDEO,
    variant=SOFT_PICTURE,
)


@replaces(
    latent_preparation,
    "condition_on_image",
    FIRST_BLOCK,
    isolated_at=("init/video/positions",),
    variant=KEYFRAME_PICTURE,
    when=lambda state, latent, frame, *_: frame != 0,
)
def keyframe_index_in_latents(original: Original, state: Any, latent: Any, frame: Any, *rest: Any) -> Any:
    """A keyframe's time is its latent frame's number instead of its pixel frame's."""
    return original(state, latent, frame // VIDEO_SCALE[0], *rest)


@replaces(
    image,
    "read_picture",
    "image/0/latent",
    isolated_at=PICTURE_READ,
    shows_in=VIDEO,
    variant=TWO_PICTURES,
    when=_is_turned,
)
def exif_applied(original: Original, path: Path, *rest: Any) -> NDArray[np.uint8]:
    """The picture is turned as its EXIF orientation says, which release 1.0.0 does not."""
    with Image.open(path) as picture:
        turns = _quarter_turns(picture)
    return np.ascontiguousarray(np.rot90(original(path, *rest), turns))


@replaces(
    image,
    "_displayed",
    "image/0/latent",
    shows_in=VIDEO,
    variant=TWO_PICTURES_AS_DISPLAYED,
    when=lambda picture: _quarter_turns(picture) > 0,
)
def exif_ignored(original: Original, picture: Image.Image) -> Any:
    """The picture is not turned as its EXIF orientation says, which release 1.2.0 does."""
    del picture.getexif()[ExifTags.Base.Orientation]
    return original(picture)


@replaces(
    image,
    "read_picture",
    "image/0/latent",
    isolated_at=PICTURE_READ,
    shows_in=VIDEO,
    variant=TWO_PICTURES,
    when=_has_alpha,
)
def alpha_composited_on_white(_: Original, path: Path, *__: Any) -> NDArray[np.uint8]:
    """A transparent picture is laid on white instead of losing its alpha channel."""
    with Image.open(path) as picture:
        white = Image.new("RGBA", picture.size, "white")
        return np.array(Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB"))


resize_antialiased = Defect(
    id="resize_antialiased",
    component="image",
    description="the picture is low-passed before it is scaled down",
    first_taps=("image/0/latent",),
    isolated_at=PICTURE_READ,
    apply=_antialiased,
    variant=PICTURE,
)


@replaces(
    LatentPreparationStage,
    "conditioned_video",
    "init/video",
    isolated_at=VIDEO_START,
    shows_in=VIDEO,
    variant=TWO_PICTURES,
    when=lambda stage, batch: len(batch.sampling.images) > 1,
)
def second_picture_ignored(original: Original, stage: LatentPreparationStage, batch: Batch) -> Any:
    """Only the first of two pictures gets into the latent."""
    sampling = replace(batch.sampling, images=batch.sampling.images[:1])
    return original(stage, replace(batch, sampling=sampling, image_latents=batch.image_latents[:1]))


keyframe_strength_ignored = Defect(
    id="keyframe_strength_ignored",
    component="conditioning",
    description="a keyframe of strength 0.85 is held as if its strength were 1",
    first_taps=("init/video",),
    isolated_at=VIDEO_START,
    apply=wrapped(
        latent_preparation,
        "condition_on_image",
        _held_firmly,
        when=lambda state, latent, frame, strength, *_: frame != 0 and strength != 1.0,
    ),
    variant=TWO_PICTURES,
)
