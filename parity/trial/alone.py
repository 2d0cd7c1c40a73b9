"""Isolation for trials of many candidates: only the stages that matter, and no longer than they last.

A free run says in which stage a candidate departs. Every stage before has equal bits and need not be measured; what
comes after is not needed to say where it began. So the official run is stopped as soon as it has been through the
stages asked for, and through the first steps of denoising.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

import torch

from parity.trial.added_error import Added
from parity.trial.lockstep import Lockstep
from parity.trial.lockstep_denoising import Choice
from runners.case import Case
from runners.clock import STAGES
from runners.official import OfficialRunner
from runners.official_lockstep import watching
from runners.protocol import RunOptions
from runners.tap import listening
from runners.weights import Weights

DENOISING: Final = STAGES.index("denoising")
STEPS: Final = 2  # of denoising; later ones run the same code on other numbers
# What no tap shows passes on to the next stage: token masks to the connector, positions and schedule to denoising.
SUSPECTS: Final = {
    "text": ("text_encoding",),
    "connector": ("text_encoding", "text_connector"),
    "image": ("image_conditioning",),
    "init": ("latent_preparation",),
    "denoise": ("latent_preparation", "denoising"),
    "decode": ("video_decoding", "audio_decoding"),
}


class _EnoughError(Exception):
    """Everything that was asked for has been measured."""


class _Until:
    """A progress listener that stops a run behind the last stage asked for."""

    def __init__(self, stages: Sequence[str], steps: int | None) -> None:
        self._steps = steps
        # What latents are prepared is seen when the first step of denoising begins.
        self._last = max((*map(STAGES.index, stages), *([DENOISING] if "latent_preparation" in stages else [])))

    def stage(self, name: str) -> None:
        """Stop where a later stage begins."""
        if name in STAGES and STAGES.index(name) > self._last:
            raise _EnoughError

    def step(self, index: int, count: int) -> None:
        """Stop behind the steps that are measured, if nothing later was asked for."""
        if self._last == DENOISING and self._steps is not None and index >= self._steps:
            raise _EnoughError


def stages_of(first_tap: str) -> tuple[str, ...]:
    """The stages that may have made a tap depart while all taps before it are equal."""
    return SUSPECTS[first_tap.partition("/")[0]]


def added_alone(
    weights: Weights, case: Case, stages: Iterable[str], *, oracle: bool = False, steps: int | None = STEPS
) -> tuple[Added, ...]:
    """What the native model, as it is patched now, adds in these stages; in data-flow order.

    Of denoising the first `steps` are measured, None for all.

    Raises: as the official runner does.
    """
    chosen = tuple(stages)
    options = RunOptions(device=torch.device("cpu"))
    lockstep = Lockstep(
        weights,
        case,
        options,
        stages=chosen,
        choice=Choice(steps=None if steps is None else frozenset(range(steps))),
        harmless=False,
        oracle=oracle,
        copies=True,
    )
    with (
        OfficialRunner(weights, options) as official,
        watching(lockstep),
        listening(lockstep.hear),
        suppress(_EnoughError),
    ):
        official.run(case, _Until(chosen, steps))
    return tuple(lockstep.sheet.rows)
