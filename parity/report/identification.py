"""The answer of an identification: lines for a person, and JSON data."""

from dataclasses import asdict
from typing import Any

from parity.identify.identification import OUTPUT_LATENTS, SCHEMA_VERSION, Identification, UnexplainedTap
from parity.identify.search import MISSING, BehaviourDecision
from parity.runs.difference import Difference
from parity.taps.name import place_of


def identification_lines(found: Identification) -> tuple[str, ...]:
    """The answer, how sure it is, and what it leaves open."""
    return (
        _answer(found),
        f"confidence: {found.confidence}; {_grounds(found)}",
        *_unexplained(found.unexplained),
        *_cannot_tell(found),
        *_remarks(found),
    )


def identification_document(found: Identification) -> dict[str, Any]:
    """As JSON data, before numbers that JSON cannot hold are written as strings."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run": found.run,
        "run_sha256": found.run_sha256,
        "case": found.case,
        "declared_release": found.declared,
        "release": found.release,
        "alike": list(found.alike),
        "confidence": found.confidence,
        "differences": [
            {"name": one.switch.name, "on": one.on, "since": one.switch.since, "words": one.switch.words}
            for one in found.switches
        ],
        "on": [
            name
            for name, one in found.decisions.items()
            if one.switch.defect is None and one.on and one.verdict in ("certain", "likely")
        ],
        "lines": list(identification_lines(found)),
        "defects": [
            {
                "name": one.switch.name,
                "words": one.switch.words,
                "verdict": one.verdict,
                "site": one.site,
                "tap": one.tap,
                "error": one.error,
                "error_without": one.flipped_error,
                "does_the_same": [other.name for other in one.as_near],
            }
            for one in found.defects
        ],
        "switches": {
            name: {
                "on": one.on if one.verdict in ("certain", "likely") else None,
                "verdict": one.verdict,
                "reason": one.reason,
                "site": one.site,
                "tap": one.tap,
                "error": one.error,
                "error_if_flipped": one.flipped_error,
            }
            for name, one in found.decisions.items()
            if one.switch.defect is None
        },
        "unexplained": [asdict(one) for one in found.unexplained],
        "compared": found.compared,
        "equal": found.equal,
        "traced": found.traced,
        "whole_taps": found.whole,
        "unknown_taps": list(found.strangers),
        "dtypes": [_dtype(one) for one in found.dtypes],
        "environment": [one.beside for one in found.environment],
        "padded_text": found.padded_text,
        "parts_computed": found.computed,
    }


def _answer(found: Identification) -> str:
    differences = [*map(_switch, found.switches), *(_defect(one, found) for one in found.defects)]
    also = f" ({' and '.join(found.alike)} would do the same here)" if found.alike else ""
    hedge = "as far as can be told, " if found.confidence == "partial" else ""
    if not differences:
        return f"{hedge}as {found.release}{also}"
    *most, last = differences
    with_all = f" ({_all_equal(found)})" if found.defects and found.confidence == "certain" else ""
    return f"{hedge}as {found.release}{also}, but {', '.join(most)}{' and ' if most else ''}{last}{with_all}"


def _switch(one: BehaviourDecision) -> str:
    since = f" (since {one.switch.since})" if one.switch.since else ""
    return f"{'' if one.on else 'without '}{one.switch.words}{since}"


def _defect(one: BehaviourDecision, found: Identification) -> str:
    """The clause of a defect with how sure it is, unless one word does for all."""
    same = (
        f" (or {', or '.join(other.words for other in one.as_near)}, which does the same here)" if one.as_near else ""
    )
    if found.confidence == "certain":
        return f"{one.switch.words}{same}"
    if one.verdict == "certain":
        return f"{one.switch.words}{same} (certain: with it {one.tap} and all that it moves there is equal)"
    return f"{one.switch.words}{same} (likely: error {one.error:.1e} with it, {one.flipped_error:.1e} without)"


def _all_equal(found: Identification) -> str:
    what = f"all {found.compared - found.outputs} taps" if found.traced else f"all {found.compared} outputs"
    return f"certain: with {'it' if len(found.defects) == 1 else 'them'} {what} are equal"


def _grounds(found: Identification) -> str:
    if found.confidence == "certain":
        inner = "taps and outputs" if found.traced else "outputs (it has no trace)"
        return f"all {found.compared} {inner} are equal in every bit"
    undecided = sum(one.verdict == "undecided" for one in found.decisions.values())
    decided = sum(
        one.verdict in ("certain", "likely") and one.switch.defect is None for one in found.decisions.values()
    )
    mostly = "" if not undecided else f", {undecided} drown in other differences or were not recorded"
    return f"{decided} switches told{mostly}; {found.equal} of {found.compared} taps and outputs are equal in every bit"


def _unexplained(places: tuple[UnexplainedTap, ...]) -> list[str]:
    first: dict[str, UnexplainedTap] = {}  # of each part of the model
    for one in places:
        part = one.tap.rpartition("/")[2] if one.tap in OUTPUT_LATENTS else place_of(one.tap).part
        first.setdefault(part, one)
    shown = [
        f"{'nothing comparable' if one.error >= MISSING else f'{one.error:.1e}'} at {one.tap}"
        f"{f' ({one.entering:.1e} enter it)' if one.entering else ''}"
        for one in first.values()
    ]
    more = len(places) - len(shown)
    return [f"unexplained: {', '.join(shown)}{f' and {more} more places' if more else ''}"] if shown else []


def _cannot_tell(found: Identification) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for one in found.untold:
        by_reason.setdefault(one.reason, []).append(one.switch.name)
    return [f"cannot be told: {', '.join(names)}: {reason}" for reason, names in by_reason.items()]


def _remarks(found: Identification) -> list[str]:
    remarks = []
    if not found.traced:
        remarks.append("the run has no trace, so only its outputs were read; record one with --taps '*' --keep full")
    elif found.confidence == "partial" and not found.whole:
        remarks.append("recorded with --keep full, each stage would be judged by the run's own inputs")
    if found.dtypes:
        remarks.append(f"in another dtype: {'; '.join(map(_dtype, found.dtypes))}")
    if found.padded_text:
        remarks.append("not read: its taps of text, which were recorded when they still held padding")
    if found.strangers:
        remarks.append(f"not read: {len(found.strangers)} taps of other names, such as {found.strangers[0][:80]}")
    if found.environment and found.confidence != "certain":
        elsewhere = "; ".join(one.beside for one in found.environment)
        remarks.append(f"made elsewhere, which alone can change bits: {elsewhere}")
    return remarks


def _dtype(one: Difference) -> str:
    return f"{one.key} {one.new} for {one.old}"
