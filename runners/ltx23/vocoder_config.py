"""Sizes of the vocoder and its bandwidth extension, read from the checkpoint's `vocoder` configuration section.

Two kinds of section exist: a flat one describes a single vocoder (before LTX-2.3), a nested one with `vocoder` and
`bwe` describes a vocoder followed by a bandwidth extension (LTX-2.3).
Source: ltx_core.model.audio_vae.model_configurator.VocoderConfigurator 1.0.0: its defaults for absent keys, and its
restrictions (stereo only, leaky-ReLU blocks when flat, snakebeta AMP blocks when nested).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, Literal

from runners.errors import ConfigError
from runners.ltx23.config_section import Bounds, Key, Section, checked, require_equal, section_of

AUDIO_CHANNELS = 2
MEL_BINS = 64  # both stereo channels' bins, 128 together, enter the first convolution; fixed officially, too
STAGES = Bounds(1, 32)
DILATIONS = Bounds(3, 3)  # of a block

OnePerStage = Annotated[tuple[int, ...], STAGES]


@dataclass(frozen=True, kw_only=True)
class VocoderConfig(Section):
    """Shape of one generator: spectrogram in, waveform out, `upsample_rates` multiplied samples for each frame."""

    resblock: Literal["1", "AMP1"] = "1"  # "1": leaky ReLU; "AMP1": anti-aliased snakebeta
    resblock_kernel_sizes: OnePerStage = (3, 7, 11)  # one block for each, averaged
    resblock_dilation_sizes: Annotated[tuple[Annotated[tuple[int, ...], DILATIONS], ...], STAGES] = ((1, 3, 5),) * 3
    upsample_rates: OnePerStage = (6, 5, 2, 2, 2)
    upsample_kernel_sizes: OnePerStage = (16, 15, 8, 4, 4)
    upsample_initial_channel: int = 1024  # halves with each upsampling
    final_activation: Literal["tanh", "clamp", "none"] = "tanh"
    use_bias_at_final: bool = True
    output_sampling_rate_hz: Annotated[int, Key("output_sampling_rate")] = 24000

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes, dilations = self.resblock_kernel_sizes, self.resblock_dilation_sizes
        if len(sizes) != len(dilations):
            raise ConfigError(
                f"vocoder resblock_kernel_sizes {list(sizes)} and resblock_dilation_sizes {list(map(list, dilations))} "
                "must have the same length."
            )
        if self.resblock == "AMP1" and any(size % 2 == 0 for size in sizes):
            raise ConfigError(f"vocoder resblock_kernel_sizes {list(sizes)} must be odd for 'AMP1' blocks.")
        rates, sizes = self.upsample_rates, self.upsample_kernel_sizes
        if len(rates) != len(sizes) or any(size < rate for rate, size in zip(rates, sizes, strict=True)):
            raise ConfigError(
                f"vocoder upsample_kernel_sizes {list(sizes)} and upsample_rates {list(rates)} must have the same "
                "length, and no size lie below its rate."
            )
        if self.upsample_initial_channel >> len(rates) == 0:
            raise ConfigError(
                f"vocoder upsample_initial_channel {self.upsample_initial_channel} cannot be halved {len(rates)} times."
            )

    @classmethod
    def from_dict(cls, where: str, section: Mapping[str, Any], **given: Any) -> "VocoderConfig":
        """Read one generator's keys; what is given overrules them.

        Raises: ConfigError naming the key whose value is not supported.
        """
        require_equal(where, section, {"stereo": True})
        tanh = checked(f"{where}.use_tanh_at_final", bool, section.get("use_tanh_at_final", True))
        return cls.read(where, section, **{"final_activation": "tanh" if tanh else "clamp", **given})


@dataclass(frozen=True, kw_only=True)
class ExtendedVocoderConfig(Section):
    """A vocoder, and the generator that adds what lies above its band."""

    vocoder: VocoderConfig
    extension: VocoderConfig
    n_fft: int  # samples in an analysis window, at the vocoder's rate
    hop_length: int  # samples from one analysis window to the next

    def __post_init__(self) -> None:
        super().__post_init__()
        rate_in, rate_out = self.vocoder.output_sampling_rate_hz, self.extension.output_sampling_rate_hz
        if rate_out % rate_in:
            raise ConfigError(
                f"bwe output_sampling_rate {rate_out} Hz is not a multiple of input_sampling_rate {rate_in} Hz, "
                f"so samples of the extension do not line up with the vocoder's."
            )
        made, wanted = prod(self.extension.upsample_rates), self.hop_length * self.ratio
        stages = zip(self.extension.upsample_rates, self.extension.upsample_kernel_sizes, strict=True)
        if made != wanted or any((size - rate) % 2 for rate, size in stages):
            raise ConfigError(
                f"bwe upsample_rates {list(self.extension.upsample_rates)} make {made} samples of each frame, but "
                f"hop_length {self.hop_length} times {self.ratio} is {wanted}; they must agree, and each of "
                f"upsample_kernel_sizes {list(self.extension.upsample_kernel_sizes)} differ from its rate evenly."
            )

    @property
    def ratio(self) -> int:
        """Output samples for each sample of the vocoder."""
        return self.extension.output_sampling_rate_hz // self.vocoder.output_sampling_rate_hz

    @classmethod
    def from_dict(cls, section: Mapping[str, Any]) -> "ExtendedVocoderConfig":
        """Read a nested section. Raises: ConfigError naming the key whose value is absent or not supported."""
        generators = {name: section_of(section, name, within="vocoder") for name in ("vocoder", "bwe")}
        for name, generator in generators.items():
            require_equal(f"vocoder.{name}", generator, {"resblock": "AMP1", "activation": "snakebeta"})
        vocoder, extension = generators.values()
        require_equal("vocoder.bwe", extension, {"num_mels": MEL_BINS})
        rates = ("input_sampling_rate", "output_sampling_rate")
        rate_in, rate_out = (checked(f"vocoder.bwe.{key}", int, extension.get(key)) for key in rates)
        read = VocoderConfig.from_dict
        return cls.read(
            "vocoder.bwe",
            extension,
            vocoder=read("vocoder.vocoder", vocoder, output_sampling_rate_hz=rate_in),
            extension=read("vocoder.bwe", extension, output_sampling_rate_hz=rate_out, final_activation="none"),
        )


def read_vocoder_config(section: Mapping[str, Any]) -> VocoderConfig | ExtendedVocoderConfig:
    """Read the checkpoint configuration's `vocoder` section, flat or nested.

    Raises: ConfigError naming the key whose value is not supported.
    """
    if "bwe" in section:
        return ExtendedVocoderConfig.from_dict(section)
    require_equal("vocoder", section, {"resblock": "1"})  # "AMP1" is supported beside a bwe only
    return VocoderConfig.from_dict("vocoder", section)
