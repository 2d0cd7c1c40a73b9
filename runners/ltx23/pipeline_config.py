"""Configuration of the native pipeline, and how it is resolved from case, override table and command line."""

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch

from runners.errors import ConfigError
from runners.ltx23.config_section import Section
from runners.releases import RELEASES, ReleaseBehaviours


@dataclass(frozen=True, kw_only=True)
class PipelineConfig(Section):
    """The way the pipeline computes; what it computes stands in the sampling parameters."""

    dtype: torch.dtype = torch.bfloat16
    tier: Literal["exact", "fast", "fp8", "fp8x2"] = "exact"  # all but exact: passes together, in fused operations
    disable_autocast: bool = True  # the official run enters no autocast; a port that does computes other numbers
    reference: ReleaseBehaviours = RELEASES["1.0.0"]
    quantization: Literal["fp8_cast", "fp8_scaled_mm"] | None = None  # how the transformer's weights are kept

    def __post_init__(self) -> None:
        """Check types, since overrides may come from anywhere. Raises: ConfigError."""
        if self.dtype not in (torch.bfloat16, torch.float32):
            raise ConfigError(f"dtype is {self.dtype}; wanted torch.bfloat16, or torch.float32 for the oracle.")
        super().__post_init__()
        if self.quantization is not None and (self.dtype != torch.bfloat16 or self.tier != "exact"):
            raise ConfigError(
                f"Weights kept as {self.quantization} run in bf16 and the exact tier; asked for are {self.dtype} and "
                f"{self.tier!r}."
            )
        if not self.disable_autocast and self.dtype != torch.bfloat16:
            raise ConfigError(f"autocast computes in bf16, but dtype is {self.dtype}; take bf16, or disable_autocast.")

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """The context that the denoising loop and the decoders run under: none, unless autocast was asked for."""
        if self.disable_autocast:
            return contextlib.nullcontext()
        return torch.autocast(device_type=device.type, dtype=torch.bfloat16)


def resolve_pipeline_config(
    base: PipelineConfig,
    overrides: Mapping[str, Any] | None = None,
    command_line: Mapping[str, Any] | None = None,
) -> PipelineConfig:
    """Lay an override table over a configuration, and what was given on the command line over both.

    A command-line value of None means that the option was not given, and takes nothing away from the override.
    Raises: ConfigError for a key that no configuration has.
    """
    given = {name: value for name, value in (command_line or {}).items() if value is not None}
    merged = {**(overrides or {}), **given}
    known = {field.name for field in fields(PipelineConfig)}
    unknown = sorted(set(merged) - known)
    if unknown:
        raise ConfigError(f"Unknown pipeline option {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
    return replace(base, **merged)
