"""Levels of evidence: the outputs of a run, the drift of its taps, and what each part adds by itself.

Outputs there always are. Drift needs a trace of both runs; isolation needs the candidate's parts fed the reference's
own inputs (`parity isolate`). A level that was not measured says why. If the candidate could have offered it, the level
is owed and its absence fails; a candidate that has no internals to offer is judged by less, and the verdict says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from parity.diff.metric import DRIFT, ISOLATED

OUTPUTS: Final = "outputs"
LEVELS: Final = (OUTPUTS, "drift", "isolated")
LEVEL_WORDS: Final = {OUTPUTS: "outputs", "drift": "drift of taps", "isolated": "isolated errors"}


@dataclass(frozen=True, kw_only=True)
class EvidenceLevel:
    """The coverage of a level: measured or not, the reason, whether the candidate owes it, how much of it there is."""

    measured: bool
    why: str = ""
    owed: bool = False
    without: tuple[str, ...] = ()  # metrics of a measured level that the candidate has no internals for
    left_out: tuple[str, ...] = ()  # metrics of a measured level all of whose taps were left out of the comparison
    compared: int = 0  # taps that were compared; 0 also where nobody counted them yet
    drifting: int = 0  # those of them that drift was measured of: a golden may keep the bits of others alone
    of: int = 0  # taps that the case has
    lacking: int = 0  # taps that the reference has, the candidate has not, and nothing excuses

    @property
    def unmeasured(self) -> frozenset[str]:
        """Metrics of the level that there is no number of, and that nobody owes."""
        return frozenset((*self.without, *self.left_out))


MEASURED: Final = EvidenceLevel(measured=True)
NOT_ISOLATED: Final = EvidenceLevel(measured=False, why="no isolated errors were given (`parity isolate --out`)")
NO_TRACE: Final = EvidenceLevel(measured=False, why="these are outputs without a trace")
OUTPUTS_ONLY: Final[Mapping[str, EvidenceLevel]] = {OUTPUTS: MEASURED, "drift": NO_TRACE, "isolated": NOT_ISOLATED}


def level_of(metric: str) -> str:
    """The level that a metric belongs to."""
    return "drift" if metric.startswith(DRIFT) else "isolated" if metric.startswith(ISOLATED) else OUTPUTS
