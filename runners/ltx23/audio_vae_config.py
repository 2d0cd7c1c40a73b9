"""Sizes of the audio VAE decoder, read from the checkpoint's `audio_vae` configuration section.

Source: ltx_core.model.audio_vae.model_configurator.AudioDecoderConfigurator 1.0.0, whose defaults for absent keys these
are. Keys that the decoder does not read (encoder sizes, dropout, sampling rate) are left to their own readers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from runners.errors import ConfigError
from runners.ltx23.config_section import Bounds, Section, section_of

GROUP_COUNT = 32  # groups of every group normalization


@dataclass(frozen=True, kw_only=True)
class AudioVaeConfig(Section):
    """Shape of the decoder that turns audio latents into a mel spectrogram. Height is time, width is mel frequency."""

    ch: int = 128  # channels at the finest level; also the length of the latent statistics (latent channels x bins)
    out_ch: int = 2  # audio channels of the spectrogram
    # Width of each level relative to `ch`, finest level first.
    ch_mult: Annotated[tuple[int, ...], Bounds(1, 100)] = (1, 2, 4)
    num_res_blocks: Annotated[int, Bounds(0, 100)] = 2  # the decoder has one more in each level
    attn_resolutions: frozenset[int] = frozenset({8, 16, 32})  # nominal resolutions of levels that attend
    resolution: int = 256  # nominal resolution of the finest level; halves with each coarser one
    z_channels: int = 8  # latent channels
    norm_type: Literal["pixel", "group"] = "pixel"
    causality_axis: Literal["height", "width", "width-compatibility"] | None = "height"
    mid_block_add_attention: bool = True
    mel_bins: int | None = None  # bins of the result; None keeps the latent's own count

    def __post_init__(self) -> None:
        super().__post_init__()
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
        sizes = section_of(section, "model", "params", "ddconfig", within="audio_vae")
        mel = section_of(section, "preprocessing", "mel", within="audio_vae")
        variables = section_of(section, "variables", within="audio_vae")
        # Three places may name the bins; a zero counts as absent, as officially.
        mel_bins = sizes.get("mel_bins") or mel.get("n_mel_channels") or variables.get("mel_bins")
        return cls.read("audio_vae", {**sizes, "mel_bins": mel_bins})
