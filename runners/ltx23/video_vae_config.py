"""Configuration of the video VAE, read from the `vae` section of a checkpoint's configuration and checked at once.

A block list describes each half of the VAE. `encoder_stages` and `decoder_stages` walk it and say what every block
receives and gives, so a list whose channels do not fit is refused here, not in the middle of a decode. Keys and block
options that the reference does not read, such as `encoder_base_channels`, are passed over as the reference does.

Axes: B clip, C channel, F frame, H height, W width. Strides and scales are ordered (F, H, W).
Source: ltx_core.model.video_vae.model_configurator and .video_vae 1.0.0 (defaults, block kinds, channel rules).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from runners.errors import ConfigError
from runners.ltx23.config_section import Bounds, Key, Section, checked, require_neutral, required_section

Padding = Literal["zeros", "reflect", "replicate", "circular"]
Normalization = Literal["pixel_norm", "group_norm"]
LatentLogVariance = Literal["uniform", "per_channel", "constant", "none"]
Option = int | bool

NORM_GROUPS = 32  # groups of every group norm, fixed in the reference
BOTTLENECK_RATIO = 8  # the decoder starts with this many times `decoder_base_channels`, whatever its blocks

# What each kind of block reads, with the reference's defaults; None marks an option that must be given.
_ENCODER_OPTIONS: dict[str, dict[str, Option | None]] = {
    "res_x": {"num_layers": None},
    "res_x_y": {"multiplier": 2},
    "compress_time": {},
    "compress_space": {},
    "compress_all": {},
    "compress_all_x_y": {"multiplier": 2},
    "compress_time_res": {"multiplier": 2},
    "compress_space_res": {"multiplier": 2},
    "compress_all_res": {"multiplier": 2},
}
_DECODER_OPTIONS: dict[str, dict[str, Option | None]] = {
    "res_x": {"num_layers": None, "inject_noise": False},
    "res_x_y": {"multiplier": 2, "inject_noise": False},
    "compress_time": {"multiplier": 1},
    "compress_space": {"multiplier": 1},
    "compress_all": {"multiplier": 1, "residual": False},
}
# What names the architecture in some files and configures nothing.
_NEUTRAL: dict[str, object] = {"_class_name": "CausalVideoAutoencoder", "dims": 3}


@dataclass(frozen=True, kw_only=True)
class VaeBlock(Section):
    """One entry of a block list, with defaults filled in; options that its kind does not read keep their neutral."""

    kind: str
    num_layers: Annotated[int, Bounds(0, 100)] = 1
    multiplier: int = 1
    inject_noise: bool = False
    residual: bool = False

    @property
    def stride(self) -> tuple[int, int, int]:
        """(F, H, W) factors by which this block shrinks (encoder) or grows (decoder) its input."""
        if self.kind.startswith("compress_time"):
            return (2, 1, 1)
        if self.kind.startswith("compress_space"):
            return (1, 2, 2)
        if self.kind.startswith("compress_all"):
            return (2, 2, 2)
        return (1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class VaeStage:
    """A block at its place: how many channels C reach it and how many leave it."""

    block: VaeBlock
    in_channels: int
    out_channels: int


@dataclass(frozen=True, kw_only=True)
class VideoVaeConfig(Section):
    """Shape and behaviour of video encoder and decoder. Build it with `from_checkpoint`."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 128
    patch_size: int = 4  # pixels along H and along W that become channels
    norm_layer: Normalization = "pixel_norm"
    latent_log_var: LatentLogVariance = "uniform"
    causal_decoder: bool = False
    timestep_conditioning: bool = True
    decoder_base_channels: int = 128
    encoder_padding: Annotated[Padding, Key("spatial_padding_mode")] = "zeros"
    # The reference's default for a file that is silent; 2.3 says zeros for both.
    decoder_padding: Annotated[Padding, Key("spatial_padding_mode")] = "reflect"
    encoder_blocks: tuple[VaeBlock, ...] = ()
    decoder_blocks: tuple[VaeBlock, ...] = ()  # in the file's order: pixel end first

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder_blocks:  # a file may carry one half only
            self.encoder_stages()
        if self.decoder_blocks:
            self.decoder_stages()

    @classmethod
    def from_checkpoint(cls, config: Mapping[str, object]) -> Self:
        """Read a checkpoint's whole configuration (the JSON of its `config` metadata); absent keys take the defaults.

        Raises: ConfigError for a block kind or value that the reference does not support.
        """
        values = required_section(config, "vae")
        require_neutral("vae", values, _NEUTRAL)
        return cls.read(
            "vae",
            values,
            encoder_blocks=_read_blocks("vae.encoder_blocks", values.get("encoder_blocks", ()), _ENCODER_OPTIONS),
            decoder_blocks=_read_blocks("vae.decoder_blocks", values.get("decoder_blocks", ()), _DECODER_OPTIONS),
        )

    def encoder_stages(self) -> tuple[VaeStage, ...]:
        """Encoder blocks from pixels to latent, with their channels. Raises: ConfigError where channels do not fit."""
        channels = self.latent_channels
        stages = []
        for block in self.encoder_blocks:
            stage = VaeStage(block=block, in_channels=channels, out_channels=channels * block.multiplier)
            cells = math.prod(block.stride)
            if block.kind.endswith("_res") and (cells % block.multiplier or stage.out_channels % cells):
                raise ConfigError(
                    f"Encoder block {block.kind} folds {cells} cells into one: its multiplier {block.multiplier} must "
                    f"divide {cells}, and {cells} must divide its {stage.out_channels} output channels."
                )
            checked(f"vae.encoder_blocks: the width after {block.kind}", int, stage.out_channels)
            stages.append(stage)
            channels = stage.out_channels
        self._check_groups("encoder", stages, channels)
        return tuple(stages)

    def decoder_stages(self) -> tuple[VaeStage, ...]:
        """Decoder blocks from latent to pixels, with their channels. Raises: ConfigError where channels do not fit."""
        channels = self.decoder_base_channels * BOTTLENECK_RATIO
        stages = []
        for block in reversed(self.decoder_blocks):
            if channels % block.multiplier:
                raise ConfigError(
                    f"Decoder block {block.kind} divides its {channels} channels by multiplier {block.multiplier}, "
                    "which leaves a rest; check vae.decoder_base_channels and vae.decoder_blocks."
                )
            cells = math.prod(block.stride)
            if block.residual and (channels % cells or cells % block.multiplier):
                raise ConfigError(
                    f"Decoder block {block.kind} with residual unfolds {cells} cells: {cells} must divide its "
                    f"{channels} channels, and its multiplier {block.multiplier} must divide {cells}."
                )
            if block.kind == "res_x_y" and block.inject_noise and block.multiplier != 1:
                raise ConfigError(
                    "Decoder block res_x_y with inject_noise keeps one noise scale per input channel, so it cannot "
                    f"change their number; got multiplier {block.multiplier}, wanted 1."
                )
            stage = VaeStage(block=block, in_channels=channels, out_channels=channels // block.multiplier)
            stages.append(stage)
            channels = stage.out_channels
        self._check_groups("decoder", stages, channels)
        return tuple(stages)

    def decoder_scale(self) -> tuple[int, int, int]:
        """(F, H, W) growth from latent cells to pixels; the first latent frame stands for one frame only."""
        strides = [block.stride for block in self.decoder_blocks]
        frames, height, width = (math.prod(stride[axis] for stride in strides) for axis in range(3))
        return frames, height * self.patch_size, width * self.patch_size

    def _check_groups(self, half: str, stages: Sequence[VaeStage], last_channels: int) -> None:
        if self.norm_layer != "group_norm":
            return
        residual_blocks = [stage for stage in stages if stage.block.kind in ("res_x", "res_x_y")]
        widths = {stage.in_channels for stage in residual_blocks} | {stage.out_channels for stage in residual_blocks}
        for channels in sorted(widths | {last_channels}):
            if channels % NORM_GROUPS:
                raise ConfigError(
                    f"group_norm wants channels divisible by {NORM_GROUPS}; the {half} has a block with {channels}."
                )


def _read_blocks(name: str, value: object, options: Mapping[str, Mapping[str, Option | None]]) -> tuple[VaeBlock, ...]:
    """A block list as JSON gives it: pairs of a kind and either a count of layers or a table of options."""
    entries = checked(name, tuple[object, ...], value)
    blocks = []
    for index, entry in enumerate(entries):
        place = f"{name}[{index}]"
        kind, given = checked(place, Annotated[tuple[object, ...], Bounds(2, 2)], entry)
        if not isinstance(kind, str) or kind not in options:
            raise ConfigError(f"{place} has block kind {kind!r}; the reference runs {', '.join(options)}.")
        if type(given) is int:  # shorthand of older files: a count of layers, without meaning for other kinds
            given = {"num_layers": given} if "num_layers" in options[kind] else {}
        if not isinstance(given, Mapping):
            raise ConfigError(f"{place} ({kind}) wants a table of options or a count of layers; got {given!r}.")
        read = {key: given.get(key, default) for key, default in options[kind].items()}
        blocks.append(VaeBlock.read(f"{place} ({kind})", read, kind=kind))
    return tuple(blocks)
