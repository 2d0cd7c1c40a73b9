"""Sizes and behaviours of the diffusion transformer and of the text connectors, read from a checkpoint's configuration.

Both read the `transformer` section of the JSON that an LTX-2.3 checkpoint carries. An absent key takes the official
default. A key whose value this implementation (and the official one) cannot honour is refused, not ignored; keys that
no official release reads, such as `_class_name`, are passed over as the official code does.

Source: ltx_core.model.transformer.model_configurator, ltx_core.text_encoders.gemma.embeddings_connector and
ltx_core.text_encoders.gemma.encoders.encoder_configurator, 1.0.0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final, Literal

from runners.errors import ConfigError
from runners.ltx23.config_section import (
    Bounds,
    Key,
    Section,
    checked,
    require_equal,
    require_neutral,
    required_section,
)

LAYERS: Final = Bounds(1, 100)  # taps name blocks by two digits
SECTION: Final = "transformer"

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


# Where audio's stream is silent, it is smaller than video's.
_AUDIO: Final[Mapping[str, object]] = {"audio_attention_head_dim": 64, "audio_positional_embedding_max_pos": (20,)}


@dataclass(frozen=True, kw_only=True)
class RotaryConfig(Section):
    """The form of rotary embeddings, for every attention of the transformer and the connectors."""

    kind: Annotated[RotaryKind, Key("rope_type")] = "interleaved"
    # Ratio of the highest to the lowest frequency.
    theta: Annotated[float, Key("positional_embedding_theta"), Bounds(1, 1 << 30)] = 10000.0
    # Dtype in which the frequency grid is computed, before it is rounded to float32. Officially, any value but
    # "float64" would silently mean float32.
    precision: Annotated[FrequencyPrecision, Key("frequencies_precision")] = "float32"

    @classmethod
    def from_section(cls, values: Mapping[str, Any], **given: Any) -> "RotaryConfig":
        """Read the `transformer` section, where false stands for the absent precision. Raises: ConfigError."""
        if values.get("frequencies_precision") is False:
            values = {**values, "frequencies_precision": "float32"}
        return cls.read(SECTION, values, **given)

    def require_fit(self, where: str, width: int, heads: int) -> None:
        """Refuse a width whose channels cannot be paired. Raises: ConfigError."""
        wanted = 2 * heads if self.kind == "split" else 2
        if width % wanted:
            raise ConfigError(
                f"{where}: {self.kind} rotary pairs channels, so a width of {width} must be a multiple of {wanted}."
            )


@dataclass(frozen=True, kw_only=True)
class HeadsConfig(Section):
    """Attention heads, which together are as wide as a token."""

    heads: Annotated[int, Key("num_attention_heads")] = 32
    head_width: Annotated[int, Key("attention_head_dim")] = 128

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.heads * self.head_width

    def __post_init__(self) -> None:
        super().__post_init__()
        checked(f"{type(self).__name__}.width", int, self.width)


@dataclass(frozen=True, kw_only=True)
class StreamConfig(HeadsConfig):
    """Sizes of one modality's stream of tokens; the defaults are video's."""

    in_channels: int = 128
    out_channels: int = 128
    # The position, on each axis, that maps to the end of the rotary range.
    max_positions: Annotated[tuple[int, ...], Key("positional_embedding_max_pos")] = (20, 2048, 2048)


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(Section):
    """The audio-video diffusion transformer."""

    video: StreamConfig
    audio: StreamConfig
    num_layers: Annotated[int, LAYERS] = 48
    norm_eps: float = 1e-6
    rotary: RotaryConfig
    # Each head of each attention is scaled by 2 sigmoid(linear(x)).
    gated_attention: Annotated[bool, Key("apply_gated_attention")] = False
    # Sigma in [0, 1] times this enters the sinusoidal embedding; the other is for gates of the cross-modal attention.
    timestep_scale: Annotated[float, Key("timestep_scale_multiplier")] = 1000
    cross_gate_timestep_scale: Annotated[float, Key("av_ca_timestep_scale_multiplier")] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, stream, axes in (("video", self.video, 3), ("audio", self.audio, 1)):
            if len(stream.max_positions) != axes:
                raise ConfigError(
                    f"The {name} positions have {axes} axes; max_positions has {len(stream.max_positions)}: "
                    f"{stream.max_positions}."
                )
            self.rotary.require_fit(f"{name} self-attention", stream.width, stream.heads)
            # The cross-modal attention is as wide as audio, but its tables are laid out by each stream's own heads.
            self.rotary.require_fit(f"{name} side of the cross-modal attention", self.audio.width, stream.heads)

    @property
    def cross_max_position(self) -> int:
        """End of the rotary range of the cross-modal attention, in seconds; one value, so that both streams agree."""
        return max(self.video.max_positions[0], self.audio.max_positions[0])

    @classmethod
    def from_dict(cls, config: Mapping[str, object]) -> "TransformerConfig":
        """Read the whole configuration of a checkpoint (its `transformer` section).

        Raises: ConfigError for a missing section, a value of the wrong type, or one that cannot be honoured.
        """
        values = required_section(config, SECTION)
        require_equal(SECTION, values, {**_REQUIRED_BY_TRANSFORMER, **_REQUIRED_BY_LTX23})
        require_neutral(SECTION, values, _NEUTRAL)
        # The native model has PyTorch's scaled dot product attention only.
        checked(f"{SECTION}.attention_type", Literal["default", "pytorch"], values.get("attention_type", "default"))
        video = StreamConfig.read(SECTION, values)
        audio = StreamConfig.read(SECTION, {**_AUDIO, **values}, prefix="audio_")
        # The text context arrives at the width of its stream, so these sizes are not free.
        for key, default, stream in (("cross_attention_dim", 4096, video), ("audio_cross_attention_dim", 2048, audio)):
            if values.get(key, default) != stream.width:
                raise ConfigError(
                    f"{SECTION}.{key} is {values.get(key, default)!r}, but heads times head width of its stream is "
                    f"{stream.width}; they must be equal."
                )
        return cls.read(SECTION, values, video=video, audio=audio, rotary=RotaryConfig.from_section(values))


@dataclass(frozen=True, kw_only=True)
class ConnectorConfig(HeadsConfig):
    """The small transformer that turns one modality's text features into its context."""

    heads: Annotated[int, Key("num_attention_heads")] = 30
    num_layers: Annotated[int, LAYERS] = 2
    max_position: int  # the token index that maps to the end of the rotary range
    rotary: RotaryConfig
    gated_attention: Annotated[bool, Key("apply_gated_attention")] = False
    num_registers: Annotated[int, Key("num_learnable_registers")] = 128  # learned tokens that stand in for padding

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rotary.require_fit("connector", self.width, self.heads)


