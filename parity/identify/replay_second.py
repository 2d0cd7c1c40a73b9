"""The second stage of a run replayed at a setting, from the first one's latents on, as `runners.ltx23.pipeline` goes.

Axes: B sample, C channel, F frame, H height, W width, T token, M mel bin.
"""

from collections.abc import Callable

from torch import Tensor

from runners.ltx23.pipeline import ModelComponents
from runners.ltx23.stages.batch import Batch, needed
from runners.ltx23.stages.denoising import DenoisingStage
from runners.ltx23.stages.image_conditioning import ImageConditioningStage
from runners.ltx23.stages.latent_preparation import LatentPreparationStage
from runners.ltx23.stages.upsampling import UpsamplingStage
from runners.ltx23.transformer import Transformer
from runners.ltx23.video_encoder import VideoEncoder
from runners.tap import scope


def second_stage(
    batch: Batch, components: ModelComponents, make_transformer: Callable[[], Transformer]
) -> tuple[Tensor, Tensor]:
    """Upsample, prepare and denoise.

    Args:
        batch: with the first stage's latents, its generator where its noise left it, and the text.
        components: to build the parts from.
        make_transformer: loads that of the second stage.
    Returns: the latents that are decoded: video (B, C, F, H, W) and audio (B, C, T, M).
    """
    sound = needed(batch.audio_latent, "second_stage", "audio_latent")
    UpsamplingStage(components.upsampler(), components.statistics()).forward(batch)
    batch.stage = 1
    with scope(batch.plan.scope):
        if batch.sampling.images:
            ImageConditioningStage(components.build("video_encoder", VideoEncoder)).forward(batch)
        LatentPreparationStage().forward(batch)
        DenoisingStage(make_transformer()).forward(batch)
    video, audio = (needed(x, "second_stage", "latents") for x in (batch.video_latent, batch.audio_latent))
    moved = batch.sampling.kind.sound_moved and batch.config.reference.sound_of_first_stage
    return video, sound if moved else audio
