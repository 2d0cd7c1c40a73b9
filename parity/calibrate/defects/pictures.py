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

from parity.calibrate.defects.defect import SUBTLE, VIDEO, Defect, Reach, edited, wrapped
from parity.calibrate.defects.variant import (
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
FIRST_BLOCK: Final = "denoise/000/cond/block/00/*"
QUARTER_TURNS: Final = {3: 2, 6: 3, 8: 1}  # of EXIF orientations, counter-clockwise


def _stretched(_: Original, picture: Tensor, height: int, width: int) -> Tensor:
    resized = F.interpolate(rearrange(picture, "h w c -> 1 c h w"), (height, width), mode="bilinear")
    return rearrange(resized, "f c h w -> 1 c f h w")


def _antialiased(reach: Reach) -> AbstractContextManager[Any]:
    def interpolate(picture: Tensor, size: tuple[int, int], *, mode: str, align_corners: bool) -> Tensor:
        reach.hit()
        return F.interpolate(picture, size, mode=mode, align_corners=align_corners, antialias=True)

    return patch.object(image, "functional", SimpleNamespace(interpolate=interpolate))


def _quarter_turns(picture: Image.Image) -> int:
    return QUARTER_TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1), 0)


def _turned(original: Original, path: Path, *rest: Any) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        turns = _quarter_turns(picture)
    return np.ascontiguousarray(np.rot90(original(path, *rest), turns))


def _is_turned(path: Path, as_displayed: bool = False) -> bool:
    with Image.open(path) as picture:
        return not as_displayed and _quarter_turns(picture) > 0


def _not_turned(original: Original, picture: Image.Image) -> Any:
    del picture.getexif()[ExifTags.Base.Orientation]
    return original(picture)


