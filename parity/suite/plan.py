"""The request to a suite, refused before anything is run in vain."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from parity.isolate.saved import steps_to_isolate
from parity.runs.golden import find_case, golden_of
from runners.case import Case
from runners.clock import Progress
from runners.errors import CaseError, RunError, RunnerError
from runners.forge.weights import ForgedWeights
from runners.official.files import INSTALLED_RELEASE, official_code
from runners.weights import WeightsFolder

Files = WeightsFolder | ForgedWeights


@dataclass(frozen=True, kw_only=True)
class OfficialCheckout:
    """Official code beside what is installed, and what runs it: None is this process."""

    root: Path
    python: Path | None
    release: str


@dataclass(frozen=True)
class TimeLeft:
    """The time of a call: what it has taken, and what it may still begin."""

    minutes: float | None
    begun_s: float = field(default_factory=time.monotonic)

    @property
    def took_s(self) -> float:
        """Since the call began."""
        return time.monotonic() - self.begun_s

    def fits(self, expected_s: float) -> bool:
        """True if something that takes so long would end in time."""
        return self.minutes is None or self.took_s + expected_s <= self.minutes * 60


@dataclass(frozen=True, kw_only=True)
class SuitePlan:
    """Everything that a suite needs to know."""

    cases: Sequence[Case]
    weights: Files
    folder: Path  # for runs, CASE/official and CASE/native
    device: torch.device
    taps: str | None  # pattern of the taps to record and compare
    progress: Callable[[str], AbstractContextManager[Progress]]  # a listener for each run, by its title
    say: Callable[[str], None]
    replace: bool = False  # runs in that folder that no suite has made
    resume: bool = False  # keep runs that are whole and of the same request
    golden: bool = False  # judge against the recorded goldens, too
    isolate: Collection[str] = ()  # ids of cases to isolate whether their limits ask for it or not
    steps: Mapping[str, Sequence[int]] = field(default_factory=dict)  # denoising steps to isolate, of each case
    checkout: OfficialCheckout | None = None
    left: TimeLeft = field(default_factory=lambda: TimeLeft(None))
    report: Path | None = None  # folder for the table

    def code_of(self, case: Case) -> OfficialCheckout | None:
        """The official code of a case, if it is not what is installed."""
        return self.checkout if self.checkout is not None and case.reference == self.checkout.release else None

    def by_golden_alone(self, case: Case) -> bool:
        """True if no official code of a case's release can run, so that its golden stands for it."""
        return self.golden and self.code_of(case) is None and case.reference != INSTALLED_RELEASE


def checkout_at(root: Path | None, python: Path | None) -> OfficialCheckout | None:
    """The official code in a folder. Raises: RunnerError if there is none, or an interpreter has nothing to run."""
    if root is not None:
        return OfficialCheckout(root=root, python=python, release=official_code(root).release)
    if python is not None:
        raise RunnerError("--runner-python runs the checkout that --official-root names; name that, too.")
    return None


def require_weights_of_goldens(cases: Sequence[Case], weights: Files) -> None:
    """Refuse other weights than the goldens were recorded with. Raises: RunError."""
    for case in cases:
        recorded = golden_of(case.id).manifest.weights_hash
        given = weights.of_pipeline(case.pipeline).hash
        if recorded != given:
            raise RunError(
                f"The golden of {case.id!r} was recorded with weights {recorded[:12]}; these are {given[:12]}. "
                "Pass those it was recorded with, or leave --golden out and judge native against official alone."
            )


def isolated_cases(cases: Sequence[Case], named: Sequence[str]) -> set[str]:
    """The ids of cases to isolate. Raises: CaseError for one that is not run, or whose official code is not here."""
    chosen = {find_case(name).id for name in named}
    if others := sorted(case.id for case in cases if case.id in chosen and case.reference != INSTALLED_RELEASE):
        raise CaseError(
            f"--isolate names {', '.join(others)}, of a release that is not installed; isolation runs both models in "
            f"one process, so it takes cases of {INSTALLED_RELEASE}."
        )
    if unknown := sorted(chosen - {case.id for case in cases}):
        raise CaseError(f"--isolate names {', '.join(unknown)}, which no --case names; name it there, too.")
    return chosen


def isolated_steps(cases: Sequence[Case], more: Sequence[int]) -> dict[str, list[int]]:
    """The denoising steps to isolate of each case that can be. Raises: ConfigError for a step that there is not."""
    return {case.id: steps_to_isolate(case, more) for case in cases if case.reference == INSTALLED_RELEASE}
