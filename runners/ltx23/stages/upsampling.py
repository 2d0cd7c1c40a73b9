"""Upsampling between two stages: the first one's video at twice the height and width, for the second to begin with."""

from runners.ltx23.stages.batch import Batch, needed
from runners.ltx23.upsampler import Upsampler, upsample
from runners.ltx23.video_vae_statistics import PerChannelStatistics
from runners.tap import tap


class UpsamplingStage:
    """Fills in `initial_video` and `initial_audio`."""

    def __init__(self, upsampler: Upsampler, statistics: PerChannelStatistics) -> None:
        self.upsampler = upsampler
        self.statistics = statistics

    def forward(self, batch: Batch) -> Batch:
        """Enlarge the video; sound goes on as it is. Raises: StageInputError if a stage before was left out."""
        latent = needed(batch.video_latent, type(self).__name__, "video_latent")
        batch.initial_video = upsample(latent, self.upsampler, self.statistics)
        tap("upsample/latent", batch.initial_video)
        batch.initial_audio = needed(batch.audio_latent, type(self).__name__, "audio_latent")
        return batch
