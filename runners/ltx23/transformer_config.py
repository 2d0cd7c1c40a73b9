"""Sizes and behaviours of the diffusion transformer and of the text connectors, read from a checkpoint's configuration.

Both read the `transformer` section of the JSON that an LTX-2.3 checkpoint carries. An absent key takes the official
default. A key whose value this implementation (and the official one) cannot honour is refused, not ignored; keys that
no official release reads, such as `_class_name`, are passed over as the official code does.

Source: ltx_core.model.transformer.model_configurator, ltx_core.text_encoders.gemma.embeddings_connector and
ltx_core.text_encoders.gemma.encoders.encoder_configurator, 1.0.0.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from runners.errors import ConfigError

# A stranger's file may claim any size; these keep the model's outline, built before the tensors are checked, finite.
MOST_BLOCKS: Final = 100  # taps name blocks by two digits
MOST_CHANNELS: Final = 1 << 20
MOST: Final = 1 << 30  # of any other number

RotaryKind = Literal["split", "interleaved"]
FrequencyPrecision = Literal["float64", "float32"]

# Keys the official configurator insists on, present and equal: `check_config_value`.
_REQUIRED_BY_TRANSFORMER: Final[Mapping[str, object]] = {
    "dropout": 0.0,
    "attention_bias": True,
    "num_vector_embeds": None,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "use_linear_projection": False,
    "only_cross_attention": False,
    "cross_attention_norm": True,
    "double_self_attention": False,
    "upcast_attention": False,
    "standardization_norm": "rms_norm",
    "norm_elementwise_affine": False,
    "qk_norm": "rms_norm",
    "positional_embedding_type": "rope",
    "use_audio_video_cross_attention": True,
    "share_ff": False,
    "av_cross_ada_norm": True,
    "use_middle_indices_grid": True,
}

# What makes a checkpoint an LTX-2.3 one: text projected before the connectors, text attention under adaLN.
_REQUIRED_BY_LTX23: Final[Mapping[str, object]] = {
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
    "caption_proj_input_norm": False,
    "caption_projection_second_linear": False,
    "cross_attention_adaln": True,
}

# Keys that 1.0.0 does not read but other code of the family does: at any other value the model would be another one.
_NEUTRAL: Final[Mapping[str, object]] = {
    "connector_num_learnable_registers": 128,
    "ff_bias": True,
    "audio_ff_bias": True,
    "use_prompt_adaln_single": True,
    "use_keyframes_abs_pos_embedding": False,
}


@dataclass(frozen=True, kw_only=True)
class RotaryConfig:
    """How rotary embeddings are built, for every attention of the transformer and the connectors."""

    kind: RotaryKind
    theta: float = 10000.0  # ratio of the highest to the lowest frequency
    precision: FrequencyPrecision  # dtype in which the frequency grid is computed, before it is rounded to float32

    def __post_init__(self) -> None:
        if self.kind not in ("split", "interleaved"):
            raise ConfigError(f"rope_type is {self.kind!r}; wanted 'split' or 'interleaved'. Check the checkpoint.")
        if self.precision not in ("float64", "float32"):
            raise ConfigError(
                f"frequencies_precision is {self.precision!r}; wanted 'float64', or 'float32' or absent. Any other "
                "value would silently mean float32; correct the checkpoint's configuration."
            )
        if not (math.isfinite(self.theta) and self.theta > 1):
            raise ConfigError(f"positional_embedding_theta is {self.theta}; wanted a finite number above 1.")


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Sizes of one modality's stream of tokens."""

    heads: int
    head_width: int
    in_channels: int
    out_channels: int
    max_positions: tuple[int, ...]  # the position, on each axis, that maps to the end of the rotary range

    @property
    def width(self) -> int:
        """Channels of a token inside the transformer."""
        return self.heads * self.head_width

    def __post_init__(self) -> None:
        _check_positive(
            heads=self.heads,
            head_width=self.head_width,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            **{f"max_positions[{axis}]": size for axis, size in enumerate(self.max_positions)},
        )
        _check_at_most(MOST_CHANNELS, channels=self.width)
        if not self.max_positions:
            raise ConfigError("positional_embedding_max_pos is empty; wanted one number for each position axis.")


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The audio-video diffusion transformer."""

    video: StreamConfig
    audio: StreamConfig
    num_layers: int
    norm_eps: float
    rotary: RotaryConfig
    gated_attention: bool  # each head of each attention is scaled by 2 sigmoid(linear(x))
    timestep_scale: float  # sigma in [0, 1] times this enters the sinusoidal embedding
    cross_gate_timestep_scale: float  # the same for the gates of the cross-modal attention

    def __post_init__(self) -> None:
        _check_positive(num_layers=self.num_layers, norm_eps=self.norm_eps, timestep_scale=self.timestep_scale)
        _check_positive(cross_gate_timestep_scale=self.cross_gate_timestep_scale)
        _check_at_most(MOST_BLOCKS, num_layers=self.num_layers)
        for name, stream, axes in (("video", self.video, 3), ("audio", self.audio, 1)):
            if len(stream.max_positions) != axes:
                raise ConfigError(
                    f"The {name} positions have {axes} axes; max_positions has {len(stream.max_positions)}: "
                    f"{stream.max_positions}."
                )
            _check_rotary_fits(f"{name} self-attention", self.rotary, stream.width, stream.heads)
            # The cross-modal attention is as wide as audio, but its tables are laid out by each stream's own heads.
            _check_rotary_fits(f"{name} side of the cross-modal attention", self.rotary, self.audio.width, stream.heads)

    @property
    def cross_max_position(self) -> int:
        """End of the rotary range of the cross-modal attention, in seconds; one value, so that both streams agree."""
        return max(self.video.max_positions[0], self.audio.max_positions[0])

    @classmethod
    def from_dict(cls, config: Mapping[str, object]) -> "TransformerConfig":
        """Read the whole configuration of a checkpoint (its `transformer` section).

        Raises: ConfigError for a missing section, a value of the wrong type, or one that cannot be honoured.
        """
        section = _Section(config)
        section.check_equal(_REQUIRED_BY_TRANSFORMER)
        section.check_equal(_REQUIRED_BY_LTX23)
        section.check_neutral(_NEUTRAL)
        if section.text("attention_type", "default") not in ("default", "pytorch"):
            raise ConfigError(
                f"attention_type is {section.text('attention_type', 'default')!r}; the native model has PyTorch's "
                "scaled dot product attention only: 'default' or 'pytorch'."
            )
        video = StreamConfig(
            heads=section.integer("num_attention_heads", 32),
            head_width=section.integer("attention_head_dim", 128),
            in_channels=section.integer("in_channels", 128),
            out_channels=section.integer("out_channels", 128),
            max_positions=section.integers("positional_embedding_max_pos", (20, 2048, 2048)),
        )
        audio = StreamConfig(
            heads=section.integer("audio_num_attention_heads", 32),
            head_width=section.integer("audio_attention_head_dim", 64),
            in_channels=section.integer("audio_in_channels", 128),
            out_channels=section.integer("audio_out_channels", 128),
            max_positions=section.integers("audio_positional_embedding_max_pos", (20,)),
        )
        # The text context arrives at the width of its stream, so these sizes are not free.
        section.check_width("cross_attention_dim", 4096, video.width)
        section.check_width("audio_cross_attention_dim", 2048, audio.width)
        return cls(
            video=video,
            audio=audio,
            num_layers=section.integer("num_layers", 48),
            norm_eps=section.number("norm_eps", 1e-6),
            rotary=section.rotary(theta=section.number("positional_embedding_theta", 10000.0)),
            gated_attention=section.boolean("apply_gated_attention", False),
            timestep_scale=section.number("timestep_scale_multiplier", 1000),
            cross_gate_timestep_scale=section.number("av_ca_timestep_scale_multiplier", 1),
        )


@dataclass(frozen=True, kw_only=True)
class ConnectorConfig:
    """The small transformer that turns one modality's text features into its context."""

    heads: int
    head_width: int
    num_layers: int
    max_position: int  # the token index that maps to the end of the rotary range
    rotary: RotaryConfig
    gated_attention: bool
    num_registers: int = 128  # learned tokens that stand in for padding; no checkpoint says another number

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.heads * self.head_width

    def __post_init__(self) -> None:
        _check_positive(heads=self.heads, head_width=self.head_width, num_layers=self.num_layers)
        _check_positive(max_position=self.max_position, num_registers=self.num_registers)
        _check_at_most(MOST_BLOCKS, num_layers=self.num_layers)
        _check_at_most(MOST_CHANNELS, channels=self.width)
        _check_rotary_fits("connector", self.rotary, self.width, self.heads)


