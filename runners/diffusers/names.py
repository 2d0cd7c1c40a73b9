"""Names of the checkpoint's tensors in diffusers 0.39, both ways: the one renaming table of this project.

Values are never changed, so a name says all of a conversion. A rule is a pair (checkpoint side, diffusers side). The
longest matching prefix is replaced first, then whole dotted parts of the rest; read right to left, the same rules lead
back. Where the video VAE numbers its blocks differently, the rules follow from the list of blocks.

Source: the module trees of both packages; diffusers' own conversion script gives the same names for the 22B checkpoint.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from runners.errors import CheckpointError, RunnerError
from runners.ltx23.video_vae_config import VaeBlock, VideoVaeConfig

Rule = tuple[str, str]

LISTED: Final = 10  # offending names in an error

# What official files hold and diffusers has no place for.
DROPPED: Final = (
    re.compile(r"vae\.per_channel_statistics\.(channel|mean-of-stds.*)"),  # statistics that normalizing does not read
)

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


@dataclass(frozen=True, kw_only=True)
class ComponentNames:
    """The rules of one diffusers component."""

    component: str
    prefixes: tuple[Rule, ...]
    parts: tuple[Rule, ...] = ()

    def to_diffusers(self, name: str) -> str | None:
        """A checkpoint name as a key of the component; None if it is another component's."""
        return _renamed(name, self.prefixes, self.parts)

    def to_checkpoint(self, key: str) -> str | None:
        """A key of the component as a checkpoint name; None if no rule fits."""
        return _renamed(key, [(b, a) for a, b in self.prefixes], [(b, a) for a, b in self.parts])


def name_tables(vae: VideoVaeConfig) -> tuple[ComponentNames, ...]:
    """The whole table for a checkpoint. Raises: RunnerError for a video VAE that diffusers cannot build."""
    return (
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


def gemma_table() -> ComponentNames:
    """The table of the Gemma folder's tensors, whose class is transformers' own."""
    return ComponentNames(component="text_encoder", prefixes=GEMMA_PREFIXES)


def diffusers_name(tables: Iterable[ComponentNames], name: str) -> tuple[str, str]:
    """Component and key of a checkpoint name; a more specific prefix of another component goes before.

    Raises: CheckpointError if no component has it.
    """
    fitting = [(_prefix_length(table, name), table) for table in tables]
    length, table = max(fitting, key=lambda found: found[0])
    key = table.to_diffusers(name) if length else None
    if key is None:
        raise CheckpointError(f"Tensor {name!r} has no place in diffusers; take a text-and-image-to-video checkpoint.")
    return table.component, key


def keys_by_component(tables: Sequence[ComponentNames], names: Iterable[str]) -> dict[str, dict[str, str]]:
    """For each component its keys, each with the checkpoint name that fills it.

    Raises: CheckpointError for a name without a place, two names for one place, or a name that does not lead back.
    """
    found: dict[str, dict[str, str]] = {table.component: {} for table in tables}
    back = {table.component: table for table in tables}
    for name in names:
        if any(pattern.fullmatch(name) for pattern in DROPPED):
            continue
        component, key = diffusers_name(tables, name)
        if key in found[component]:
            raise CheckpointError(f"Tensors {found[component][key]!r} and {name!r} are both {component} {key!r}.")
        if back[component].to_checkpoint(key) != name:
            raise CheckpointError(f"Tensor {name!r} becomes {component} {key!r}, which does not lead back to it.")
        found[component][key] = name
    return found


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


def _prefix_length(table: ComponentNames, name: str) -> int:
    return max((len(prefix) for prefix, _ in table.prefixes if name.startswith(prefix)), default=0)


def _renamed(name: str, prefixes: Iterable[Rule], parts: Sequence[Rule]) -> str | None:
    fitting = [rule for rule in prefixes if name.startswith(rule[0])]
    if not fitting:
        return None
    old, new = max(fitting, key=lambda rule: len(rule[0]))
    rest = name.removeprefix(old)
    if parts:
        table = dict(parts)
        longest_first = "|".join(re.escape(part) for part in sorted(table, key=len, reverse=True))
        rest = re.sub(rf"(?<![^.])({longest_first})(?![^.])", lambda match: table[match[1]], rest)
    return new + rest
