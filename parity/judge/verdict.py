"""A verdict: saved metrics and findings, judged by exact equality or by the limits of the registry.

Only numbers enter, so a run can be judged again after limits change, without its tensors and without a GPU. There are
three outcomes.

"parity": nothing failed, and at least one metric that can tell a defect from harmless variation passed.

"not_at_parity": evidence that is there fails. A metric is beyond a limit that holds here; or an output is so far beyond
one measured elsewhere that no machine explains it (`parity.judge.limit.ELSEWHERE_FACTOR`); or something has another
count, shape or rate than the case fixes; or the run says that its weights are others. That decides before anything that
is missing does.

"undecided": something is missing, unmatched, NaN or otherwise found, so the numbers cannot be believed; or only limits
that were measured in another environment failed; or nothing failed, but every limit that held is uncalibrated or was
measured in another environment, so nothing was shown. What prevents judging at all (no limit for a metric, nothing to
judge) is raised, unless what needs no limit fails already.

By which limits, and on which levels of evidence, a comparison is judged, and the judging, is `parity.judge.rules`.
"""

from typing import Final, Literal

import msgspec

from parity.diff.comparison import EvidenceLevel, Sides
from parity.diff.metric import Direction
from parity.judge.limit import Status
from parity.judge.strength import CatchCount
from parity.runs.difference import Difference

Profile = Literal["exact", "limits"]
Outcome = Literal["parity", "not_at_parity", "undecided"]
EXIT_CODES: Final[dict[Outcome, int]] = {"parity": 0, "not_at_parity": 1, "undecided": 2}


class MetricRow(msgspec.Struct, frozen=True, kw_only=True):
    """One metric against its limit."""

    metric: str
    unit: str
    direction: Direction
    value: float
    limit: float
    margin: float  # how far inside the limit, in the metric's unit; negative is how far beyond
    used: float  # distance from perfect agreement over that of the limit; above 1 fails
    passed: bool
    decisive: bool  # whether a case may pass on this metric
    waived: str  # reason of the waiver, or ""
    status: Status
    expired: tuple[Difference, ...]  # what changed in the environment since the limit was measured
    far: bool = False  # so far beyond that it fails wherever the limit was measured
    reason: str  # of the limit
    floor: float | None = None  # worst of the harmless variations, in the metric's unit; None for an exact limit
    floor_from: str | None = None  # which one that was
    weakest_defect: float | None = None  # the weakest known defect that the limit answers for
    weakest_defect_from: str | None = None

    @property
    def failed(self) -> bool:
        """True if it counts against parity: beyond its limit and not waived."""
        return not self.passed and not self.waived

    @property
    def decides_against(self) -> bool:
        """True if it fails the case by itself: its limit holds here, or it is too far away for that to matter."""
        return self.failed and (not self.expired or self.far)


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Something that fails whatever the limits are."""

    code: str
    where: str
    message: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The gate's findings, ready to be drawn or saved."""

    schema_version: Literal[1] = 1
    case: str
    profile: Profile
    outcome: Outcome
    rows: tuple[MetricRow, ...]
    failures: tuple[Failure, ...]
    unjudged: dict[str, str]  # metrics that are measured but not judged here, with the reason
    levels: dict[str, str] = {}  # level of evidence -> "judged", or why it was not; empty where equality is judged
    evidence: dict[str, EvidenceLevel] = {}  # the levels as they were measured
    caught: CatchCount | None = None  # how many known defects the levels that judged catch, where that was counted
    sides: Sides = Sides()  # the two runs
    form: str = ""  # of imported outputs, a label of `parity.runs.encoding`
    root: str = ""  # folder of the goldens and limits, where it is not the checkout's own

    @property
    def exit_code(self) -> int:
        """0 parity, 1 not at parity, 2 could not judge."""
        return EXIT_CODES[self.outcome]

    def failed_rows(self) -> tuple[MetricRow, ...]:
        """The rows that count against parity."""
        return tuple(row for row in self.rows if row.failed)

    def most_used(self) -> MetricRow | None:
        """The row that uses most of its limit; None without rows. A limit of zero that is met is not used."""
        return max(self.rows, key=lambda row: 0.0 if row.value == 0 else row.used, default=None)


def gate_exit_code(*codes: int) -> int:
    """One exit code for several verdicts: a known failure (1) outweighs what could not be judged (2), that a pass."""
    return 1 if 1 in codes else max(codes)
