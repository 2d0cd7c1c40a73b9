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
from typing import Literal, Self, cast, get_args

from runners.errors import ConfigError

Padding = Literal["zeros", "reflect", "replicate", "circular"]
Normalization = Literal["pixel_norm", "group_norm"]
LatentLogVariance = Literal["uniform", "per_channel", "constant", "none"]
Option = int | bool

NORM_GROUPS = 32  # groups of every group norm, fixed in the reference
BOTTLENECK_RATIO = 8  # the decoder starts with this many times `decoder_base_channels`, whatever its blocks

# A stranger's file may claim any size; these keep the outline, built before the tensors are checked, finite.
MOST_LAYERS = 100  # of a block, and blocks of a list
MOST_CHANNELS = 1 << 20

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
_IDENTITY_KEYS = {"_class_name": "CausalVideoAutoencoder"}  # name the architecture in some files, configure nothing


@dataclass(frozen=True, kw_only=True)
class VaeBlock:
    """One entry of a block list, with defaults filled in; options that its kind does not read keep their neutral."""

    kind: str
    num_layers: int = 1
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
class VideoVaeConfig:
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
    encoder_padding: Padding = "zeros"
    decoder_padding: Padding = "reflect"  # the reference's default for a file that is silent; 2.3 says zeros for both
    encoder_blocks: tuple[VaeBlock, ...] = ()
    decoder_blocks: tuple[VaeBlock, ...] = ()  # in the file's order: pixel end first

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "latent_channels", "patch_size", "decoder_base_channels"):
            if not 1 <= getattr(self, name) <= MOST_CHANNELS:
                raise ConfigError(f"The video VAE wants {name} from 1 to {MOST_CHANNELS}; got {getattr(self, name)}.")
        for name, allowed in (
            ("norm_layer", get_args(Normalization)),
            ("latent_log_var", get_args(LatentLogVariance)),
            ("encoder_padding", get_args(Padding)),
            ("decoder_padding", get_args(Padding)),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"The video VAE supports {name} {', '.join(allowed)}; got {getattr(self, name)!r}. "
                    "Check the `vae` section of the checkpoint's configuration."
                )
        if self.encoder_blocks:  # a file may carry one half only
            self.encoder_stages()
        if self.decoder_blocks:
            self.decoder_stages()

    @classmethod
    def from_checkpoint(cls, config: Mapping[str, object]) -> Self:
        """Read a checkpoint's whole configuration (the JSON of its `config` metadata); absent keys take the defaults.

        Raises: ConfigError for a block kind or value that the reference does not support.
        """
        section = config.get("vae")
        if not isinstance(section, Mapping):
            raise ConfigError(
                f"The checkpoint's configuration has no `vae` section but {sorted(config)}; "
                "load a full LTX-2.3 checkpoint."
            )
        values: dict[str, object] = {str(key): value for key, value in section.items()}
        for key, wanted in _IDENTITY_KEYS.items():
            if values.pop(key, wanted) != wanted:
                raise ConfigError(
                    f"The video VAE is a {wanted}; got vae.{key} = {section[key]!r}, another architecture."
                )
        if values.pop("dims", 3) != 3:
            raise ConfigError(f"The video VAE convolves over 3 dimensions; got vae.dims = {section['dims']!r}.")
        encoder_padding = values.get("spatial_padding_mode", cls.encoder_padding)
        decoder_padding = values.pop("spatial_padding_mode", cls.decoder_padding)
        encoder_blocks = _read_blocks("vae.encoder_blocks", values.pop("encoder_blocks", ()), _ENCODER_OPTIONS)
        decoder_blocks = _read_blocks("vae.decoder_blocks", values.pop("decoder_blocks", ()), _DECODER_OPTIONS)
        numbers = ("in_channels", "out_channels", "latent_channels", "patch_size", "decoder_base_channels")
        flags = ("causal_decoder", "timestep_conditioning")
        for name in numbers:
            _require(f"vae.{name}", values.get(name, getattr(cls, name)), int)
        for name in flags:
            _require(f"vae.{name}", values.get(name, getattr(cls, name)), bool)
        return cls(
            in_channels=cast(int, values.get("in_channels", cls.in_channels)),
            out_channels=cast(int, values.get("out_channels", cls.out_channels)),
            latent_channels=cast(int, values.get("latent_channels", cls.latent_channels)),
            patch_size=cast(int, values.get("patch_size", cls.patch_size)),
            norm_layer=cast(Normalization, values.get("norm_layer", cls.norm_layer)),
            latent_log_var=cast(LatentLogVariance, values.get("latent_log_var", cls.latent_log_var)),
            causal_decoder=cast(bool, values.get("causal_decoder", cls.causal_decoder)),
            timestep_conditioning=cast(bool, values.get("timestep_conditioning", cls.timestep_conditioning)),
            decoder_base_channels=cast(int, values.get("decoder_base_channels", cls.decoder_base_channels)),
            encoder_padding=cast(Padding, encoder_padding),
            decoder_padding=cast(Padding, decoder_padding),
            encoder_blocks=encoder_blocks,
            decoder_blocks=decoder_blocks,
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
            if stage.out_channels > MOST_CHANNELS:
                raise ConfigError(
                    f"Encoder block {block.kind} gives {stage.out_channels} channels; at most {MOST_CHANNELS} are "
                    "supported. Check the multipliers of vae.encoder_blocks."
                )
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


def _require(name: str, value: object, kind: type) -> None:
    if type(value) is not kind:  # a bool is an int to isinstance, and no size
        raise ConfigError(f"{name} wants {kind.__name__}; got {value!r}.")


def _read_blocks(name: str, value: object, options: Mapping[str, Mapping[str, Option | None]]) -> tuple[VaeBlock, ...]:
    """A block list as JSON gives it: pairs of a kind and either a count of layers or a table of options."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ConfigError(f"{name} wants a list of [kind, options]; got {value!r}.")
    if len(value) > MOST_LAYERS:
        raise ConfigError(f"{name} has {len(value)} blocks; at most {MOST_LAYERS} are supported.")
    blocks = []
    for index, entry in enumerate(value):
        place = f"{name}[{index}]"
        if not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) != 2:
            raise ConfigError(f"{place} wants [kind, options]; got {entry!r}.")
        kind, given = entry
        if not isinstance(kind, str) or kind not in options:
            raise ConfigError(f"{place} has block kind {kind!r}; the reference runs {', '.join(options)}.")
        if type(given) is int:  # shorthand of older files: a count of layers, without meaning for other kinds
            given = {"num_layers": given} if "num_layers" in options[kind] else {}
        if not isinstance(given, Mapping):
            raise ConfigError(f"{place} ({kind}) wants a table of options or a count of layers; got {given!r}.")
        blocks.append(_read_block(place, kind, given, options[kind]))
    return tuple(blocks)


def _read_block(place: str, kind: str, given: Mapping[str, object], known: Mapping[str, Option | None]) -> VaeBlock:
    merged = {**known, **{key: value for key, value in given.items() if key in known}}
    for option, least, most in (("num_layers", 0, MOST_LAYERS), ("multiplier", 1, MOST_CHANNELS)):
        number = merged.get(option, least)
        if type(number) is not int or not least <= number <= most:
            raise ConfigError(f"{place} ({kind}) wants {option}, an int from {least} to {most}; got {number!r}.")
    for option in ("inject_noise", "residual"):
        _require(f"{place} ({kind}) {option}", merged.get(option, False), bool)
    return VaeBlock(
        kind=kind,
        num_layers=cast(int, merged.get("num_layers", VaeBlock.num_layers)),
        multiplier=cast(int, merged.get("multiplier", VaeBlock.multiplier)),
        inject_noise=bool(merged.get("inject_noise", False)),
        residual=bool(merged.get("residual", False)),
    )
