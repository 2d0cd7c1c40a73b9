"""Video decoding of random latents against the official decoder."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.video_decoding import VideoDecodingStage
from runners.ltx23.video_decoder import VideoDecoder
from runners.tap import listening


def test_frames_have_the_official_bytes(models: SimpleNamespace, make_batch: Callable[..., Batch]) -> None:
    from ltx_core.model.video_vae import decode_video

    batch = make_batch(dtype=models.dtype)
    batch.video_latent = torch.randn(1, 128, 3, 2, 4, generator=torch.Generator().manual_seed(3)).to(models.dtype)
    heard: dict[str, torch.Tensor] = {}
    with listening(heard.__setitem__):
        VideoDecodingStage(models.native.build("video_decoder", VideoDecoder)).forward(batch)
    wanted = torch.cat(list(decode_video(batch.video_latent, models.official.video_decoder())))
    assert batch.video_frames is not None and batch.video_frames.dtype == torch.uint8
    assert batch.video_frames.shape == (17, 64, 128, 3)
    assert torch.equal(batch.video_frames, wanted)
    assert heard["decode/frames"] is batch.video_frames
    assert batch.video_frames.float().std() > 5


def test_without_a_latent_it_says_so(make_batch: Callable[..., Batch]) -> None:
    with pytest.raises(ValueError, match="VideoDecodingStage needs video_latent"):
        VideoDecodingStage(torch.nn.Identity()).forward(make_batch())  # type: ignore[arg-type]
