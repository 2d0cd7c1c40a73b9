"""The in-place decoder and automatic tiling of release 1.2.0.

That release cannot be installed beside 1.0.0. Compared by hand with its sources at commit 400fd31 on a CPU, 160 decodes
and 16 tiled ones in bf16 and fp32 were bit-equal. Here the in-place blocks are held to the plain ones, which equal
1.0.0: in float64 the two orders of rounding must agree to 1e-12, so no wrong frame, chunk border or residual can hide.
"""

from itertools import pairwise
from typing import Any

import pytest
import torch

from runners.ltx23.video_decoder import VideoDecoder
from runners.ltx23.video_decoder_chunked import chunk_bounds
from runners.ltx23.video_tiling import Tiling, decode_frames
from runners.ltx23.video_vae_config import VideoVaeConfig
from runners.releases import ReleaseBehaviours

VAE: dict[str, Any] = {
    "latent_channels": 8,
    "decoder_base_channels": 4,
    "spatial_padding_mode": "zeros",
    "timestep_conditioning": False,
    "decoder_blocks": [
        ["compress_space", {"multiplier": 2}],
        ["compress_time", {"multiplier": 2}],
        ["res_x", 2],
        ["compress_all", {"multiplier": 1, "residual": True}],
        ["compress_all", {"multiplier": 2}],
    ],
}


def decoder(vae: dict[str, Any], reference: ReleaseBehaviours, dtype: torch.dtype) -> VideoDecoder:
    native = VideoDecoder(VideoVaeConfig.from_checkpoint({"vae": vae}), reference)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in native.named_parameters():
            scale = 0.3 if tensor.ndim < 2 else tensor[0].numel() ** -0.5
            offset = 1.0 if tensor.ndim == 1 and "norm" in name else 0.0
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale + offset)
    return native.to(dtype).eval()


def latent_of(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize("norm", ["pixel_norm", "group_norm"])
def test_in_place_blocks_compute_what_plain_ones_do(causal: bool, padding: str, conditioned: bool, norm: str) -> None:
    vae = VAE | {"causal_decoder": causal, "spatial_padding_mode": padding, "norm_layer": norm}
    vae |= {"timestep_conditioning": conditioned, "decoder_base_channels": 4 if norm == "pixel_norm" else 8}
    vae["decoder_blocks"] = [
        ["res_x", {"num_layers": 2, "inject_noise": True}],
        ["compress_time", {"multiplier": 1}],
        ["res_x_y", {"inject_noise": True, "multiplier": 1}],
        ["compress_all", {"multiplier": 2, "residual": True}],
        ["res_x", 1],
    ]
    latent = latent_of((2, 8, 6, 3, 4), torch.float64)  # 6 -> 11 -> 21 frames: one chunk, then two
    kept = latent.clone()
    with torch.inference_mode():
        plain = decoder(vae, ReleaseBehaviours(), torch.float64)(latent, torch.Generator().manual_seed(11))
        chunked = decoder(vae, ReleaseBehaviours(decoder_chunked=True), torch.float64)(
            latent, torch.Generator().manual_seed(11)
        )
    assert plain.shape == (2, 3, 21, 24, 32)
    assert plain.std() > 1e-2
    torch.testing.assert_close(chunked, plain, rtol=0, atol=1e-12 * plain.abs().max().item())
    assert torch.equal(latent, kept)


def test_in_place_rounding_stays_at_the_level_of_the_plain_one() -> None:
    """Both bf16 orders are as far from float64 as bf16 makes them, neither more than twice as far as the other."""
    latent = latent_of((1, 8, 3, 2, 3), torch.bfloat16)
    with torch.inference_mode():
        weights = decoder(VAE, ReleaseBehaviours(), torch.bfloat16).state_dict()
        oracle = decoder(VAE, ReleaseBehaviours(), torch.float64)
        oracle.load_state_dict(weights)
        exact = oracle(latent.double(), None)
        errors = []
        for chunked in (False, True):
            rounded = decoder(VAE, ReleaseBehaviours(decoder_chunked=chunked), torch.bfloat16)(latent, None)
            errors.append(((rounded.double() - exact).norm() / exact.norm()).item())
    plain, in_place = errors
    assert 1e-3 < plain < 5e-2
    assert plain / 2 < in_place < plain * 2


def test_weights_keep_their_values_and_become_channels_last() -> None:
    native = decoder(VAE, ReleaseBehaviours(decoder_chunked=True), torch.float32)
    before = {key: value.clone() for key, value in native.state_dict().items()}
    with torch.inference_mode():
        native(latent_of((1, 8, 1, 2, 3), torch.float32), None)
    assert native.conv_in.conv.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert all(torch.equal(value, before[key]) for key, value in native.state_dict().items())


def test_chunks_leave_no_rest_of_one_or_two_frames() -> None:
    """By hand: 19 leaves 3 over 16; 33 leaves 1 over 16 but 3 over 15; 48 is three times 16."""
    assert chunk_bounds(3) == [(1, 2)]
    assert chunk_bounds(16) == [(1, 15)]
    assert chunk_bounds(19) == [(1, 16), (16, 18)]
    assert chunk_bounds(33) == [(1, 15), (15, 30), (30, 32)]
    assert chunk_bounds(48) == [(1, 16), (16, 32), (32, 47)]
    for frames in range(17, 400):
        bounds = chunk_bounds(frames)
        assert bounds[0][0] == 1 and bounds[-1][1] == frames - 1
        assert all(left[1] == right[0] for left, right in pairwise(bounds))
        assert min(stop - start for start, stop in bounds) >= 2


def test_automatic_tiling_starts_above_80_frames_and_768_pixels() -> None:
    """89 frames are tiles of 80 and 41 frames; a small clip is one tile and keeps its bytes."""
    automatic, plain = (
        decoder(VAE, ReleaseBehaviours(decode_auto_tiled=auto), torch.float32) for auto in (True, False)
    )
    with torch.inference_mode():
        long = list(decode_frames(automatic, latent_of((1, 8, 12, 2, 1), torch.float32), None, None))
        wide = latent_of((1, 8, 1, 1, 25), torch.float32)
        tiled, whole = (torch.cat(list(decode_frames(each, wide, None, None))) for each in (automatic, plain))
        small = latent_of((1, 8, 3, 2, 4), torch.float32)
        one_tile, untiled = (torch.cat(list(decode_frames(each, small, None, None))) for each in (automatic, plain))
    assert [chunk.shape[0] for chunk in long] == [48, 41]
    assert tiled.shape == whole.shape == (1, 32, 800, 3)
    assert not torch.equal(tiled, whole)
    assert torch.equal(one_tile, untiled)


@pytest.mark.parametrize("overlap_frames", [8, 16])
def test_both_releases_blend_alike_up_to_rounding(overlap_frames: int) -> None:
    """With overlap 16 the masks do not add up, so the newer blending has to divide as the older one does."""
    tiling = Tiling(tile_px=96, overlap_px=64, tile_frames=24, overlap_frames=overlap_frames)
    latent = latent_of((1, 8, 6, 3, 4), torch.float32)
    with torch.inference_mode():
        older, newer = (
            torch.cat(
                list(
                    decode_frames(
                        decoder(VAE, ReleaseBehaviours(decode_auto_tiled=auto), torch.float32), latent, tiling, None
                    )
                )
            )
            for auto in (False, True)
        )
    assert older.float().std() > 10
    assert (older.int() - newer.int()).abs().max() <= 1
