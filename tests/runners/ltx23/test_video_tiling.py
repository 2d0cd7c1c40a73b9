"""Tiled decoding and the way to bytes, against the official `decode_video` of 1.0.0."""

from typing import Any

import pytest
import torch
from ltx_core.model.video_vae import (
    SpatialTilingConfig,
    TemporalTilingConfig,
    TilingConfig,
    VideoDecoderConfigurator,
    decode_video,
)
from torch import nn

from runners.errors import ConfigError, ShapeError
from runners.ltx23.video_decoder import VideoDecoder
from runners.ltx23.video_tiling import (
    Tiling,
    decode_frames,
    make_tiles,
    masks_add_up,
    ramp_mask,
    split,
    to_bytes,
)
from runners.ltx23.video_vae_config import VideoVaeConfig
from runners.releases import ReleaseBehaviours

DTYPES = [torch.bfloat16, torch.float32]
VAE: dict[str, Any] = {
    "latent_channels": 8,
    "decoder_base_channels": 2,
    "spatial_padding_mode": "zeros",
    "timestep_conditioning": False,
    "decoder_blocks": [
        ["compress_space", {"multiplier": 2}],
        ["compress_time", {"multiplier": 2}],
        ["res_x", 1],
        ["compress_all", {"multiplier": 1}],
        ["compress_all", {"multiplier": 2}],
    ],
}


def decoders(vae: dict[str, Any], reference: ReleaseBehaviours, dtype: torch.dtype) -> tuple[nn.Module, VideoDecoder]:
    generator = torch.Generator().manual_seed(5)
    official = VideoDecoderConfigurator.from_config({"vae": vae})
    with torch.no_grad():
        for name, tensor in [*official.named_parameters(), *official.named_buffers()]:
            noise = torch.randn(tensor.shape, generator=generator)
            scale = 1.0 if tensor.ndim < 2 else tensor[0].numel() ** -0.5
            tensor.copy_(1 + 0.2 * noise.abs() if "std" in name else noise * scale)
            if name == "conv_out.conv.weight":
                tensor.mul_(0.5)  # most pixels stay inside [-1, 1], or clamping would hide differences
            if name == "timestep_scale_multiplier":
                tensor.fill_(1000.0)
    official = official.to(dtype).eval()
    native = VideoDecoder(VideoVaeConfig.from_checkpoint({"vae": vae}), reference).to(dtype).eval()
    native.load_state_dict(official.state_dict(), strict=True)
    return official, native


def official_tiling(tiling: Tiling) -> TilingConfig:
    """The same tiling; where ours leaves time whole, one tile longer than any clip here."""
    spatial, temporal = None, TemporalTilingConfig(tile_size_in_frames=800)
    if tiling.tile_px is not None:
        spatial = SpatialTilingConfig(tile_size_in_pixels=tiling.tile_px, tile_overlap_in_pixels=tiling.overlap_px)
    if tiling.tile_frames is not None:
        temporal = TemporalTilingConfig(
            tile_size_in_frames=tiling.tile_frames, tile_overlap_in_frames=tiling.overlap_frames
        )
    return TilingConfig(spatial_config=spatial, temporal_config=temporal)


