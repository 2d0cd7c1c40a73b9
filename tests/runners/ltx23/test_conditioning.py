"""Pictures put into a video state, against the official conditioning items."""

from typing import Any

import pytest
import torch
from torch import Tensor

from runners.errors import ShapeError
from runners.ltx23.conditioning import condition_on_image
from runners.ltx23.latents import LatentState, empty_state, video_positions, video_shape

CPU = torch.device("cpu")
FRAMES, HEIGHT, WIDTH, RATE = 17, 64, 96, 23.976
SHAPE = video_shape(FRAMES, HEIGHT, WIDTH)


def states(dtype: torch.dtype) -> tuple[Any, Any, LatentState]:
    """The official tools and state, and ours."""
    from ltx_core.components.patchifiers import VideoLatentPatchifier
    from ltx_core.tools import VideoLatentTools
    from ltx_core.types import VideoLatentShape

    shape = VideoLatentShape(batch=1, channels=128, frames=SHAPE.frames, height=SHAPE.height, width=SHAPE.width)
    tools = VideoLatentTools(VideoLatentPatchifier(patch_size=1), shape, fps=RATE)
    native = empty_state(SHAPE.tokens, 128, video_positions(SHAPE, RATE, dtype, CPU), dtype)
    return tools, tools.create_initial_state(CPU, dtype), native


def picture(dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(1, 128, 1, SHAPE.height, SHAPE.width, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "places", [[(0, 1.0)], [(0, 0.3)], [(9, 1.0)], [(16, 0.77), (0, 0.6)], [(0, 0.9), (5, 0.35), (5, 0.0)]], ids=str
)
def test_states_are_the_official_ones(dtype: torch.dtype, places: list[tuple[int, float]]) -> None:
    from ltx_core.conditioning import VideoConditionByKeyframeIndex, VideoConditionByLatentIndex

    tools, official, native = states(dtype)
    for seed, (frame_idx, strength) in enumerate(places):
        latent = picture(dtype, seed)
        item: Any
        if frame_idx == 0:
            item = VideoConditionByLatentIndex(latent=latent, strength=strength, latent_idx=0)
        else:
            item = VideoConditionByKeyframeIndex(keyframes=latent, frame_idx=frame_idx, strength=strength)
        official = item.apply_to(latent_state=official, latent_tools=tools)
        native = condition_on_image(native, latent, frame_idx, strength, SHAPE, RATE, keyframe_spans_one_frame=False)
    assert official.attention_mask is None
    for ours, theirs in (
        (native.latent, official.latent),
        (native.clean, official.clean_latent),
        (native.denoise_mask, official.denoise_mask),
        (native.positions, official.positions),
    ):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    appended = sum(frame_idx != 0 for frame_idx, _ in places)
    assert native.latent.shape[1] == SHAPE.tokens + appended * SHAPE.height * SHAPE.width


def test_a_keyframe_lasts_eight_pixel_frames_or_one() -> None:
    _, _, state = states(torch.float32)
    times = []
    for spans_one in (False, True):
        conditioned = condition_on_image(state, picture(torch.float32, 0), 5, 1.0, SHAPE, RATE, spans_one)
        times.append(conditioned.positions[0, 0, -1].tolist())
    assert times[0] == [pytest.approx(5 / RATE), pytest.approx(13 / RATE)]
    assert times[1] == [pytest.approx(5 / RATE), pytest.approx(6 / RATE)]


def test_the_state_given_is_left_as_it_was() -> None:
    _, _, state = states(torch.float32)
    condition_on_image(state, picture(torch.float32, 0), 0, 1.0, SHAPE, RATE, False)
    assert state.latent.abs().sum() == 0 and (state.denoise_mask == 1).all()


def test_a_picture_of_another_size_is_refused() -> None:
    _, _, state = states(torch.float32)
    with pytest.raises(ShapeError, match=r"An image latent of \(3, 2\) cells cannot condition a clip of \(2, 3\)"):
        condition_on_image(state, torch.zeros(1, 128, 1, 3, 2), 0, 1.0, SHAPE, RATE, False)