@dataclass(frozen=True, kw_only=True)
class TextConnectorsConfig(Section):
    """Everything between the language model's hidden states and the transformer's text context."""

    hidden_width: int  # of the language model
    num_hidden_states: int  # its layers and its embedding
    video: ConnectorConfig
    audio: ConnectorConfig

    @classmethod
    def from_dict(
        cls, config: Mapping[str, object], *, hidden_width: int, num_hidden_states: int
    ) -> "TextConnectorsConfig":
        """Read the whole configuration of a checkpoint; the language model's sizes come with the language model.

        Raises: ConfigError as `TransformerConfig.from_dict`, and where a connector is not as wide as its stream.
        """
        values = required_section(config, SECTION)
        require_equal(SECTION, values, _REQUIRED_BY_LTX23)
        require_neutral(SECTION, values, _NEUTRAL)
        key = "connector_positional_embedding_max_pos"
        (max_position,) = checked(f"{SECTION}.{key}", Annotated[tuple[int, ...], Bounds(1, 1)], values.get(key, (1,)))
        # The connectors' configurator passes no theta: it is 10000 whatever the transformer's is.
        rotary = RotaryConfig.from_section(values, theta=10000.0)
        read = partial(ConnectorConfig.read, SECTION, max_position=max_position, rotary=rotary)
        video = read(values, "connector_")
        as_video = {
            "audio_connector_num_attention_heads": video.heads,
            "audio_connector_attention_head_dim": video.head_width,
            "audio_connector_num_layers": video.num_layers,
        }
        audio = read(
            {**as_video, **values},
            "audio_connector_",
            gated_attention=video.gated_attention,
            num_registers=video.num_registers,
        )
        transformer = TransformerConfig.from_dict(config)
        for name, connector, stream in (("video", video, transformer.video), ("audio", audio, transformer.audio)):
            if connector.width != stream.width:
                raise ConfigError(
                    f"The {name} connector is {connector.width} wide and its stream {stream.width}; they must be equal."
                )
        return cls(hidden_width=hidden_width, num_hidden_states=num_hidden_states, video=video, audio=audio)
