"""The parts that a checkpoint's single file holds, built from its configuration: one list, to load and to forge."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from runners.ltx23.audio_decoder import AudioDecoder
from runners.ltx23.audio_vae_config import AudioVaeConfig
from runners.ltx23.bandwidth_extension import vocoder_from_config
from runners.ltx23.config_section import required_section
from runners.ltx23.connectors import TextConnectors
from runners.ltx23.transformer import Transformer
from runners.ltx23.transformer_config import TextConnectorsConfig, TransformerConfig
from runners.ltx23.video_decoder import VideoDecoder
from runners.ltx23.video_encoder import VideoEncoder
from runners.ltx23.video_vae_config import VideoVaeConfig
from runners.releases import ReleaseBehaviours


def model_parts(
    config: Mapping[str, Any], *, hidden_width: int, num_hidden_states: int, reference: ReleaseBehaviours
) -> dict[str, Callable[[], nn.Module]]:
    """Makers of every part, by name; call one under `runners.laid_out.laid_out` for its names and shapes alone.

    Args:
        config: the checkpoint's whole configuration.
        hidden_width: width of the language model.
        num_hidden_states: its layers and its embedding.
        reference: the release to follow.
    Raises: ConfigError for a configuration that is not LTX-2.3's or cannot be honoured.
    """
    audio_vae, vocoder = required_section(config, "audio_vae"), required_section(config, "vocoder")
    connectors = TextConnectorsConfig.from_dict(config, hidden_width=hidden_width, num_hidden_states=num_hidden_states)
    vae = VideoVaeConfig.from_checkpoint(config)
    return {
        "transformer": partial(Transformer, TransformerConfig.from_dict(config), reference),
        "connectors": partial(TextConnectors, connectors),
        "video_encoder": partial(VideoEncoder, vae),
        "video_decoder": partial(VideoDecoder, vae, reference),
        "audio_decoder": partial(AudioDecoder, AudioVaeConfig.from_dict(audio_vae)),
        "vocoder": partial(vocoder_from_config, vocoder, reference),
    }