@dataclass(frozen=True, kw_only=True)
class TextConnectorsConfig:
    """Everything between the language model's hidden states and the transformer's text context."""

    hidden_width: int  # of the language model
    num_hidden_states: int  # its layers and its embedding
    video: ConnectorConfig
    audio: ConnectorConfig

    def __post_init__(self) -> None:
        _check_positive(hidden_width=self.hidden_width, num_hidden_states=self.num_hidden_states)

    @classmethod
    def from_dict(
        cls, config: Mapping[str, object], *, hidden_width: int, num_hidden_states: int
    ) -> "TextConnectorsConfig":
        """Read the whole configuration of a checkpoint; the language model's sizes come with the language model.

        Raises: ConfigError as `TransformerConfig.from_dict`, and where a connector is not as wide as its stream.
        """
        section = _Section(config)
        section.check_equal(_REQUIRED_BY_LTX23)
        section.check_neutral(_NEUTRAL)
        max_positions = section.integers("connector_positional_embedding_max_pos", (1,))
        if len(max_positions) != 1:
            raise ConfigError(f"connector_positional_embedding_max_pos wants one number; got {max_positions}.")
        heads = section.integer("connector_num_attention_heads", 30)
        head_width = section.integer("connector_attention_head_dim", 128)
        num_layers = section.integer("connector_num_layers", 2)
        # The connectors' configurator passes no theta: it is 10000 whatever the transformer's is.
        rotary, gated = section.rotary(theta=10000.0), section.boolean("connector_apply_gated_attention", False)
        video = ConnectorConfig(
            heads=heads,
            head_width=head_width,
            num_layers=num_layers,
            max_position=max_positions[0],
            rotary=rotary,
            gated_attention=gated,
        )
        audio = ConnectorConfig(
            heads=section.integer("audio_connector_num_attention_heads", heads),
            head_width=section.integer("audio_connector_attention_head_dim", head_width),
            num_layers=section.integer("audio_connector_num_layers", num_layers),
            max_position=max_positions[0],
            rotary=rotary,
            gated_attention=gated,
        )
        transformer = TransformerConfig.from_dict(config)
        for name, connector, stream in (("video", video, transformer.video), ("audio", audio, transformer.audio)):
            if connector.width != stream.width:
                raise ConfigError(
                    f"The {name} connector is {connector.width} wide and its stream {stream.width}; they must be equal."
                )
        return cls(hidden_width=hidden_width, num_hidden_states=num_hidden_states, video=video, audio=audio)