def _on_white(_: Original, path: Path, *__: Any) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        white = Image.new("RGBA", picture.size, "white")
        return np.array(Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB"))


def _has_alpha(path: Path, *_: Any) -> bool:
    with Image.open(path) as picture:
        return "A" in picture.getbands()


def _shift_statistics(encoder: VideoEncoder) -> None:
    encoder.per_channel_statistics.get_buffer("mean-of-means")[7] += 1.0


def _first_picture_only(original: Original, stage: LatentPreparationStage, batch: Batch) -> Any:
    sampling = replace(batch.sampling, images=batch.sampling.images[:1])
    return original(stage, replace(batch, sampling=sampling, image_latents=batch.image_latents[:1]))


def _held_firmly(original: Original, state: Any, latent: Tensor, frame: int, _: float, *rest: Any) -> Any:
    return original(state, latent, frame, 1.0, *rest)


PICTURE_DEFECTS: Final = (
    Defect(
        id="picture_not_compressed",
        component="image",
        description="the H.264 round trip (CRF) of the picture is skipped",
        first_taps=("image/0/latent",),
        isolated_at=("image/0/picture",),
        apply=wrapped(image, "compression_round_trip", lambda original, pixels, crf: pixels),
        shows_in=SUBTLE,
        variant=PICTURE,
    ),
    Defect(
        id="picture_stretched",
        component="image",
        description="the picture is stretched to the clip instead of scaled and cropped",
        first_taps=("image/0/latent",),
        isolated_at=("image/0/picture",),
        apply=wrapped(image, "fill_and_crop", _stretched),
        shows_in=VIDEO,
        variant=PICTURE,
    ),
    Defect(
        id="picture_bgr",
        component="image",
        description="red and blue of the picture are exchanged",
        first_taps=("image/0/latent",),
        isolated_at=("image/0/picture",),
        apply=wrapped(image, "read_picture", lambda original, *args: np.ascontiguousarray(original(*args)[..., ::-1])),
        shows_in=VIDEO,
        variant=PICTURE,
    ),
    Defect(
        id="picture_statistics_of_one_channel",
        component="video_encoder",
        description="the mean of one latent channel is off by one in the encoder's normalization",
        first_taps=("image/0/latent",),
        apply=edited(VideoEncoder, _shift_statistics),
        shows_in=SUBTLE,
        variant=PICTURE,
    ),
    Defect(
        id="picture_dropped",
        component="stages.latent_preparation",
        description="the picture never gets into the latent",
        first_taps=("init/video",),
        isolated_at=("init/video*",),
        apply=wrapped(latent_preparation, "condition_on_image", lambda original, state, *_: state),
        shows_in=VIDEO,
        variant=PICTURE,
    ),
    Defect(
        id="picture_strength_ignored",
        component="conditioning",
        description="a picture of strength 0.6 is held as if its strength were 1",
        first_taps=("init/video",),
        isolated_at=("init/video*",),
        apply=wrapped(
            latent_preparation,
            "condition_on_image",
            _held_firmly,
            when=lambda state, latent, frame, strength, *_: frame == 0 and strength != 1.0,
        ),
        shows_in=VIDEO,
        variant=SOFT_PICTURE,
    ),
    Defect(
        id="keyframe_index_in_latents",
        component="conditioning",
        description="a keyframe's time is its latent frame's number instead of its pixel frame's",
        first_taps=(FIRST_BLOCK,),
        isolated_at=("init/video/positions",),
        apply=wrapped(
            latent_preparation,
            "condition_on_image",
            lambda original, state, latent, frame, *rest: original(state, latent, frame // VIDEO_SCALE[0], *rest),
            when=lambda state, latent, frame, *_: frame != 0,
        ),
        shows_in=SUBTLE,
        variant=KEYFRAME_PICTURE,
    ),
    Defect(
        id="exif_applied",
        component="image",
        description="the picture is turned as its EXIF orientation says, which release 1.0.0 does not",
        first_taps=("image/0/latent",),
        isolated_at=("image/0/picture",),
        apply=wrapped(image, "read_picture", _turned, when=_is_turned),
        shows_in=VIDEO,
        variant=TWO_PICTURES,
    ),
    Defect(
        id="exif_ignored",
        component="image",
        description="the picture is not turned as its EXIF orientation says, which release 1.2.0 does",
        first_taps=("image/0/latent",),
        apply=wrapped(image, "_displayed", _not_turned, when=lambda picture: _quarter_turns(picture) > 0),
        shows_in=VIDEO,
        variant=TWO_PICTURES_AS_DISPLAYED,
    ),
    Defect(
        id="alpha_composited_on_white",
        component="image",
        description="a transparent picture is laid on white instead of losing its alpha channel",
        first_taps=("image/0/latent",),
        isolated_at=("image/0/picture",),
        apply=wrapped(image, "read_picture", _on_white, when=_has_alpha),
        shows_in=VIDEO,
        variant=TWO_PICTURES,
    ),
    Defect(
        id="resize_antialiased",
        component="image",
        description="the picture is low-passed before it is scaled down",
        first_taps=("image/0/latent",),
        isolated_at=("image/0/picture",),
        apply=_antialiased,
        shows_in=SUBTLE,
        variant=PICTURE,
    ),
    Defect(
        id="second_picture_ignored",
        component="stages.latent_preparation",
        description="only the first of two pictures gets into the latent",
        first_taps=("init/video",),
        isolated_at=("init/video*",),
        apply=wrapped(
            LatentPreparationStage,
            "conditioned_video",
            _first_picture_only,
            when=lambda stage, batch: len(batch.sampling.images) > 1,
        ),
        shows_in=VIDEO,
        variant=TWO_PICTURES,
    ),
    Defect(
        id="keyframe_strength_ignored",
        component="conditioning",
        description="a keyframe of strength 0.85 is held as if its strength were 1",
        first_taps=("init/video",),
        isolated_at=("init/video*",),
        apply=wrapped(
            latent_preparation,
            "condition_on_image",
            _held_firmly,
            when=lambda state, latent, frame, strength, *_: frame != 0 and strength != 1.0,
        ),
        shows_in=SUBTLE,
        variant=TWO_PICTURES,
    ),
)
