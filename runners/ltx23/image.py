"""A picture on its way to the video VAE: decode, H.264 round trip, resize, centre crop, scale to [-1, 1].

The round trip gives the picture the compression artefacts of the training videos' frames. Source:
ltx_pipelines.utils.media_io.load_image_conditioning 1.0.0, and decode_image 1.2.0 for pictures as displayed.

Axes: H height, W width, C channel (RGB).
"""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from runners.errors import MediaError
from runners.files import opened

MAX_PIXELS = 1 << 25  # a header may claim any size; nothing larger is decoded
MAX_BYTES = 256 << 20  # of a file; so many pixels without compression take 100 MB
MAX_STRETCH = 32  # times the area of the video that a picture may take once it covers it: a band has no such centre
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # Pillow knows more, some of which start other programs
_DEGREES = {3: 180, 6: 270, 8: 90}  # of EXIF orientations, counter-clockwise; mirrored ones are left as they are


def read_picture(path: Path, as_displayed: bool = False) -> NDArray[np.uint8]:
    """Decode a picture file to uint8 (H, W, 3); an alpha channel is dropped, not blended, as officially.

    Args:
        path: the file.
        as_displayed: reference behaviour `pictures_as_displayed`; turn the picture as its EXIF orientation says, and
            its colours from its ICC profile to sRGB. Then grey and palette pictures are taken, too.
    Raises: MediaError if the file is no picture, has no colour, or is larger than MAX_PIXELS.
    """
    with _opened(path) as picture:
        pixels = np.array(_displayed(picture) if as_displayed else picture)
    if pixels.ndim != 3 or pixels.shape[2] < 3 or pixels.dtype != np.uint8:
        raise MediaError(
            f"{path.name} decodes to {pixels.dtype} {pixels.shape}; 8-bit RGB is wanted. Convert it to an RGB PNG."
        )
    return np.ascontiguousarray(pixels[..., :3])


def require_affordable(path: Path, height: int, width: int) -> None:
    """Refuse a picture by its header, before anything of it is decoded: by whichever program is going to.

    Args:
        path: the file.
        height: of the video that it is for, in pixels.
        width: the same.
    Raises: MediaError if the file is no picture, has more pixels than MAX_PIXELS, or is so narrow or flat that scaled
        to cover the video it would take MAX_STRETCH times its area.
    """
    with _opened(path) as picture:
        require_shape(path.name, (picture.height, picture.width), height, width)


def require_shape(name: str, size: tuple[int, int], height: int, width: int) -> None:
    """Refuse a picture of (H, W) pixels, upright or turned, as `require_affordable` does. Raises: MediaError."""
    ratio = size[0] * width / max(1, size[1] * height)
    turned = size[1] * width / max(1, size[0] * height)
    if min(max(one, 1 / max(one, 1e-9)) for one in (ratio, turned)) > MAX_STRETCH:
        raise MediaError(
            f"{name} is {size[1]}x{size[0]} pixels, which covers a video of {width}x{height} only when it is scaled to "
            f"more than {MAX_STRETCH} times its area. Crop the picture."
        )


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A picture file whose header has been read. Raises: MediaError, also for what is found while inside."""
    remedy = "give a PNG or JPEG file"
    with opened(path, MediaError, remedy, max_bytes=MAX_BYTES) as file:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of more pixels than are taken here
                picture = Image.open(file, formats=FORMATS)
            with picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise MediaError(
                        f"{path.name} is {picture.width}x{picture.height} pixels; at most {MAX_PIXELS} are read."
                    )
                yield picture
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise MediaError(f"{path.name} cannot be decoded as a picture ({error}); {remedy}.") from error


def _displayed(picture: Image.Image) -> Image.Image:
    """A picture upright, in sRGB and RGB. A profile that cannot be applied is ignored, as officially."""
    degrees = _DEGREES.get(picture.getexif().get(ExifTags.Base.Orientation, 0))
    turned = picture if degrees is None else picture.rotate(degrees, expand=True)
    profile = turned.info.get("icc_profile")
    # Alpha goes before the colours are converted.
    opaque = turned.convert({"RGBA": "RGB", "LA": "L"}[turned.mode]) if turned.mode in ("RGBA", "LA") else turned
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
            converted = ImageCms.profileToProfile(opaque, source, target, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            converted = None
        if converted is not None:
            return converted
    return opaque.convert("RGB")


def compression_round_trip(pixels: NDArray[np.uint8], crf: int) -> NDArray[np.uint8]:
    """Encode one uint8 (H, W, 3) frame as H.264 at quality `crf` and decode it again; crf 0 leaves it alone.

    An odd last row or column is cut, since 4:2:0 chroma has none.
    Raises: MediaError for a picture that H.264 cannot hold: a side of 1 pixel, or of more than the encoder takes.
    """
    if crf == 0:
        return pixels
    if min(pixels.shape[:2]) < 2:
        raise MediaError(
            f"A picture of {pixels.shape[1]}x{pixels.shape[0]} pixels does not go through H.264, which takes sides of "
            "2 to 16384 pixels; take a larger one, or set crf to 0."
        )
    try:
        return _encode_and_decode(pixels, crf)
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise MediaError(
            f"A picture of {pixels.shape[1]}x{pixels.shape[0]} pixels does not go through H.264 ({error}); "
            "take one with sides of 2 to 16384 pixels, or set crf to 0."
        ) from error


def _encode_and_decode(pixels: NDArray[np.uint8], crf: int) -> NDArray[np.uint8]:
    height, width = (side // 2 * 2 for side in pixels.shape[:2])
    encoded = io.BytesIO()
    with av.open(encoded, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": str(crf), "preset": "veryfast"})
        stream.height, stream.width = height, width
        # Converted before the encoder sees it: left to the encoder, another conversion could be chosen.
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:height, :width]), format="rgb24")
        container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    encoded.seek(0)
    with av.open(encoded) as container:
        decoded: NDArray[np.uint8] = next(container.decode(video=0)).to_ndarray(format="rgb24")
    return decoded


def fill_and_crop(picture: Tensor, height: int, width: int) -> Tensor:
    """Scale fp32 (H, W, C) to cover height x width, keep its aspect, crop the centre: (1, C, 1, height, width)."""
    source_height, source_width, _ = picture.shape
    scale = max(height / source_height, width / source_width)
    # Rounded up, so that rounding never leaves a side short of the crop.
    size = (math.ceil(source_height * scale), math.ceil(source_width * scale))
    # Not made contiguous first: the kernel chosen depends on the memory layout, and bits on the kernel.
    covered = functional.interpolate(rearrange(picture, "h w c -> 1 c h w"), size, mode="bilinear", align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return rearrange(covered[:, :, top : top + height, left : left + width], "f c h w -> 1 c f h w")


def load_picture(
    path: Path,
    crf: int,
    height: int,
    width: int,
    dtype: torch.dtype,
    device: torch.device,
    as_displayed: bool = False,
) -> Tensor:
    """The picture as the video VAE takes it: (1, 3, 1, height, width) in [-1, 1], `dtype` on `device`.

    Raises: MediaError as `read_picture` and `compression_round_trip` do.
    """
    pixels = read_picture(path, as_displayed)
    require_shape(path.name, pixels.shape[:2], height, width)
    pixels = compression_round_trip(pixels, crf)
    picture = torch.tensor(pixels, dtype=torch.float32, device=device)
    return (fill_and_crop(picture, height, width) / 127.5 - 1.0).to(dtype)
