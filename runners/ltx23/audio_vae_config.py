"""Sizes of the audio VAE decoder, read from the checkpoint's `audio_vae` configuration section.

Source: ltx_core.model.audio_vae.model_configurator.AudioDecoderConfigurator 1.0.0, whose defaults for absent keys these
are. Keys that the decoder does not read (encoder sizes, dropout, sampling rate) are left to their own readers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runners.errors import ConfigError

NORM_TYPES = ("pixel", "group")
CAUSALITY_AXES = (None, "height", "width", "width-compatibility")
GROUP_COUNT = 32  # groups of every group normalization
MOST_LAYERS = 100  # of a level, and levels; with MOST it keeps the outline finite whatever a stranger's file claims
MOST = 1 << 20  # of any other size


@dataclass(frozen=True, kw_only=True)
class AudioVaeConfig:
    """Shape of the decoder that turns audio latents into a mel spectrogram. Height is time, width is mel frequency."""

    ch: int = 128  # channels at the finest level; also the length of the latent statistics (latent channels x bins)
    out_ch: int = 2  # audio channels of the spectrogram
    ch_mult: tuple[int, ...] = (1, 2, 4)  # width of each level relative to `ch`, finest level first
    num_res_blocks: int = 2  # the decoder has one more in each level
    attn_resolutions: frozenset[int] = frozenset({8, 16, 32})  # nominal resolutions of levels that attend
    resolution: int = 256  # nominal resolution of the finest level; halves with each coarser one
    z_channels: int = 8  # latent channels
    norm_type: str = "pixel"
    causality_axis: str | None = "height"
    mid_block_add_attention: bool = True
    mel_bins: int | None = None  # bins of the result; None keeps the latent's own count

    def __post_init__(self) -> None:
        for name in ("ch", "out_ch", "resolution", "z_channels"):
            _require_whole(name, getattr(self, name), at_least=1)
        _require_whole("num_res_blocks", self.num_res_blocks, at_least=0, at_most=MOST_LAYERS)
        if not 0 < len(self.ch_mult) <= MOST_LAYERS:
            raise ConfigError(
                f"audio_vae ch_mult has {len(self.ch_mult)} entries; the decoder wants one multiplier for each level, "
                f"and at most {MOST_LAYERS}."
            )
        for multiplier in self.ch_mult:
            _require_whole("ch_mult", multiplier, at_least=1)
        for resolution in self.attn_resolutions:
            _require_whole("attn_resolutions", resolution, at_least=1)
        if self.mel_bins is not None:
            _require_whole("mel_bins", self.mel_bins, at_least=1)
        if not isinstance(self.mid_block_add_attention, bool):
            raise ConfigError(f"audio_vae mid_block_add_attention is {self.mid_block_add_attention!r}; true or false.")
        if self.norm_type not in NORM_TYPES:
            raise ConfigError(f"audio_vae norm_type is {self.norm_type!r}; known are {', '.join(NORM_TYPES)}.")
        if self.causality_axis not in CAUSALITY_AXES:
            known = ", ".join(str(axis) for axis in CAUSALITY_AXES)
            raise ConfigError(f"audio_vae causality_axis is {self.causality_axis!r}; known are {known}.")
        if self.norm_type == "group":
            self._require_groups()

    def _require_groups(self) -> None:
        if self.causality_axis is not None:
            raise ConfigError(
                f"audio_vae norm_type 'group' looks at all times, so it contradicts causality_axis "
                f"{self.causality_axis!r}; use norm_type 'pixel' or causality_axis null."
            )
        widths = [self.ch * multiplier for multiplier in self.ch_mult]
        if any(width % GROUP_COUNT for width in widths):
            raise ConfigError(
                f"audio_vae norm_type 'group' wants widths (ch times ch_mult) divisible by {GROUP_COUNT}; got {widths}."
            )

    @classmethod
    def from_dict(cls, section: Mapping[str, Any]) -> "AudioVaeConfig":
        """Read the checkpoint configuration's `audio_vae` section; absent keys take the official defaults.

        Raises: ConfigError naming the key whose value is not supported.
        """
        sizes = _subsection(section, "model", "params", "ddconfig")
        mel = _subsection(section, "preprocessing", "mel")
        variables = _subsection(section, "variables")
        for name in ("ch_mult", "attn_resolutions"):
            values = sizes.get(name, ())
            if not isinstance(values, (list, tuple, set, frozenset)) or not all(isinstance(v, int) for v in values):
                raise ConfigError(f"audio_vae {name} is {values!r}; a list of whole numbers was wanted.")
        return cls(
            ch=sizes.get("ch", cls.ch),
            out_ch=sizes.get("out_ch", cls.out_ch),
            ch_mult=tuple(sizes.get("ch_mult", cls.ch_mult)),
            num_res_blocks=sizes.get("num_res_blocks", cls.num_res_blocks),
            attn_resolutions=frozenset(sizes.get("attn_resolutions", cls.attn_resolutions)),
            resolution=sizes.get("resolution", cls.resolution),
            z_channels=sizes.get("z_channels", cls.z_channels),
            norm_type=sizes.get("norm_type", cls.norm_type),
            causality_axis=sizes.get("causality_axis", cls.causality_axis),
            mid_block_add_attention=sizes.get("mid_block_add_attention", cls.mid_block_add_attention),
            # three places may name the bins; a zero counts as absent, as officially
            mel_bins=sizes.get("mel_bins") or mel.get("n_mel_channels") or variables.get("mel_bins"),
        )


def _subsection(section: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """The section at the end of a path of names, empty where one is absent. Raises: ConfigError for what is none."""
    for name in names:
        section = section.get(name, {})
        if not isinstance(section, Mapping):
            raise ConfigError(f"audio_vae {name} is {section!r}; a section was wanted.")
    return section


def _require_whole(name: str, value: object, *, at_least: int, at_most: int = MOST) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value <= at_most:
        raise ConfigError(f"audio_vae {name} is {value!r}; a whole number from {at_least} to {at_most} was wanted.")
