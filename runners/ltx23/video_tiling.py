"""Decoding a video in overlapping tiles, blended where they overlap, and frames as bytes.

A latent axis is split into intervals that share `overlap` cells. Each tile is decoded alone and weighted by masks that
ramp linearly over the overlap. Tiles of one time interval are summed into one chunk; consecutive chunks are blended
and handed out as soon as no later tile can change them, so host or device never hold more than two chunks.

Axes: B clip, C channel, F frame, H height, W width. Intervals are counted in latent cells, masks in pixels or frames.
Source: ltx_core.model.video_vae.tiling and .video_vae (tiled_decode, decode_video) 1.0.0; with
`Reference.decode_auto_tiled`, ltx_core.tiling and .conv_video_decoder 1.2.0 (commit 400fd31), which splits alike but
blends in float32 and divides only where the masks do not add up to one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, product

import torch
from einops import rearrange
from torch import Tensor

from runners.errors import ConfigError, ShapeError
from runners.ltx23.video_decoder import VideoDecoder

LATENT_FRAMES = 8  # frames of a latent cell, for which tile sizes are given; the reference fixes them
LATENT_PIXELS = 32
LEAST_WEIGHT = 1e-8
COMPLEMENT_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Tile sizes and overlaps; None leaves space or time whole. Sizes are the reference's units and limits."""

    tile_px: int | None = None  # the longer side of a tile; the shorter one follows the frame's shape
    overlap_px: int = 0
    tile_frames: int | None = None
    overlap_frames: int = 0

    def __post_init__(self) -> None:
        for axis, size, overlap, least, step in (
            ("px", self.tile_px, self.overlap_px, 2 * LATENT_PIXELS, LATENT_PIXELS),
            ("frames", self.tile_frames, self.overlap_frames, 2 * LATENT_FRAMES, LATENT_FRAMES),
        ):
            if size is None and overlap:
                raise ConfigError(f"overlap_{axis} is {overlap} but tile_{axis} is not given; give both or neither.")
            if size is not None and (size < least or size % step or overlap % step or not 0 <= overlap < size):
                raise ConfigError(
                    f"Tiles want tile_{axis} >= {least}, overlap_{axis} below it, both multiples of {step}; "
                    f"got {size} and {overlap}."
                )


AUTO_TILING = Tiling(tile_px=768, overlap_px=64, tile_frames=80, overlap_frames=24)  # 1.2.0, always


@dataclass(frozen=True, kw_only=True)
class Interval:
    """One tile along one axis: latent cells in, frames or pixels out, and the blending weights of what comes out."""

    cells: slice
    out: slice
    mask: Tensor | None  # (out,) float32; None weighs everything 1


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A tile: its interval on each axis."""

    frames: Interval
    height: Interval
    width: Interval

    @property
    def intervals(self) -> tuple[Interval, Interval, Interval]:
        """In the order of the tensor's axes."""
        return self.frames, self.height, self.width


def ramp_mask(length: int, left: int, right: int, left_from_zero: bool) -> Tensor:
    """Weights that rise over `left`, stay 1 and fall over `right` elements.

    Args:
        left_from_zero: whether the rise starts at 0 (time: that frame belongs to the tile before) or above it.
    Returns: (length,) float32 in [0, 1].
    """
    left, right = min(left, length), min(right, length)
    mask = torch.ones(length)
    if left:
        mask[:left] *= torch.linspace(0, 1, left + 1)[:-1] if left_from_zero else torch.linspace(0, 1, left + 2)[1:-1]
    if right:
        mask[length - right :] *= torch.linspace(1, 0, right + 2)[1:-1]
    return mask.clamp_(0, 1)


