"""Configuration of the spatial upsampler, read from the metadata of its file.

Source: ltx_core.model.upsampler.model_configurator 1.0.0; absent keys take its defaults. What the released x2 files are
not (two-dimensional, temporal, another scale) is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self

from runners.errors import ConfigError
from runners.ltx23.config_section import Bounds, Section, require_neutral

NORM_GROUPS: Final = 32  # the width of the layers in between must be a multiple
# What is implemented, and the official default of each where a file is silent.
_IMPLEMENTED: Final[dict[str, object]] = {
    "_class_name": "LatentUpsampler",
    "dims": 3,
    "spatial_upsample": True,
    "temporal_upsample": False,
    "spatial_scale": 2.0,
}


@dataclass(frozen=True, kw_only=True)
class UpsamplerConfig(Section):
    """Sizes of the upsampler. Build it with `from_dict`."""

    in_channels: int = 128  # of the latent
    mid_channels: int = 512
    num_blocks_per_stage: Annotated[int, Bounds(0, 100)] = 4  # residual blocks before and after it enlarges
    rational_resampler: bool = False  # another name for the same convolution, and a filter that does nothing at scale 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mid_channels % NORM_GROUPS:
            raise ConfigError(
                f"The upsampler's mid_channels is {self.mid_channels}; wanted a multiple of {NORM_GROUPS}, the groups "
                "of its norms. Take an official file."
            )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """Read the configuration of an upsampler's file. Raises: ConfigError for a key that cannot be honoured."""
        require_neutral("upsampler", config, _IMPLEMENTED)
        return cls.read("upsampler", config)
