"""The ground of a verdict: numbers and findings of one comparison, and what they are of. No tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parity.diff.finding import Finding
from parity.diff.levels import OUTPUTS_ONLY, EvidenceLevel
from parity.diff.side import Sides


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison as it is judged."""

    case: str  # id of the case, the key of its limits
    metrics: Mapping[str, float | None]  # by name; None and nan are what could not be computed
    findings: tuple[Finding, ...] = ()  # what the comparison found besides numbers; each one fails
    levels: Mapping[str, EvidenceLevel] = field(
        default_factory=lambda: dict(OUTPUTS_ONLY)
    )  # which evidence was measured
    environment_of_candidate: Mapping[str, Any] = field(default_factory=dict)  # where limits must hold
    compared_on: str = ""  # what the numbers are of, if not of everything; limits hold for what they were measured on
    form: str = ""  # of imported outputs, a label of `parity.runs.encoding`; "" for those of a run that was executed
    padded_text: bool = False  # whether metrics of text are of padded prompts, as in numbers saved long ago

    @property
    def sides(self) -> Sides:
        """Both sides, as far as they are known."""
        return Sides()