def check_frames(vae: dict[str, Any], tiling: Tiling | None, dtype: torch.dtype) -> None:
    official, native = decoders(vae, ReleaseBehaviours(), dtype)
    latent = torch.randn((1, 8, 6, 3, 4), generator=torch.Generator().manual_seed(7)).to(dtype)
    wanted = None if tiling is None else official_tiling(tiling)
    with torch.inference_mode():
        expected = list(decode_video(latent, official, wanted, torch.Generator().manual_seed(11)))
        chunks = list(decode_frames(native, latent, tiling, torch.Generator().manual_seed(11)))
    assert [chunk.shape for chunk in chunks] == [chunk.shape for chunk in expected]
    assert sum(chunk.shape[0] for chunk in chunks) == 41
    assert all(chunk.dtype == torch.uint8 for chunk in chunks)
    assert torch.cat(expected).float().std() > 20  # bytes that vary and do not saturate
    assert torch.equal(torch.cat(chunks), torch.cat(expected))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "tiling",
    [
        None,
        Tiling(tile_px=64),  # the reference cannot tile space alone; see official_tiling
        Tiling(tile_px=96, overlap_px=32),
        Tiling(tile_frames=16),
        Tiling(tile_frames=24, overlap_frames=16),  # a tile is overlapped by both neighbours at once
        Tiling(tile_px=96, overlap_px=64, tile_frames=24, overlap_frames=8),
        Tiling(tile_px=512, overlap_px=64, tile_frames=64, overlap_frames=24),  # larger than the clip
    ],
)
def test_frames_equal_official_with_any_tiling(tiling: Tiling | None, dtype: torch.dtype) -> None:
    check_frames(VAE, tiling, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tiling", [None, Tiling(tile_px=96, overlap_px=32, tile_frames=32, overlap_frames=8)])
def test_every_tile_draws_its_noise_in_the_official_order(tiling: Tiling | None, dtype: torch.dtype) -> None:
    check_frames(VAE | {"timestep_conditioning": True}, tiling, dtype)


def test_tiling_changes_the_picture_and_is_therefore_seen() -> None:
    _, native = decoders(VAE, ReleaseBehaviours(), torch.float32)
    latent = torch.randn((1, 8, 6, 2, 3), generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        whole = torch.cat(list(decode_frames(native, latent, None, None)))
        tiled = torch.cat(list(decode_frames(native, latent, Tiling(tile_frames=24, overlap_frames=8), None)))
    assert not torch.equal(whole, tiled)


def test_bytes_are_clamped_and_truncated() -> None:
    """-1 is 0, 0 is 127.5 cut to 127, 1 is 255; values outside are clamped."""
    pixels = torch.tensor([-3.0, -1.0, 0.0, 0.5, 1.0, 2.0]).view(1, 3, 1, 1, 2)
    expected = torch.tensor([[[[0, 127, 255], [0, 191, 255]]]], dtype=torch.uint8)  # (F, H, W, C)
    assert torch.equal(to_bytes(pixels), expected)


def test_split_covers_the_axis_with_the_asked_overlap() -> None:
    assert split(5, size=5, overlap=2) == [(0, 5, 0, 0)]
    assert split(6, size=4, overlap=1) == [(0, 4, 0, 1), (3, 6, 1, 0)]
    assert split(9, size=4, overlap=1) == [(0, 4, 0, 1), (3, 7, 1, 1), (6, 9, 1, 0)]


def test_masks_ramp_linearly() -> None:
    quarter = torch.tensor([0.25, 0.5, 0.75, 1.0, 0.5])
    torch.testing.assert_close(ramp_mask(5, 3, 1, left_from_zero=False), quarter)
    third = torch.tensor([0.0, 1 / 3, 2 / 3, 1.0])
    torch.testing.assert_close(ramp_mask(4, 3, 0, left_from_zero=True), third)


def test_masks_add_up_unless_a_tile_is_overlapped_twice() -> None:
    scale = (8, 32, 32)
    assert masks_add_up(make_tiles((6, 4, 5), Tiling(tile_px=96, overlap_px=32, tile_frames=16), scale))
    assert not masks_add_up(make_tiles((6, 4, 5), Tiling(tile_frames=24, overlap_frames=16), scale))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile_px": 32}, "tile_px >= 64"),
        ({"tile_px": 80}, "multiples of 32"),
        ({"tile_px": 64, "overlap_px": 64}, "got 64 and 64"),
        ({"tile_frames": 8}, "tile_frames >= 16"),
        ({"tile_frames": 24, "overlap_frames": 4}, "multiples of 8"),
        ({"overlap_px": 32}, "give both or neither"),
    ],
)
def test_impossible_tilings_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Tiling(**arguments)


def test_two_clips_and_other_scales_are_refused() -> None:
    _, native = decoders(VAE, ReleaseBehaviours(), torch.float32)
    with pytest.raises(ShapeError, match="one clip"):
        next(decode_frames(native, torch.zeros(2, 8, 2, 2, 2), None, None))
    _, small = decoders(VAE | {"decoder_blocks": []}, ReleaseBehaviours(), torch.float32)
    with pytest.raises(ConfigError, match=r"grows by \(1, 4, 4\)"):
        next(decode_frames(small, torch.zeros(1, 8, 2, 2, 2), Tiling(tile_px=64), None))
