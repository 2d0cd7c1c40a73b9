"""The gate's findings as JSON data for machines: the verdict with its words, and what stands beside it."""

from dataclasses import asdict
from typing import Any, Final

import msgspec

from parity.diff.runs import RunsDiff
from parity.identify.releases import Follows
from parity.judge.verdict import Verdict
from parity.report.words import notes, release_followed
from parity.trace.atomic import plain

FIELDS: Final = (  # in this order
    *("schema_version", "case", "profile", "outcome", "rows", "failures", "notes", "unjudged", "levels"),
)


def verdict_document(verdict: Verdict) -> dict[str, Any]:
    """The verdict; infinities are strings."""
    fields: dict[str, Any] = msgspec.to_builtins(verdict)
    for row, one in zip(fields["rows"], verdict.rows, strict=True):
        row["expired"] = [str(change) for change in one.expired]
    document: dict[str, Any] = plain({**fields, "notes": notes(verdict)})
    document = {name: document[name] for name in FIELDS}
    return {**document, "parity": verdict.outcome == "parity", "exit_code": verdict.exit_code}


def gate_document(verdict: Verdict, found: RunsDiff, followed: Follows | None, exit_code: int) -> dict[str, Any]:
    """The verdict with what differs in the environment, what was left out, and the release that is followed instead."""
    return {
        **verdict_document(verdict),
        "candidate": list(found.candidate.described),
        "environment_differences": [one.beside for one in found.environment],
        "other_release": None if followed is None else release_followed(followed),
        "left_out": asdict(found.left_out),
        "exit_code": exit_code,
    }
