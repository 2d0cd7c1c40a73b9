"""Names of the checkpoint's tensors in diffusers 0.39.

Where its video VAE numbers its blocks differently, the rules follow from the list of blocks.

Source: the module trees of both packages; diffusers' own conversion script gives the same names for the 22B checkpoint.
"""

from collections.abc import Sequence
from typing import Final

from runners.errors import RunnerError
from runners.ltx23.video_vae_config import VaeBlock, VideoVaeConfig
from runners.renaming import UNREAD_STATISTICS, ComponentNames, Renaming, Rule

_NORMS: Final[tuple[Rule, ...]] = (("q_norm", "norm_q"), ("k_norm", "norm_k"))

_TRANSFORMER: Final[tuple[Rule, ...]] = (
    ("patchify_proj", "proj_in"),
    ("audio_patchify_proj", "audio_proj_in"),
    ("adaln_single", "time_embed"),
    ("audio_adaln_single", "audio_time_embed"),
    ("prompt_adaln_single", "prompt_adaln"),
    ("audio_prompt_adaln_single", "audio_prompt_adaln"),
    ("av_ca_video_scale_shift_adaln_single", "av_cross_attn_video_scale_shift"),
    ("av_ca_audio_scale_shift_adaln_single", "av_cross_attn_audio_scale_shift"),
    ("av_ca_a2v_gate_adaln_single", "av_cross_attn_video_a2v_gate"),
    ("av_ca_v2a_gate_adaln_single", "av_cross_attn_audio_v2a_gate"),
    ("scale_shift_table_a2v_ca_video", "video_a2v_cross_attn_scale_shift_table"),
    ("scale_shift_table_a2v_ca_audio", "audio_a2v_cross_attn_scale_shift_table"),
    *_NORMS,
)

_CONNECTOR_PREFIXES: Final[tuple[Rule, ...]] = (
    ("model.diffusion_model.video_embeddings_connector.", "video_connector."),
    ("model.diffusion_model.audio_embeddings_connector.", "audio_connector."),
    ("text_embedding_projection.video_aggregate_embed.", "video_text_proj_in."),
    ("text_embedding_projection.audio_aggregate_embed.", "audio_text_proj_in."),
)

# Gemma's own files, beside the single one. Its output head shares the embedding and is in no file.
GEMMA_PREFIXES: Final[tuple[Rule, ...]] = (
    ("language_model.model.", "model.language_model."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)

_VOCODER: Final[tuple[Rule, ...]] = (
    ("conv_pre", "conv_in"),
    ("ups", "upsamplers"),
    ("resblocks", "resnets"),
    ("act_post", "act_out"),
    ("conv_post", "conv_out"),
    ("downsample.lowpass", "downsample"),
)


def renaming_of(vae: VideoVaeConfig) -> Renaming:
    """The whole table for a checkpoint. Raises: RunnerError for a video VAE that diffusers cannot build."""
    components = (
        ComponentNames(component="transformer", prefixes=(("model.diffusion_model.", ""),), parts=_TRANSFORMER),
        ComponentNames(
            component="connectors",
            prefixes=_CONNECTOR_PREFIXES,
            parts=(("transformer_1d_blocks", "transformer_blocks"), *_NORMS),
        ),
        ComponentNames(
            component="vae",
            prefixes=(
                ("vae.encoder.", "encoder."),
                ("vae.decoder.", "decoder."),
                *_statistics("vae."),
                *_block_rules("encoder", vae.encoder_blocks),
                *_block_rules("decoder", tuple(reversed(vae.decoder_blocks))),
            ),
        ),
        ComponentNames(
            component="audio_vae",
            prefixes=(
                ("audio_vae.encoder.", "encoder."),
                ("audio_vae.decoder.", "decoder."),
                *_statistics("audio_vae."),
            ),
        ),
        ComponentNames(component="vocoder", prefixes=(("vocoder.", ""),), parts=_VOCODER),
    )
    return Renaming(engine="diffusers", components=components, dropped=UNREAD_STATISTICS)


# The table of the Gemma folder's tensors, whose class is transformers' own.
GEMMA: Final = Renaming(
    engine="transformers", components=(ComponentNames(component="text_encoder", prefixes=GEMMA_PREFIXES),)
)


def _statistics(prefix: str) -> tuple[Rule, ...]:
    return (
        (f"{prefix}per_channel_statistics.mean-of-means", "latents_mean"),
        (f"{prefix}per_channel_statistics.std-of-means", "latents_std"),
    )


def _block_rules(half: str, blocks: Sequence[VaeBlock]) -> tuple[Rule, ...]:
    """Rules for the numbered blocks of the video VAE, in the order they run.

    diffusers groups them: an encoder level is residual blocks and the compression after them, a decoder level is an
    expansion and the residual blocks after it; what is left over, last or first, is its middle.
    """
    there, resampling = ("down_blocks", "downsamplers") if half == "encoder" else ("up_blocks", "upsamplers")
    levels = sum(block.kind != "res_x" for block in blocks)
    rules = []
    compressions = 0
    for index, block in enumerate(blocks):
        here = f"vae.{half}.{there}.{index}."
        if block.kind != "res_x":
            rules.append((here, f"{half}.{there}.{compressions}.{resampling}.0."))
            compressions += 1
            continue
        if index and blocks[index - 1].kind == "res_x":
            raise RunnerError(f"Runner 'diffusers' cannot build vae.{half}_blocks with two res_x in a row.")
        level = compressions if half == "encoder" else compressions - 1
        middle = level == levels if half == "encoder" else level < 0
        place = f"{half}.mid_block." if middle else f"{half}.{there}.{level}."
        rules.append((f"{here}res_blocks.", f"{place}resnets."))
    return tuple(rules)
