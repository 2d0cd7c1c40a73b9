"""Image conditioning: latents of real photographs against the official ones."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from runners.errors import MediaError
from runners.ltx23.stages.batch import Batch
from runners.ltx23.stages.image_conditioning import ImageConditioningStage
from runners.ltx23.video_encoder import VideoEncoder
from runners.tap import listening

TWO = {
    "request.images": [
        {"path": "astronaut.png", "frame_idx": 5, "crf": 20},
        {"path": "coffee.jpg", "strength": 0.5, "crf": 0},
    ]
}


def test_every_picture_has_the_official_latent(
    models: SimpleNamespace, make_batch: Callable[..., Batch], pictures: Path
) -> None:
    from ltx_pipelines.utils.args import ImageConditioningInput
    from ltx_pipelines.utils.helpers import combined_image_conditionings

    batch = make_batch(TWO, models.dtype)
    heard: dict[str, torch.Tensor] = {}
    with listening(heard.__setitem__):
        ImageConditioningStage(models.native.build("video_encoder", VideoEncoder)).forward(batch)
    official = combined_image_conditionings(
        [
            ImageConditioningInput(str(pictures / "astronaut.png"), 5, 1.0, 20),
            ImageConditioningInput(str(pictures / "coffee.jpg"), 0, 0.5, 0),
        ],
        height=64,
        width=96,
        video_encoder=models.official.video_encoder(),
        dtype=models.dtype,
        device=torch.device("cpu"),
    )
    assert len(batch.image_latents) == 2
    assert torch.equal(batch.image_latents[0], official[0].keyframes)
    assert torch.equal(batch.image_latents[1], official[1].latent)
    assert batch.image_latents[0].shape == (1, 128, 1, 2, 3) and batch.image_latents[0].dtype == models.dtype
    assert heard["image/1/latent"] is batch.image_latents[1]


def test_a_file_that_is_no_picture_is_refused(make_batch: Callable[..., Batch], pictures: Path) -> None:
    (pictures / "text.png").write_text("no picture")
    batch = make_batch({"request.images": [{"path": "text.png"}]})
    encoder = torch.nn.Identity()
    with pytest.raises(MediaError, match=r"text.png cannot be decoded"):
        ImageConditioningStage(encoder).forward(batch)  # type: ignore[arg-type]
