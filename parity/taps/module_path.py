"""The code that computes a tap, in the native model, in the official one and in diffusers, and which weights it reads.

A path is dotted, so that it can be opened: module, class, and the attribute that is called. The weights are named as in
the checkpoint; native and official keep those names. Official names: ltx-core and ltx-pipelines 1.0.0; diffusers 0.39.
"""

from dataclasses import dataclass
from typing import Final

from parity.taps.name import Place, place_of
from runners.ltx23.branches import BRANCHES

NATIVE_BLOCK: Final = "runners.ltx23.block.AudioVideoBlock"
OFFICIAL_BLOCK: Final = "ltx_core.model.transformer.transformer.BasicAVTransformerBlock"
_DIFFUSION: Final = "model.diffusion_model"


@dataclass(frozen=True, kw_only=True)
class ModulePath:
    """The code that computes a tap. `weights` is a prefix of checkpoint names, or empty where no weights take part."""

    native: str
    official: str
    weights: str = ""


_ELSEWHERE: Final = {
    "hidden": ModulePath(
        native="runners.ltx23.gemma.GemmaEncoder.forward",
        official="ltx_core.text_encoders.gemma.encoders.base_encoder.GemmaTextEncoder.encode",
        weights="language_model.model",
    ),
    "image": ModulePath(
        native="runners.ltx23.video_encoder.VideoEncoder.forward",
        official="ltx_core.model.video_vae.video_vae.VideoEncoder.forward",
        weights="vae.encoder",
    ),
    "init": ModulePath(
        native="runners.ltx23.stages.latent_preparation.LatentPreparationStage.forward",
        official="ltx_core.components.noisers.GaussianNoiser.__call__",
    ),
    "upsample": ModulePath(
        native="runners.ltx23.upsampler.upsample",
        official="ltx_core.model.upsampler.model.upsample_video",
        weights="the spatial upsampler's file",
    ),
    "guided": ModulePath(
        native="runners.ltx23.guidance.combine",
        official="ltx_core.components.guiders.MultiModalGuider.calculate",
    ),
    "latent": ModulePath(
        native="runners.ltx23.euler.euler_step",
        official="ltx_core.components.diffusion_steps.EulerDiffusionStep.step",
    ),
    "frames": ModulePath(
        native="runners.ltx23.video_tiling.decode_frames",
        official="ltx_core.model.video_vae.video_vae.decode_video",
        weights="vae.decoder",
    ),
    "mel": ModulePath(
        native="runners.ltx23.audio_decoder.AudioDecoder.forward",
        official="ltx_core.model.audio_vae.audio_vae.AudioDecoder.forward",
        weights="audio_vae.decoder",
    ),
    "waveform": ModulePath(
        native="runners.ltx23.vocoder.Vocoder.forward",
        official="ltx_core.model.audio_vae.vocoder.Vocoder.forward",
        weights="vocoder",
    ),
}


_PIPELINE: Final = "diffusers.pipelines.ltx2.pipeline_ltx2_image2video.LTX2ImageToVideoPipeline"
_DIFFUSERS_BLOCK: Final = "diffusers.models.transformers.transformer_ltx2.LTX2VideoTransformerBlock"
_DIFFUSERS: Final = {
    "hidden": f"{_PIPELINE}._get_gemma_prompt_embeds",
    "connector": "diffusers.pipelines.ltx2.connectors.LTX2TextConnectors.forward",
    "image": "diffusers.models.autoencoders.autoencoder_kl_ltx2.AutoencoderKLLTX2Video.encode",
    "init": f"{_PIPELINE}.prepare_latents",
    "x0": f"{_PIPELINE}.convert_velocity_to_x0",
    "upsample": "diffusers.pipelines.ltx2.pipeline_ltx2_latent_upsample.LTX2LatentUpsamplePipeline.__call__",
    "guided": f"{_PIPELINE}.__call__",
    "latent": "diffusers.schedulers.scheduling_flow_match_euler_discrete.FlowMatchEulerDiscreteScheduler.step",
    "frames": "diffusers.models.autoencoders.autoencoder_kl_ltx2.AutoencoderKLLTX2Video.decode",
    "mel": "diffusers.models.autoencoders.autoencoder_kl_ltx2_audio.AutoencoderKLLTX2Audio.decode",
    "waveform": "diffusers.pipelines.ltx2.vocoder.LTX2VocoderWithBWE.forward",
    "out": f"{_DIFFUSERS_BLOCK}.forward",
}


def diffusers_path(tap: str) -> str:
    """The code in diffusers that computes a tap. Raises: RunError for a name that is no tap's."""
    place = place_of(tap)
    if (branch := (place.stream or "", place.part)) in BRANCHES:
        return f"{_DIFFUSERS_BLOCK}.{BRANCHES[branch]}"
    if place == place_of("init/audio"):
        return f"{_PIPELINE}.prepare_audio_latents"
    return _DIFFUSERS[place.part]


def module_path(tap: str) -> ModulePath:
    """The code that computes a tap. Raises: RunError for a name that is no tap's."""
    place = place_of(tap)
    if place.block is not None:
        return _of_block(place)
    if place.part == "connector":
        return ModulePath(
            native="runners.ltx23.connectors.TextConnectors.forward",
            official="ltx_core.text_encoders.gemma.embeddings_processor.EmbeddingsProcessor.process_hidden_states",
            weights=f"{_DIFFUSION}.{place.stream}_embeddings_connector",
        )
    if place.part == "x0":
        return ModulePath(
            native="runners.ltx23.transformer.Transformer.forward",
            official="ltx_core.model.transformer.model.X0Model.forward",
            weights=f"{_DIFFUSION}.{'audio_' if place.stream == 'audio' else ''}proj_out",
        )
    return _ELSEWHERE[place.part]


def _of_block(place: Place) -> ModulePath:
    weights = f"{_DIFFUSION}.transformer_blocks.{place.block}"
    if place.part == "out":
        return ModulePath(native=f"{NATIVE_BLOCK}.forward", official=f"{OFFICIAL_BLOCK}.forward", weights=weights)
    name = BRANCHES[place.stream or "", place.part]
    return ModulePath(native=f"{NATIVE_BLOCK}.{name}", official=f"{OFFICIAL_BLOCK}.{name}", weights=f"{weights}.{name}")
