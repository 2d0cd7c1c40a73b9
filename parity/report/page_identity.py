"""The official release that a run follows, as `parity identify` found, and what its answer leaves unexplained."""

from pathlib import Path
from typing import Annotated, Final

import msgspec

from parity.report.page_html import Node, cell, table, tag, with_code
from parity.report.words import capitalised, number
from parity.runs.folder import Run
from runners.errors import RunError
from runners.load import load

SCHEMA_VERSION: Final = 1
MOST_ROWS: Final = 40
NOT_ASKED: Final = (
    "Not asked. `parity identify RUN --weights DIR --out FILE` finds out, then `--identified FILE` shows it."
)


class UnexplainedPlace(msgspec.Struct, frozen=True):
    """A tap that the best explanation does not account for, with relative L2 there and of what enters it."""

    tap: str
    error: float
    entering: float


class IdentityAnswer(msgspec.Struct, frozen=True):
    """The page's section on an answer of `parity identify`."""

    schema_version: int
    run_sha256: str
    confidence: str
    lines: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    unexplained: tuple[UnexplainedPlace, ...]


def read_identified(path: Path, run: Run) -> IdentityAnswer:
    """An answer saved by `parity identify --out`. Raises: RunError if it is none, or another run's."""
    remedy = f"answers come from `parity identify {run.folder} --out FILE`"
    found = load(path, IdentityAnswer, RunError, remedy, version=SCHEMA_VERSION)
    if found.run_sha256 != run.sha256:
        raise RunError(f"{path} is about another run than {run.folder}; identify this one.")
    return found


def identity_section(identified: IdentityAnswer | None) -> Node:
    """The answer and its grounds in words, then every place that stays unexplained."""
    if identified is None:
        return tag("p", {"class": "note"}, with_code(NOT_ASKED))
    first, *rest = identified.lines
    tone = "good" if identified.confidence == "certain" else "warn"
    said = [
        tag("p", {"class": f"first {tone}"}, capitalised(first)),
        tag("ul", {"class": "explanation"}, (tag("li", {}, capitalised(line)) for line in rest)),
    ]
    if not identified.unexplained:
        return [*said, tag("p", {"class": "note"}, "Nothing stays unexplained.")]
    columns = ("unexplained at", "relative L2", "enters it")
    rows = [
        tag("tr", {}, (cell(*pair) for pair in zip(columns, values, strict=True)))
        for place in identified.unexplained[:MOST_ROWS]
        for values in [(place.tap, number(place.error), number(place.entering))]
    ]
    more = len(identified.unexplained) - MOST_ROWS
    return [*said, table(columns, rows), tag("p", {"class": "note"}, f"and {more} more places") if more > 0 else None]
