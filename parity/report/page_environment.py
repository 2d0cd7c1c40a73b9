"""The environments of both runs side by side, differences first."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from parity.report.page_html import Html, cell, join, table, tag
from parity.runs.environment import NUMERIC_KEYS
from parity.runs.folder import RunManifest

HEADER: Final = ("", "reference run", "this run", "")
RUN_KEYS: Final = ("runner", "tier", "dtype", "reference", "model_version", "weights_hash", "created_utc", "run_id")


def environment_section(reference: RunManifest, candidate: RunManifest) -> Html:
    """Both runs and both environments, then the case."""
    runs = [(key, getattr(reference, key), getattr(candidate, key), False) for key in RUN_KEYS]
    keys = dict.fromkeys((*reference.environment, *candidate.environment))
    found = [(key, reference.environment.get(key), candidate.environment.get(key), key in NUMERIC_KEYS) for key in keys]
    found.sort(key=lambda row: not row[3])
    apart = [row for row in found if row[1] != row[2]]
    alike = [row for row in found if row[1] == row[2]]
    return join(
        [
            tag("h3", {}, "Runs"),
            _pairs(runs),
            tag("h3", {}, "Environments"),
            _pairs(apart) if apart else tag("p", {"class": "note"}, "Nothing differs."),
            _folded(f"{len(alike)} things that agree", _pairs(alike)) if alike else None,
            tag("h3", {}, "Case"),
            _folded(f"The request: {candidate.case.get('id')}", _case(candidate.case)),
        ]
    )


def _pairs(rows: Iterable[tuple[str, Any, Any, bool]]) -> Html:
    return table(HEADER, [_row(*row) for row in rows], {"class": "pairs"})


def _folded(title: str, body: Html) -> Html:
    return tag("details", {"class": "more"}, tag("summary", {}, title), body)


def _row(key: str, before: Any, now: Any, numeric: bool) -> Html:
    differs = before != now
    mark = None
    if differs:
        words = "differs, can change bits" if numeric else "differs"
        mark = tag("span", {"class": f"badge {'warn' if numeric else ''}"}, words)
    return tag(
        "tr",
        {"class": "warn" if differs and numeric else None},
        cell("", tag("code", {}, key), kind="name"),
        cell(HEADER[1], _value(before)),
        cell(HEADER[2], _value(now)),
        cell("", mark),
    )


def _case(case: Mapping[str, Any]) -> Html:
    rows = [
        tag("tr", {}, cell("", tag("code", {}, key), kind="name"), cell("value", _value(value)))
        for key, value in _flat("", case)
    ]
    return table(("", "value"), rows, {"class": "pairs"})


def _flat(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        return [row for key, item in value.items() for row in _flat(f"{prefix}.{key}" if prefix else str(key), item)]
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return [row for index, item in enumerate(value) for row in _flat(f"{prefix}.{index}", item)]
    return [(prefix, value)]


def _value(value: Any) -> str:
    return value if isinstance(value, str) else "-" if value is None else json.dumps(value, ensure_ascii=False)
