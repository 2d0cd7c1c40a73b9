"""The protocol of a runner: something that executes a case and hands back what came out, with the times it took.

A runner is a context manager: entering loads or locates what it needs, `run` executes one case, leaving frees it.
It declares which switches it understands and which taps it offers; a request for anything else is an error.

Axes: F frame, H height, W width, C channel, N sample, T token.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self, get_args, runtime_checkable

import torch
from torch import Tensor

from runners.case import Case
from runners.clock import Progress
from runners.errors import RunnerError

Tier = Literal["exact", "fast", "fp8", "fp8x2"]
TIERS: Final[tuple[Tier, ...]] = get_args(Tier)
TAPS_OFFERED = "taps_offered"  # key of a recorded run's details: `Capabilities.taps` of its runner
CANDIDATE = "candidate"  # key of a run's details: phrases that a verdict says of what was run, such as a version
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The way a case is executed; what is executed stands in the case."""

    device: torch.device
    second_device: torch.device | None = None  # computes guidance passes beside it
    dtype: torch.dtype = torch.bfloat16
    tier: Tier = "exact"  # only the native runner has tiers
    behaviours: dict[str, bool] = field(default_factory=dict)  # single reference behaviours set by hand
    engine: dict[str, str] = field(default_factory=dict)  # how an engine runs it: properties of the candidate


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """The switches a runner understands and the taps it offers."""

    switches: frozenset[str]  # names of `runners.case.Switches` it can set to something else than the default
    tiers: frozenset[Tier]
    dtypes: frozenset[torch.dtype]
    releases: frozenset[str]
    behaviours: bool  # whether single reference behaviours can be set
    taps: tuple[str, ...]  # glob patterns of the tap names it can offer
    engine_options: frozenset[str] = frozenset()  # names of `RunOptions.engine` that it has
    second_device: bool = False  # whether it can put guidance passes on another device
    loras: bool = False  # whether it fuses LoRAs
    pipelines: frozenset[str] = frozenset({"one_stage"})  # of `runners.stages.PIPELINES`
    quantizations: frozenset[str] = frozenset()  # of a case, that it can keep the transformer's weights in


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a run."""

    video_frames: Tensor  # uint8 (F, H, W, 3), RGB
    audio_waveform: Tensor  # float32 (C, N)
    video_latent: Tensor  # (1, 128, F', H', W') in the run's dtype
    audio_latent: Tensor  # (1, 8, T, 16) in the run's dtype
    frame_rate: float
    sample_rate_hz: int
    sigmas: Tensor  # float32 (steps + 1,)
    stage_s: dict[str, float]
    step_s: list[float]
    peak_bytes: int
    details: dict[str, Any]  # what the runner wants recorded about itself: versions, file hashes, autocast


class Runner(Protocol):
    """The protocol every adapter follows."""

    @property
    def name(self) -> str:
        """The runner's name on the command line."""

    @property
    def capabilities(self) -> Capabilities:
        """The switches it understands and the taps it offers."""

    def __enter__(self) -> Self:
        """Make ready."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free everything."""

    def run(self, case: Case, progress: Progress) -> Outcome:
        """Execute a case."""


@runtime_checkable
class RefusingRunner(Protocol):
    """A runner that knows what it cannot execute before it has loaded anything."""

    def require(self, case: Case) -> None:
        """Refuse a case. Raises: ParityError saying what is asked, what can be, and what to do."""


def engine_choices(engine: str, options: Mapping[str, tuple[str, ...]], asked: Mapping[str, str]) -> dict[str, str]:
    """Every option of an engine with its value, the first of each unless asked otherwise.

    Raises: RunnerError for a value that it does not have.
    """
    for name, value in asked.items():
        if value not in options[name]:
            raise RunnerError(
                f"--engine-option {name}={value} is none of {engine}'s; take {' or '.join(options[name])}."
            )
    return {name: asked.get(name, values[0]) for name, values in options.items()}


def require_understood(name: str, capabilities: Capabilities, case: Case, options: RunOptions) -> None:
    """Refuse a case or an option that a runner would otherwise silently ignore.

    Raises: RunnerError naming what is not understood and who understands it.
    """
    switches = case.switches
    asked = {
        "skip_v2a_cross_attn_for_video_gt": switches.skip_v2a_cross_attn_for_video_gt,
        "disable_autocast": not switches.disable_autocast,
    }
    for switch, differs in asked.items():
        if differs and switch not in capabilities.switches:
            raise RunnerError(
                f"Runner {name!r} does not understand {switch} = {str(getattr(switches, switch)).lower()}; "
                f"it understands {', '.join(sorted(capabilities.switches)) or 'no switch'}. Choose another runner."
            )
    if case.pipeline not in capabilities.pipelines:
        raise RunnerError(
            f"Runner {name!r} does not run pipeline {case.pipeline!r}; it runs "
            f"{', '.join(sorted(capabilities.pipelines))}."
        )
    if case.loras and not capabilities.loras:
        raise RunnerError(f"Runner {name!r} fuses no LoRAs; case {case.id!r} has {len(case.loras)}.")
    if case.quantization is not None and case.quantization not in capabilities.quantizations:
        raise RunnerError(
            f"Runner {name!r} does not keep weights as {case.quantization!r}; it has "
            f"{', '.join(sorted(capabilities.quantizations)) or 'no quantization'}."
        )
    if options.tier not in capabilities.tiers:
        raise RunnerError(
            f"Runner {name!r} has no {options.tier!r} tier; it has {', '.join(sorted(capabilities.tiers))}."
        )
    if options.dtype not in capabilities.dtypes:
        raise RunnerError(f"Runner {name!r} cannot run in {options.dtype}.")
    if case.reference not in capabilities.releases:
        raise RunnerError(
            f"Runner {name!r} does not run reference release {case.reference!r}; "
            f"it runs {', '.join(sorted(capabilities.releases))}."
        )
    if options.behaviours and not capabilities.behaviours:
        raise RunnerError(f"Runner {name!r} cannot set single reference behaviours ({', '.join(options.behaviours)}).")
    if options.second_device is not None and not capabilities.second_device:
        raise RunnerError(f"Runner {name!r} computes on one device; leave out --second-device {options.second_device}.")
    unknown = sorted(options.engine.keys() - capabilities.engine_options)
    if unknown:
        raise RunnerError(
            f"Runner {name!r} has no --engine-option {', '.join(unknown)}; "
            f"it has {', '.join(sorted(capabilities.engine_options)) or 'none'}."
        )
