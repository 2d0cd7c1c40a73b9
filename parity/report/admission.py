"""Words of an admission: a row for each group of taps, a row for each refused place, and one closing line."""

from collections.abc import Mapping
from typing import Final

from parity.admit.accuracy import Accuracy, WorstElement
from parity.admit.admission import LIMITS_FROM, Admission, AdmissionLimits, AdmittedGroup
from parity.report.words import short
from parity.taps.group import RANGES
from parity.taps.name import place_of
from runners.printable import printable

GROUP_COLUMNS: Final = (
    *("taps", "places", "refused", "official", "its / official", "bias / RMS"),
    *("-0", "subnormal", "drift: step 0", "first half", "second half"),
)
PLACE_COLUMNS: Final = ("place", "why", "error", "official's", "worst element", "exact", "official", "candidate")


def group_cells(group: AdmittedGroup) -> tuple[str, ...]:
    """One group under GROUP_COLUMNS."""
    return (
        group.group,
        str(group.places),
        str(group.refused),
        short(group.official),
        short(group.ratio.ratio),
        short(group.bias.bias),
        str(group.signed_zeros),
        str(group.subnormals),
        *_drift_cells(group.drift),
    )


def _drift_cells(drift: Mapping[str, float]) -> tuple[str, ...]:
    return tuple(short(drift[steps]) if steps in drift else "-" for steps in RANGES)


def place_cells(row: Accuracy, why: str) -> tuple[str, ...]:
    """One refused place under PLACE_COLUMNS."""
    return (printable(row.where), printable(why), short(row.candidate), short(row.official), *_element(row.worst))


def _element(worst: WorstElement | None) -> tuple[str, ...]:
    if worst is None:
        return ("-",) * 4
    return str(list(worst.index)), *(f"{value:.6g}" for value in (worst.exact, worst.official, worst.candidate))


def closing_line(found: Admission) -> str:
    """The outcome, the limits and where it first goes wrong, in one line."""
    tier = "" if found.tier == "exact" else f":{found.tier}"
    limits = f"error at most {found.limits.error_ratio:g} times the official one's, bias at most {found.limits.bias:g}"
    source = f" ({LIMITS_FROM})" if found.limits == AdmissionLimits() else ""
    drift = f"drift: {found.drift_of}"
    line = f"{found.outcome.upper()}: {found.runner}{tier}, {len(found.rows)} places, {limits}{source}; {drift}"
    if not found.origins:
        return printable(line)
    first = found.origins[0]
    return printable(f"{line}; first wrong at {place_of(first).words()}")
