"""The gate's findings as JSON data for machines: the verdict with its words, and what stands beside it."""

from dataclasses import asdict
from typing import Any, Final

import msgspec

from parity.diff.runs import RunsDiff
from parity.report.words import GateWords
from parity.trace.atomic import plain

FIELDS: Final = (  # in this order
    *(
        "schema_version",
        "case",
        "profile",
        "outcome",
        "judged_by",
        "sides",
        "root",
        "rows",
        "failures",
        "notes",
        "unjudged",
        "levels",
    ),
)


def verdict_document(said: GateWords) -> dict[str, Any]:
    """The verdict; infinities are strings."""
    verdict = said.verdict
    fields: dict[str, Any] = msgspec.to_builtins(verdict)
    for row, one in zip(fields["rows"], verdict.rows, strict=True):
        row["expired"] = [str(change) for change in one.expired]
    document: dict[str, Any] = plain({**fields, "notes": said.notes, "judged_by": said.judged_by})
    document = {name: document[name] for name in FIELDS}
    return {**document, "parity": verdict.outcome == "parity", "exit_code": verdict.exit_code}


def gate_document(said: GateWords, found: RunsDiff) -> dict[str, Any]:
    """The verdict with what differs in the environment, what was left out, and the release that is followed instead."""
    return {
        **verdict_document(said),
        "explanation": said.why,
        "candidate": list(found.candidate.described),
        "environment_differences": [one.beside for one in found.environment],
        "other_release": said.other_release,
        "left_out": asdict(found.left_out),
        "exit_code": said.exit_code,
    }
