"""Video decoding: the denoised latent to uint8 frames."""

import torch

from runners.ltx23.stages.batch import Batch, needed
from runners.ltx23.video_decoder import VideoDecoder
from runners.ltx23.video_tiling import decode_frames
from runners.tap import tap


class VideoDecodingStage:
    """Fills in `video_frames`."""

    def __init__(self, decoder: VideoDecoder) -> None:
        self.decoder = decoder

    def forward(self, batch: Batch) -> Batch:
        """Decode to uint8 (F, H, W, 3); the decoder's noise, where it has any, comes after all noise before it."""
        latent = needed(batch.video_latent, type(self).__name__, "video_latent")
        with batch.config.autocast(batch.device):
            frames = torch.cat(list(decode_frames(self.decoder, latent, None, batch.generator)))
        tap("decode/frames", frames)
        batch.video_frames = frames
        return batch