class _Section:
    """Typed reading of the `transformer` section: an absent key takes the default, a wrong type is refused."""

    def __init__(self, config: Mapping[str, object]) -> None:
        section = config.get("transformer")
        if not isinstance(section, Mapping):
            raise ConfigError(
                f"Wanted a checkpoint configuration with a 'transformer' section; got the sections "
                f"{', '.join(map(str, config)) or 'none'}. Pass the whole configuration, not one section of it."
            )
        self._values: Mapping[str, object] = section

    def check_equal(self, wanted: Mapping[str, object]) -> None:
        """Refuse keys that are absent or not the one value that is implemented; only None may be left out."""
        for key, value in wanted.items():
            if self._values.get(key) != value:
                raise ConfigError(
                    f"transformer.{key} is {self._values.get(key)!r}; LTX-2.3 has {value!r} and nothing else is "
                    "implemented. Is this an LTX-2.3 checkpoint?"
                )

    def check_neutral(self, neutral: Mapping[str, object]) -> None:
        """Refuse keys that are present with a value at which ignoring them would change the model."""
        for key, value in neutral.items():
            if self._values.get(key, value) != value:
                raise ConfigError(
                    f"transformer.{key} is {self._values[key]!r} and would be ignored; only {value!r} is implemented."
                )

    def check_width(self, key: str, default: int, width: int) -> None:
        """Refuse a context width that is not the width of its stream."""
        if self.integer(key, default) != width:
            raise ConfigError(
                f"transformer.{key} is {self.integer(key, default)}, but heads times head width of its stream is "
                f"{width}; they must be equal."
            )

    def integer(self, key: str, default: int) -> int:
        value = self._values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"transformer.{key} is {value!r}; wanted a whole number.")
        return value

    def number(self, key: str, default: float) -> float:
        value = self._values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"transformer.{key} is {value!r}; wanted a number.")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            raise ConfigError(f"transformer.{key} is {value!r}; wanted true or false.")
        return value

    def text(self, key: str, default: str) -> str:
        value = self._values.get(key, default)
        if not isinstance(value, str):
            raise ConfigError(f"transformer.{key} is {value!r}; wanted a text.")
        return value

    def integers(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        values = self._values.get(key, default)
        if not isinstance(values, list | tuple) or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
            raise ConfigError(f"transformer.{key} is {values!r}; wanted a list of whole numbers.")
        return tuple(values)

    def rotary(self, theta: float) -> RotaryConfig:
        precision = self._values.get("frequencies_precision", False)
        return RotaryConfig(
            kind=self.text("rope_type", "interleaved"),  # type: ignore[arg-type]  # RotaryConfig checks it
            theta=theta,
            precision="float32" if precision is False else precision,  # type: ignore[arg-type]  # likewise
        )


def _check_positive(**sizes: float) -> None:
    for name, size in sizes.items():
        if not 0 < size <= MOST:  # NaN fails, too
            raise ConfigError(
                f"{name} is {size}; wanted a positive number of at most {MOST}. Correct the checkpoint's configuration."
            )


def _check_at_most(most: int, **sizes: int) -> None:
    for name, size in sizes.items():
        if size > most:
            raise ConfigError(
                f"{name} is {size}; at most {most} are supported. Correct the checkpoint's configuration."
            )


def _check_rotary_fits(where: str, rotary: RotaryConfig, width: int, heads: int) -> None:
    wanted = 2 * heads if rotary.kind == "split" else 2
    if width % wanted:
        raise ConfigError(
            f"{where}: {rotary.kind} rotary pairs channels, so a width of {width} must be a multiple of {wanted}."
        )
