"""Latent states before denoising, against the official tools: shapes, order, positions, masks and noise."""

from typing import Any

import pytest
import torch

from runners.ltx23.latents import (
    AUDIO_CHANNELS,
    AUDIO_MEL_BINS,
    LatentState,
    audio_frames,
    audio_grid,
    audio_positions,
    empty_state,
    video_grid,
    video_positions,
    video_shape,
    video_tokens,
    with_noise,
)

CPU = torch.device("cpu")
DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
CLIPS = pytest.mark.parametrize(("frames", "height", "width", "rate"), [(1, 64, 96, 24.0), (25, 96, 160, 23.976)])


def official_tools(frames: int, height: int, width: int, rate: float) -> tuple[Any, Any]:
    from ltx_core.components.patchifiers import AudioPatchifier, VideoLatentPatchifier
    from ltx_core.tools import AudioLatentTools, VideoLatentTools
    from ltx_core.types import AudioLatentShape, VideoLatentShape, VideoPixelShape

    pixels = VideoPixelShape(batch=1, frames=frames, height=height, width=width, fps=rate)
    video = VideoLatentTools(VideoLatentPatchifier(patch_size=1), VideoLatentShape.from_pixel_shape(pixels), fps=rate)
    audio = AudioLatentTools(AudioPatchifier(patch_size=1), AudioLatentShape.from_video_pixel_shape(pixels))
    return video, audio


def assert_same_state(official: Any, native: LatentState) -> None:
    for name, wanted in (
        ("latent", official.latent),
        ("clean", official.clean_latent),
        ("denoise_mask", official.denoise_mask),
        ("positions", official.positions),
    ):
        value = getattr(native, name)
        assert value.dtype == wanted.dtype, name
        assert torch.equal(value, wanted), name


@DTYPES
@CLIPS
def test_empty_states_are_the_official_ones(
    dtype: torch.dtype, frames: int, height: int, width: int, rate: float
) -> None:
    video_tools, audio_tools = official_tools(frames, height, width, rate)
    shape = video_shape(frames, height, width)
    positions = video_positions(shape, rate, dtype, CPU)
    assert_same_state(video_tools.create_initial_state(CPU, dtype), empty_state(shape.tokens, 128, positions, dtype))
    count = audio_frames(frames, rate)
    audio = empty_state(count, AUDIO_CHANNELS * AUDIO_MEL_BINS, audio_positions(count, CPU), dtype)
    assert_same_state(audio_tools.create_initial_state(CPU, dtype), audio)


def test_audio_is_as_long_as_officially_at_every_length_and_rate() -> None:
    for rate in (7.5, 12.0, 23.976, 24.0, 25.0, 29.97, 30.0, 48.0, 50.0, 60.0):
        for frames in range(9, 260, 8):
            official = official_tools(frames, 32, 32, rate)[1].target_shape.frames
            assert audio_frames(frames, rate) == official, (frames, rate)


def test_positions_kept_in_fp32_are_those_before_rounding() -> None:
    shape = video_shape(121, 64, 96)
    exact, rounded = (video_positions(shape, 24.0, dtype, CPU) for dtype in (torch.float32, torch.bfloat16))
    assert torch.equal(exact.to(torch.bfloat16), rounded)
    # First latent frame: one pixel frame. The last: pixel frames 113 to 121. Cells are 32 pixels.
    assert exact[0, 0, 0].tolist() == [0.0, pytest.approx(1 / 24)]
    assert exact[0, 0, -1].tolist() == [pytest.approx(113 / 24), pytest.approx(121 / 24)]
    assert exact[0, 1:, -1].tolist() == [[32.0, 64.0], [64.0, 96.0]]
    assert (exact[:, 0] - rounded[:, 0].float()).abs().max() > 0.005


def test_tokens_and_grids_are_each_others_inverse_in_the_official_order() -> None:
    from ltx_core.components.patchifiers import AudioPatchifier, VideoLatentPatchifier

    shape = video_shape(17, 64, 160)
    video = torch.randn(1, 128, shape.frames, shape.height, shape.width)
    tokens = video_tokens(video)
    assert torch.equal(tokens, VideoLatentPatchifier(patch_size=1).patchify(video))
    assert torch.equal(video_grid(tokens, shape), video)
    audio = torch.randn(1, AUDIO_CHANNELS, 11, AUDIO_MEL_BINS)
    assert torch.equal(audio_grid(AudioPatchifier(patch_size=1).patchify(audio)), audio)


@DTYPES
def test_noise_is_the_official_noise_where_the_mask_says_so(dtype: torch.dtype) -> None:
    from ltx_core.components.noisers import GaussianNoiser
    from ltx_core.types import LatentState as OfficialState

    latent, mask = torch.randn(1, 6, 4).to(dtype), torch.tensor([1.0, 0.0, 0.3, 0.75, 1.0, 0.1]).view(1, 6, 1)
    positions = torch.zeros(1, 1, 6, 2)
    official = GaussianNoiser(generator=torch.Generator().manual_seed(5))(
        OfficialState(latent=latent, denoise_mask=mask, positions=positions, clean_latent=latent), noise_scale=1.0
    )
    state = LatentState(latent=latent, clean=latent, denoise_mask=mask, positions=positions)
    native = with_noise(state, torch.Generator().manual_seed(5), lerp_fp32=False)
    assert_same_state(official, native)
    lerped = with_noise(state, torch.Generator().manual_seed(5), lerp_fp32=True)
    assert torch.equal(lerped.latent[:, 1], latent[:, 1]) and torch.equal(lerped.latent[:, 0], native.latent[:, 0])
    torch.testing.assert_close(lerped.latent, native.latent)
