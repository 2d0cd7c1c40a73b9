"""Names of the checkpoint's tensors in the folders that SGLang 0.5.23 loads its components from.

Its transformer, video decoder, audio VAE and vocoder keep the official names; its connectors have diffusers' names. The
encoder of the video VAE is a component of its own, which SGLang looks for in a folder beside the decoder's file.

Source: the module trees of the package.
"""

from typing import Final

from runners.renaming import UNREAD_STATISTICS, ComponentNames, Renaming

IMAGE_ENCODER: Final = "vae/image_encoder"  # the folder below `vae` is named in that component's configuration

RENAMING: Final = Renaming(
    engine="SGLang",
    components=(
        ComponentNames(component="transformer", prefixes=(("model.diffusion_model.", ""),)),
        ComponentNames(
            component="connectors",
            prefixes=(
                ("model.diffusion_model.video_embeddings_connector.", "video_connector."),
                ("model.diffusion_model.audio_embeddings_connector.", "audio_connector."),
                ("text_embedding_projection.video_aggregate_embed.", "video_aggregate_embed."),
                ("text_embedding_projection.audio_aggregate_embed.", "audio_aggregate_embed."),
            ),
            parts=(("transformer_1d_blocks", "transformer_blocks"), ("q_norm", "norm_q"), ("k_norm", "norm_k")),
        ),
        ComponentNames(component=IMAGE_ENCODER, prefixes=(("vae.encoder.", ""),)),
        ComponentNames(
            component="vae",
            prefixes=(
                ("vae.decoder.", "decoder."),
                ("vae.per_channel_statistics.mean-of-means", "decoder.per_channel_statistics.mean_of_means"),
                ("vae.per_channel_statistics.std-of-means", "decoder.per_channel_statistics.std_of_means"),
            ),
        ),
        ComponentNames(
            component="audio_vae",
            prefixes=(
                ("audio_vae.encoder.", "encoder."),
                ("audio_vae.decoder.", "decoder."),
                ("audio_vae.per_channel_statistics.mean-of-means", "latents_mean"),
                ("audio_vae.per_channel_statistics.std-of-means", "latents_std"),
            ),
        ),
        ComponentNames(component="vocoder", prefixes=(("vocoder.", ""),)),
    ),
    dropped=UNREAD_STATISTICS,
)

# Statistics of the video latent that SGLang wants in further places: checkpoint name -> component and key.
COPIES: Final[tuple[tuple[str, str, str], ...]] = (
    ("vae.per_channel_statistics.mean-of-means", "vae", "latents_mean"),
    ("vae.per_channel_statistics.std-of-means", "vae", "latents_std"),
    ("vae.per_channel_statistics.mean-of-means", IMAGE_ENCODER, "per_channel_statistics.mean-of-means"),
    ("vae.per_channel_statistics.std-of-means", IMAGE_ENCODER, "per_channel_statistics.std-of-means"),
)
