"""The mutation score: trials of defects and harmless runs, and what they count up to.

Bit equality notices everything, so the score that counts is the one under limits: what a candidate with other bits
(another engine, a faster tier) is judged by. A candidate that offers no internals is judged by its outputs alone, which
is weaker; that score stands beside it.
"""

from dataclasses import dataclass
from typing import Any, Final

from parity.calibrate.mutation_evidence import Evidence
from parity.defects.defect import Defect
from parity.diff.comparison import LEVELS
from parity.judge.strength import KIND, key
from runners.protocol import Tier

MAX_EQUIVALENT: Final = 0.03  # of those tried, or FEW if that is more
FEW: Final = 3
MIN_LOCATED: Final = 0.95  # of the killed ones


@dataclass(frozen=True, kw_only=True)
class MutationTrial:
    """One defect and what came of it."""

    defect: Defect
    evidence: Evidence
    located: bool
    equivalent: bool  # not killed, and the oracle says that it is no farther off than the reference

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "id": self.defect.id,
            "component": self.defect.component,
            "description": self.defect.description,
            "case": self.defect.variant.name,
            "located": self.located,
            "equivalent": self.equivalent,
            **self.evidence.document(),
        }


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """One harmless run and what the gate said."""

    id: str
    case: str  # name of the variant
    evidence: Evidence


@dataclass(frozen=True, kw_only=True)
class Score:
    """The trials of all of them, and what they count up to."""

    limits_of: str
    date: str  # YYYY-MM-DD
    environment: dict[str, str]
    trials: tuple[MutationTrial, ...]
    harmless: tuple[Alarm, ...]
    tier: Tier = "exact"  # of native, which the defects were put into
    unreached: tuple[str, ...] = ()  # defects in code that this tier does not run
    refused: tuple[str, ...] = ()  # defects that it refuses to run with, in an error of its own or of torch
    without_reference: tuple[str, ...] = ()  # defects of another release's case, with weights that no golden is of
    without_limits: tuple[str, ...] = ()  # defects of another pipeline's case, which has no limits on this device
    share: tuple[int, int] = (1, 1)  # which part of the catalogue and of the harmless runs, of how many

    @property
    def counted(self) -> tuple[MutationTrial, ...]:
        """Trials of defects that are not equivalent."""
        return tuple(trial for trial in self.trials if not trial.equivalent)

    @property
    def killed(self) -> tuple[MutationTrial, ...]:
        """Trials of defects that were noticed."""
        return tuple(trial for trial in self.counted if trial.evidence.killed)

    @property
    def false_alarms(self) -> tuple[Alarm, ...]:
        """Harmless runs that were taken for defects."""
        return tuple(alarm for alarm in self.harmless if alarm.evidence.killed)

    @property
    def good(self) -> bool:
        """Something killed and everything, nearly everything located, no false alarm, few equivalents."""
        located = sum(trial.located for trial in self.killed)
        return (
            0 < len(self.killed) == len(self.counted)
            and located >= MIN_LOCATED * len(self.killed)
            and not self.false_alarms
            and len(self.trials) - len(self.counted) <= max(FEW, MAX_EQUIVALENT * len(self.trials))
        )

    def kills_by_level(self) -> dict[str, int]:
        """Number of defects that each level notices by itself."""
        seen = [trial.evidence for trial in self.counted]
        return {
            "bits": sum(one.bits_differ for one in seen),
            "outputs": sum(one.by_outputs for one in seen),
            "drift of taps": sum(one.by_level("drift") for one in seen),
            "isolated errors": sum(one.by_level("isolated") for one in seen),
            "under limits": len(self.killed),
        }

    def kills_by_levels(self) -> dict[str, int]:
        """Number of defects that the gate stops on each set of levels, from outputs alone to all."""
        sets = [key(LEVELS[:count]) for count in (1, 2, 3)]
        return {levels: sum(trial.evidence.killed_by[levels] for trial in self.counted) for levels in sets}

    def alarms_by_levels(self) -> dict[str, int]:
        """Number of harmless runs that the gate stops on each set of levels."""
        sets = [key(LEVELS[:count]) for count in (1, 2, 3)]
        return {levels: sum(alarm.evidence.killed_by[levels] for alarm in self.harmless) for levels in sets}

    def kills_by_metric(self) -> dict[str, int]:
        """Number of defects that each output metric notices by itself, the sharpest first."""
        counts: dict[str, int] = {}
        for trial in self.counted:
            for metric in (*trial.evidence.metrics, *trial.evidence.findings):
                counts[metric] = counts.get(metric, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "schema_version": 1,
            "kind": KIND,
            "limits_of": self.limits_of,
            **(
                {}
                if self.tier == "exact"
                else {"tier": self.tier, "unreached": list(self.unreached), "refused": list(self.refused)}
            ),
            **({"without_reference": list(self.without_reference)} if self.without_reference else {}),
            **({"without_limits": list(self.without_limits)} if self.without_limits else {}),
            **({} if self.share == (1, 1) else {"share": list(self.share)}),
            "date": self.date,
            "environment": self.environment,
            "good": self.good,
            "defects": len(self.counted),
            "killed": len(self.killed),
            "located": sum(trial.located for trial in self.killed),
            "killed_by_outputs": sum(trial.evidence.by_outputs for trial in self.counted),
            "killed_by_levels": self.kills_by_levels(),
            "false_alarms_by_levels": self.alarms_by_levels(),
            "equivalents": [trial.defect.id for trial in self.trials if trial.equivalent],
            "benign_runs": len(self.harmless),
            "false_alarms": len(self.false_alarms),
            "kills_by_level": self.kills_by_level(),
            "kills_by_metric": self.kills_by_metric(),
            "rows": [trial.document() for trial in self.trials],
            "benign_rows": [
                {"id": alarm.id, "case": alarm.case, **alarm.evidence.document()} for alarm in self.harmless
            ],
        }