def split(length: int, size: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """Split `length` cells into tiles of `size`: (start, end, left overlap, right overlap) of each."""
    if length <= size:
        return [(0, length, 0, 0)]
    step = size - overlap
    count = -(-(length - overlap) // step)  # ceiling
    return [
        (
            index * step,
            index * step + size if index < count - 1 else length,
            overlap if index else 0,
            overlap if index < count - 1 else 0,
        )
        for index in range(count)
    ]


def spatial_intervals(length: int, long_side: int, tiling: Tiling, scale: int) -> list[Interval]:
    """Intervals of a latent side of `length` cells in a frame whose longer side has `long_side`."""
    if tiling.tile_px is None:
        return [Interval(cells=slice(0, length), out=slice(0, length * scale), mask=None)]
    overlap = tiling.overlap_px // scale
    size = max(2, overlap + 1, round(tiling.tile_px // scale * length / long_side))
    return [
        Interval(
            cells=slice(start, end),
            out=slice(start * scale, end * scale),
            mask=ramp_mask((end - start) * scale, left * scale, right * scale, left_from_zero=False),
        )
        for start, end, left, right in split(length, size, overlap)
    ]


def temporal_intervals(length: int, tiling: Tiling, scale: int) -> list[Interval]:
    """Intervals of `length` latent frames. All but the first start one cell early: a tile's first cell is one frame."""
    if tiling.tile_frames is None:
        return [Interval(cells=slice(0, length), out=slice(0, 1 + (length - 1) * scale), mask=None)]
    intervals = []
    for start, end, left, right in split(length, tiling.tile_frames // scale, tiling.overlap_frames // scale):
        lead = 1 if start else 0
        first, stop = (start - lead) * scale, 1 + (end - 1) * scale
        rise = 1 + (left + lead - 1) * scale if left + lead else 0
        mask = ramp_mask(stop - first, rise, right * scale, left_from_zero=True)
        intervals.append(Interval(cells=slice(start - lead, end), out=slice(first, stop), mask=mask))
    return intervals


def make_tiles(latent_shape: tuple[int, int, int], tiling: Tiling, scale: tuple[int, int, int]) -> list[Tile]:
    """Tiles of a latent of (F, H, W) cells, time slowest."""
    frames, height, width = latent_shape
    long_side = max(height, width)
    return [
        Tile(frames=frame, height=row, width=column)
        for frame, row, column in product(
            temporal_intervals(frames, tiling, scale[0]),
            spatial_intervals(height, long_side, tiling, scale[1]),
            spatial_intervals(width, long_side, tiling, scale[2]),
        )
    ]


def masks_add_up(tiles: list[Tile]) -> bool:
    """True if the masks of every axis sum to one everywhere, so that a weighted sum needs no division."""
    for axis in range(3):
        intervals = {tile.intervals[axis].out.start: tile.intervals[axis] for tile in tiles}.values()
        total = torch.zeros(max(interval.out.stop for interval in intervals))
        for interval in intervals:
            total[interval.out] += 1.0 if interval.mask is None else interval.mask
        if not torch.allclose(total, torch.ones_like(total), atol=COMPLEMENT_TOLERANCE, rtol=0.0):
            return False
    return True


def decode_tiled(
    decoder: VideoDecoder, latent: Tensor, tiling: Tiling, generator: torch.Generator | None
) -> Iterator[Tensor]:
    """Decode in tiles, one chunk of frames after the other.

    Args:
        latent: (B, C, F', H', W') normalized, in the weights' dtype.
    Yields: (B, 3, F, H, W) chunks in the latent's dtype, which together are the video.
    Raises: ConfigError for a decoder that does not grow time by 8 and space by 32.
    """
    scale = decoder.config.decoder_scale()
    if scale != (LATENT_FRAMES, LATENT_PIXELS, LATENT_PIXELS):
        raise ConfigError(
            f"Tile sizes suit decoders that grow (F, H, W) by {(LATENT_FRAMES, LATENT_PIXELS, LATENT_PIXELS)}; "
            f"this one grows by {scale}. Decode it without tiling."
        )
    frames, height, width = latent.shape[2:]
    tiles = make_tiles((frames, height, width), tiling, scale)
    blend_fp32 = decoder.reference.decode_auto_tiled
    weighted = not (blend_fp32 and masks_add_up(tiles))
    earlier: _Chunk | None = None
    for _, group in groupby(tiles, key=lambda tile: (tile.frames.out.start, tile.frames.out.stop)):
        chunk_tiles = list(group)
        shape = (latent.shape[0], decoder.config.out_channels, height * scale[1], width * scale[2])
        chunk = _Chunk(chunk_tiles[0].frames.out, shape, latent, weighted)
        for tile in chunk_tiles:
            cells = (slice(None), slice(None), *(interval.cells for interval in tile.intervals))
            chunk.add(tile, decoder(latent[cells], generator), blend_fp32)
        if earlier is not None:
            earlier.blend_into(chunk)
            yield earlier.settled(before=chunk.start)
        earlier = chunk
    if earlier is not None:
        yield earlier.settled(before=earlier.stop)


class _Chunk:
    """The weighted sum of the tiles of one time interval, over whole frames, and the sum of their weights."""

    def __init__(self, out: slice, shape: tuple[int, int, int, int], like: Tensor, weighted: bool) -> None:
        batch, channels, height, width = shape
        self.start, self.stop = out.start, out.stop  # frames of the video
        count = self.stop - self.start
        self.total = like.new_zeros(batch, channels, count, height, width)
        # The reference keeps equal weights for every clip and channel; one of each divides alike.
        self.weights = like.new_zeros(1, 1, count, height, width) if weighted else None

    def add(self, tile: Tile, pixels: Tensor, blend_fp32: bool) -> None:
        """Add a decoded tile, which this consumes, under its mask."""
        place = (slice(None), slice(None), slice(None), tile.height.out, tile.width.out)
        masks = _masks(tile, pixels.device)
        if blend_fp32:  # multiplied axis by axis in float32, rounded once by the sum
            pixels = pixels.float()
            weight = torch.ones_like(pixels[:1, :1]) if self.weights is not None else None
            for mask in masks:
                pixels.mul_(mask)
                if weight is not None:
                    weight.mul_(mask)
        else:  # masks multiplied in float32, rounded to the latent's dtype, then applied
            weight = (masks[0] * masks[1] * masks[2]).to(pixels.dtype)
            pixels = pixels.mul_(weight)
        self.total[place] += pixels
        if self.weights is not None and weight is not None:
            self.weights[place] += weight

    def blend_into(self, later: "_Chunk") -> None:
        """Give `later` the sums of the frames that both cover."""
        shared = self.stop - later.start
        if shared <= 0:
            return
        later.total[:, :, :shared] += self.total[:, :, -shared:]
        if self.weights is not None and later.weights is not None:
            later.weights[:, :, :shared] += self.weights[:, :, -shared:]

    def settled(self, before: int) -> Tensor:
        """(B, C, F, H, W) frames of this chunk ahead of frame `before` of the video, divided by their weights."""
        count = before - self.start
        frames = self.total[:, :, :count]
        return frames if self.weights is None else frames / self.weights[:, :, :count].clamp(min=LEAST_WEIGHT)


def _masks(tile: Tile, device: torch.device) -> list[Tensor]:
    """The tile's three masks, shaped to multiply (B, C, F, H, W); an axis without one gets a single 1."""
    masks = []
    for axis, interval in enumerate(tile.intervals, start=2):
        shape = [1] * 5
        shape[axis] = -1
        mask = torch.ones(1) if interval.mask is None else interval.mask
        masks.append(mask.view(shape).to(device))
    return masks


def decode_frames(
    decoder: VideoDecoder, latent: Tensor, tiling: Tiling | None, generator: torch.Generator | None
) -> Iterator[Tensor]:
    """Decode one clip to bytes on the latent's device, whole or, with a tiling, chunk by chunk.

    Args:
        latent: (1, C, F', H', W') normalized, in the weights' dtype.
        tiling: None decodes whole, or with `AUTO_TILING` where the reference always tiles (`decode_auto_tiled`).
        generator: see `VideoDecoder.forward`; with tiles, every tile draws anew.
    Yields: (F, H, W, 3) uint8 chunks, which together are the video.
    Raises: ShapeError for more than one clip: the reference would silently drop all but the first.
    """
    if latent.shape[0] != 1:
        raise ShapeError(
            f"decode_frames wants one clip, (1, C, F, H, W); got {tuple(latent.shape)}. Decode each alone."
        )
    if tiling is None and decoder.reference.decode_auto_tiled:
        tiling = AUTO_TILING
    if tiling is None:
        yield to_bytes(decoder(latent, generator))
        return
    for pixels in decode_tiled(decoder, latent, tiling, generator):
        yield to_bytes(pixels)


def to_bytes(pixels: Tensor) -> Tensor:
    """(1, 3, F, H, W) pixels, nominally in [-1, 1], to (F, H, W, 3) bytes: clamped, truncated, in the pixels' dtype.

    Overwrites `pixels`: a clip is large and nobody needs it after.
    """
    unit = pixels.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
    return rearrange(unit.mul_(255.0).to(torch.uint8)[0], "c f h w -> f h w c")
