"""Image conditioning: every picture of the request through the H.264 round trip and the video VAE's encoder."""

from pathlib import Path

from torch import Tensor

from runners.ltx23.image import load_picture
from runners.ltx23.stages.batch import Batch
from runners.ltx23.video_encoder import VideoEncoder
from runners.tap import tap


class ImageConditioningStage:
    """Fills in `image_latents`."""

    def __init__(self, encoder: VideoEncoder) -> None:
        self.encoder = encoder

    def forward(self, batch: Batch) -> Batch:
        """Encode the request's pictures; each gives (1, C, 1, H, W). Raises: MediaError for one that is no picture."""
        sampling, plan = batch.sampling, batch.plan
        batch.image_latents = []
        for index, image in enumerate(sampling.images):
            picture = load_picture(
                Path(image.path),
                image.crf,
                plan.height,
                plan.width,
                batch.config.dtype,
                batch.device,
                batch.config.reference.pictures_as_displayed,
            )
            latent: Tensor = self.encoder(picture)
            tap(f"image/{index}/latent", latent)
            batch.image_latents.append(latent)
        return batch
