"""Sizes of the vocoder and its bandwidth extension, read from the checkpoint's `vocoder` configuration section.

Two kinds of section exist: a flat one describes a single vocoder (before LTX-2.3), a nested one with `vocoder` and
`bwe` describes a vocoder followed by a bandwidth extension (LTX-2.3).
Source: ltx_core.model.audio_vae.model_configurator.VocoderConfigurator 1.0.0: its defaults for absent keys, and its
restrictions (stereo only, leaky-ReLU blocks when flat, snakebeta AMP blocks when nested).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from runners.errors import ConfigError

AUDIO_CHANNELS = 2
MEL_BINS = 64  # both stereo channels' bins, 128 together, enter the first convolution; fixed officially, too
DILATIONS_PER_BLOCK = 3
MOST_STAGES = 32  # with MOST it keeps the outline finite whatever a stranger's file claims
MOST = 1 << 20  # of any size or rate
DEFAULT_RATE_HZ = 24000
FINAL_ACTIVATIONS = ("tanh", "clamp", "none")


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """Shape of one generator: spectrogram in, waveform out, `upsample_rates` multiplied samples for each frame."""

    resblock: str = "1"  # "1": leaky ReLU; "AMP1": anti-aliased snakebeta
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)  # one block for each, averaged
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    upsample_rates: tuple[int, ...] = (6, 5, 2, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (16, 15, 8, 4, 4)
    upsample_initial_channel: int = 1024  # halves with each upsampling
    final_activation: str = "tanh"
    use_bias_at_final: bool = True
    output_sampling_rate_hz: int = DEFAULT_RATE_HZ

    def __post_init__(self) -> None:
        if self.resblock not in ("1", "AMP1"):
            raise ConfigError(f"vocoder resblock is {self.resblock!r}; known are '1' and 'AMP1'.")
        if self.final_activation not in FINAL_ACTIVATIONS:
            raise ConfigError(f"vocoder final_activation is {self.final_activation!r}; known are {FINAL_ACTIVATIONS}.")
        if not isinstance(self.use_bias_at_final, bool):
            raise ConfigError(f"vocoder use_bias_at_final is {self.use_bias_at_final!r}; true or false was wanted.")
        _require_whole("output_sampling_rate", self.output_sampling_rate_hz)
        _require_whole("upsample_initial_channel", self.upsample_initial_channel)
        self._require_blocks()
        self._require_upsampling()

    def _require_blocks(self) -> None:
        sizes, dilations = self.resblock_kernel_sizes, self.resblock_dilation_sizes
        if not 0 < len(sizes) <= MOST_STAGES or len(sizes) != len(dilations):
            raise ConfigError(
                f"vocoder resblock_kernel_sizes {list(sizes)} and resblock_dilation_sizes {list(map(list, dilations))} "
                f"must have the same length, 1 to {MOST_STAGES}."
            )
        for size in sizes:
            _require_whole("resblock_kernel_sizes", size)
            if self.resblock == "AMP1" and size % 2 == 0:
                raise ConfigError(f"vocoder resblock_kernel_sizes holds {size}; 'AMP1' blocks want odd sizes.")
        for block in dilations:
            if len(block) != DILATIONS_PER_BLOCK:
                raise ConfigError(f"vocoder resblock_dilation_sizes holds {list(block)}; three for each block, please.")
            for dilation in block:
                _require_whole("resblock_dilation_sizes", dilation)

    def _require_upsampling(self) -> None:
        rates, sizes = self.upsample_rates, self.upsample_kernel_sizes
        if not 0 < len(rates) <= MOST_STAGES or len(rates) != len(sizes):
            raise ConfigError(
                f"vocoder upsample_rates {list(rates)} and upsample_kernel_sizes {list(sizes)} must have the same "
                f"length, 1 to {MOST_STAGES}."
            )
        for rate, size in zip(rates, sizes, strict=True):
            _require_whole("upsample_rates", rate)
            _require_whole("upsample_kernel_sizes", size)
            if size < rate:
                raise ConfigError(f"vocoder upsample_kernel_sizes holds {size}, below its upsample_rates value {rate}.")
        if self.upsample_initial_channel >> len(rates) == 0:
            raise ConfigError(
                f"vocoder upsample_initial_channel {self.upsample_initial_channel} cannot be halved {len(rates)} times."
            )

    @classmethod
    def from_dict(
        cls, section: Mapping[str, Any], *, output_sampling_rate_hz: int, final_activation: str | None = None
    ) -> "VocoderConfig":
        """Read one generator's keys; `final_activation` overrules `use_tanh_at_final`.

        Raises: ConfigError naming the key whose value is not supported.
        """
        if section.get("stereo") is not True:
            raise ConfigError(f"vocoder stereo is {section.get('stereo')!r}; only true is supported, as officially.")
        tanh = section.get("use_tanh_at_final", True)
        if not isinstance(tanh, bool):
            raise ConfigError(f"vocoder use_tanh_at_final is {tanh!r}; true or false was wanted.")
        dilations = section.get("resblock_dilation_sizes", cls.resblock_dilation_sizes)
        if not isinstance(dilations, (list, tuple)):
            raise ConfigError(f"vocoder resblock_dilation_sizes is {dilations!r}; a list of lists was wanted.")
        return cls(
            resblock=section.get("resblock", cls.resblock),
            resblock_kernel_sizes=_list_of(section, "resblock_kernel_sizes", cls.resblock_kernel_sizes),
            resblock_dilation_sizes=tuple(_as_tuple("resblock_dilation_sizes", block) for block in dilations),
            upsample_rates=_list_of(section, "upsample_rates", cls.upsample_rates),
            upsample_kernel_sizes=_list_of(section, "upsample_kernel_sizes", cls.upsample_kernel_sizes),
            upsample_initial_channel=section.get("upsample_initial_channel", cls.upsample_initial_channel),
            final_activation=final_activation or ("tanh" if tanh else "clamp"),
            use_bias_at_final=section.get("use_bias_at_final", cls.use_bias_at_final),
            output_sampling_rate_hz=output_sampling_rate_hz,
        )


@dataclass(frozen=True, kw_only=True)
class ExtendedVocoderConfig:
    """A vocoder, and the generator that adds what lies above its band."""

    vocoder: VocoderConfig
    extension: VocoderConfig
    n_fft: int  # samples in an analysis window, at the vocoder's rate
    hop_length: int  # samples from one analysis window to the next

    def __post_init__(self) -> None:
        _require_whole("bwe n_fft", self.n_fft)
        _require_whole("bwe hop_length", self.hop_length)
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
        vocoder, extension = section.get("vocoder", {}), section["bwe"]
        for name, part in (("vocoder", vocoder), ("bwe", extension)):
            if not isinstance(part, Mapping):
                raise ConfigError(f"vocoder.{name} is {part!r}; a section was wanted.")
            for key, wanted in (("resblock", "AMP1"), ("activation", "snakebeta")):
                if part.get(key) != wanted:
                    raise ConfigError(f"vocoder.{name} {key} is {part.get(key)!r}; beside a bwe it must be {wanted!r}.")
        needed = ("n_fft", "hop_length", "num_mels", "input_sampling_rate", "output_sampling_rate")
        for key in needed:
            _require_whole(f"bwe {key}", extension.get(key))
        if extension["num_mels"] != MEL_BINS:
            raise ConfigError(f"bwe num_mels is {extension['num_mels']}; its generator takes {MEL_BINS} bins.")
        return cls(
            vocoder=VocoderConfig.from_dict(vocoder, output_sampling_rate_hz=extension["input_sampling_rate"]),
            extension=VocoderConfig.from_dict(
                extension, output_sampling_rate_hz=extension["output_sampling_rate"], final_activation="none"
            ),
            n_fft=extension["n_fft"],
            hop_length=extension["hop_length"],
        )


def read_vocoder_config(section: Mapping[str, Any]) -> VocoderConfig | ExtendedVocoderConfig:
    """Read the checkpoint configuration's `vocoder` section, flat or nested.

    Raises: ConfigError naming the key whose value is not supported.
    """
    if "bwe" in section:
        return ExtendedVocoderConfig.from_dict(section)
    if section.get("resblock") != "1":
        raise ConfigError(f"vocoder resblock is {section.get('resblock')!r}; without a bwe section it must be '1'.")
    rate_hz = section.get("output_sampling_rate", DEFAULT_RATE_HZ)
    return VocoderConfig.from_dict(section, output_sampling_rate_hz=rate_hz)


def _list_of(section: Mapping[str, Any], key: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return _as_tuple(key, section.get(key, default))


def _as_tuple(key: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"vocoder {key} is {value!r}; a list of whole numbers was wanted.")
    return tuple(value)


def _require_whole(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
        raise ConfigError(f"vocoder {name} is {value!r}; a whole number from 1 to {MOST} was wanted.")
