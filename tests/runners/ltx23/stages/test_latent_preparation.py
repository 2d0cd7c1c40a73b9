"""Latent preparation against the official helpers: states, noise and the order in which it is drawn."""

from collections.abc import Callable

import pytest
import torch

from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.latent_preparation import LatentPreparationStage
from runners.releases import ReleaseBehaviours
from runners.tap import listening

CPU = torch.device("cpu")
TWO = {
    "request.images": [
        {"path": "astronaut.png", "frame_idx": 5, "strength": 0.7},
        {"path": "coffee.jpg", "strength": 0.4},
    ],
    "request.num_frames": 17,
}


def prepared(batch: Batch) -> Batch:
    generator = torch.Generator().manual_seed(6)
    batch.image_latents = [
        torch.randn(1, 128, 1, 2, 3, generator=generator).to(batch.config.dtype) for _ in batch.sampling.images
    ]
    return LatentPreparationStage().forward(batch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("overrides", [{}, TWO], ids=["text", "pictures"])
def test_states_and_noise_are_the_official_ones(
    dtype: torch.dtype, overrides: dict[str, object], make_batch: Callable[..., Batch]
) -> None:
    from ltx_core.components.noisers import GaussianNoiser
    from ltx_core.conditioning import VideoConditionByKeyframeIndex, VideoConditionByLatentIndex
    from ltx_core.types import VideoPixelShape
    from ltx_pipelines.utils.helpers import noise_audio_state, noise_video_state
    from ltx_pipelines.utils.types import PipelineComponents

    heard: dict[str, torch.Tensor] = {}
    with listening(heard.__setitem__):
        batch = prepared(make_batch(overrides, dtype))
    items = []
    if overrides:
        first, second = batch.image_latents
        items.append(VideoConditionByKeyframeIndex(keyframes=first, frame_idx=5, strength=0.7))
        items.append(VideoConditionByLatentIndex(latent=second, strength=0.4, latent_idx=0))
    sampling = batch.sampling
    generator = torch.Generator().manual_seed(sampling.seed)
    common = {
        "output_shape": VideoPixelShape(1, sampling.num_frames, 64, 96, sampling.frame_rate),
        "noiser": GaussianNoiser(generator=generator),
        "components": PipelineComponents(dtype=dtype, device=CPU),
        "dtype": dtype,
        "device": CPU,
    }
    video, _ = noise_video_state(conditionings=items, **common)
    audio, _ = noise_audio_state(conditionings=[], **common)
    for official, native in ((video, batch.video_state), (audio, batch.audio_state)):
        assert native is not None
        assert torch.equal(native.latent, official.latent) and native.latent.dtype == dtype
        assert torch.equal(native.clean, official.clean_latent)
        assert torch.equal(native.denoise_mask, official.denoise_mask)
        assert torch.equal(native.positions, official.positions)
        assert native.positions.dtype == official.positions.dtype
    assert batch.video_state is not None and batch.audio_state is not None
    assert heard["init/video"] is batch.video_state.latent and heard["init/audio"] is batch.audio_state.latent
    assert batch.generator is not None and batch.sigmas is not None
    assert torch.equal(batch.generator.get_state(), generator.get_state())  # the decoder draws on from here
    assert batch.sigmas.shape == (3,)


def test_each_reference_behaviour_reaches_the_state(make_batch: Callable[..., Batch]) -> None:
    overrides = TWO | {"request.num_frames": 121}
    plain = prepared(make_batch(overrides, torch.bfloat16)).video_state
    assert plain is not None and plain.positions.dtype == torch.float32  # joined with the keyframe's fp32

    def with_behaviour(name: str) -> torch.Tensor:
        state = prepared(make_batch(overrides, torch.bfloat16, reference=ReleaseBehaviours(**{name: True}))).video_state
        assert state is not None
        return state.latent if name == "noise_lerp_fp32" else state.positions

    own = slice(0, 16 * 6)
    exact = with_behaviour("positions_fp32")
    assert not torch.equal(exact[:, :, own], plain.positions[:, :, own])
    assert torch.equal(exact[:, :, own].bfloat16().float(), plain.positions[:, :, own])
    short = with_behaviour("keyframe_spans_one_frame")
    assert torch.equal(short[:, :, own], plain.positions[:, :, own])
    assert (short[0, 0, -1, 1] - short[0, 0, -1, 0]).item() == pytest.approx(1 / 45)
    assert (plain.positions[0, 0, -1, 1] - plain.positions[0, 0, -1, 0]).item() == pytest.approx(8 / 45)
    lerped = with_behaviour("noise_lerp_fp32")
    assert not torch.equal(lerped, plain.latent)
    torch.testing.assert_close(lerped, plain.latent, rtol=2e-2, atol=2e-2)
