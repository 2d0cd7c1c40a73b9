"""The metrics of a verdict as a table in which each limit stands on one axis with its floors and defects.

The axis is the distance from perfect agreement over that of the limit, as in `parity.judge.limit`: the limit is at 1
in every row, harmless variation lies left of it, known defects right.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from parity.diff.comparison import LEVEL_WORDS, LEVELS, OUTPUTS, level_of
from parity.diff.metric import METRICS
from parity.judge.limit import Limit
from parity.judge.reach import distance
from parity.judge.verdict import MetricRow, Verdict
from parity.report.page_html import Html, Node, cell, table, tag, with_code
from parity.report.words import bound, capitalised, head_and_list, notes, number, signed, state, used, why

HEADER = ("metric", "value", "limit", "floors, limit, defects")
KEY = (
    "Upper dots: harmless variations of the reference. Lower dots: known defects, faint where they are not this "
    "metric's to catch. Diamond: this run. Along an axis: distance from perfect agreement over the limit's."
)
MEANINGS = {
    "drift": "Of each group the worst relative L2 of a tap in the free run.",
    "isolated": "Of each group the worst relative L2 that is added, fed the reference's inputs.",
}
TONES = {"ok": "good", "FAIL": "bad", "waived": "warn", "expired": "warn", "uncalibrated": "warn"}


def metric_table(verdict: Verdict, metrics: Mapping[str, float], limits: Mapping[str, Limit]) -> Html:
    """Every judged metric in a group a level, the farthest beyond its limit first; a group is folded where all pass."""
    parts = [_note(note) for note in notes(verdict)]
    parts.append(tag("div", {"class": "filter"}))
    for level in LEVELS:
        ordered = sorted(
            (row for row in verdict.rows if level_of(row.metric) == level),
            key=lambda row: (not row.failed, -row.used),
        )
        if not ordered:
            continue
        failed = sum(row.failed for row in ordered)
        drawn: list[Node] = [tag("p", {"class": "note"}, MEANINGS[level])] if level in MEANINGS else []
        drawn += _failed_then_folded(ordered, failed, limits)
        what = "metrics" if level == OUTPUTS else "groups"
        title = f"{capitalised(LEVEL_WORDS[level])}: {failed or 'none'} of {len(ordered)} {what} beyond their limit"
        opened = "" if failed else None
        parts.append(tag("details", {"class": "more", "open": opened}, tag("summary", {}, title), drawn))
    rest = [name for name in METRICS if name in metrics and name not in {row.metric for row in verdict.rows}]
    if rest:
        rows = {name: _measured(name, metrics[name], limits.get(name), verdict.unjudged.get(name, "")) for name in rest}
        title = f"{len(rest)} more, measured without being judged"
        parts.append(tag("details", {"class": "more"}, tag("summary", {}, title), _table(rows, limits)))
    return tag("div", {"class": "stack"}, parts)


def _failed_then_folded(ordered: Sequence[MetricRow], failed: int, limits: Mapping[str, Limit]) -> list[Node]:
    """Rows that failed, then the others folded behind how many they are; where none failed, all as they are."""
    drawn = {row.metric: _judged(row, limits.get(row.metric)) for row in ordered}
    if failed in (0, len(ordered)):
        return [_table(drawn, limits)]
    wrong = {row.metric: drawn.pop(row.metric) for row in ordered[:failed]}
    summary = tag("summary", {}, f"{len(drawn)} within their limits")
    folded = _table(drawn, limits, explained=_has_axis(wrong, limits))
    return [_table(wrong, limits), tag("details", {"class": "more"}, summary, folded)]


def _note(note: str) -> Html:
    """A note; a long list in it is folded behind what it is a list of."""
    head, listed = head_and_list(capitalised(note))
    if not listed:
        return tag("p", {"class": "note"}, with_code(head))
    return tag("details", {"class": "note"}, tag("summary", {}, head), with_code(listed))


def plain_metrics(metrics: Mapping[str, float], limits: Mapping[str, Limit]) -> Html:
    """The same where no verdict could be given."""
    rows = {name: _measured(name, metrics[name], limits.get(name), "no verdict") for name in METRICS if name in metrics}
    return _table(rows, limits)


def axis_data(metrics: Mapping[str, float], limits: Mapping[str, Limit]) -> dict[str, Any]:
    """The places of value, floors and defects on the axis, for each metric that has a limit with samples."""
    return {
        name: _on_axis(name, metrics.get(name, math.nan), limit)
        for name, limit in limits.items()
        if limit.samples is not None and name in METRICS
    }


def _on_axis(name: str, value: float, limit: Limit) -> dict[str, Any]:
    assert limit.samples is not None
    allowed = distance(limit.value, limit.unit, limit.direction)

    def share(sample: float) -> float:
        away = distance(sample, limit.unit, limit.direction)
        if away == allowed:
            return 1.0
        return away / allowed if allowed > 0 and math.isfinite(allowed) else math.copysign(math.inf, away - allowed)

    def points(population: Mapping[str, Sequence[float]], targets: Sequence[str] | None) -> list[list[Any]]:
        return [
            [who, share(sample), number(sample, limit.unit), targets is None or who in targets]
            for who, samples in population.items()
            for sample in samples
        ]

    return {
        "value": [share(value), number(value, limit.unit)],
        "limit": number(limit.value, limit.unit),
        "floors": points(limit.samples.floor, None),
        "defects": points(limit.samples.defects, limit.samples.targets),
        "calibrated": limit.status == "calibrated",
    }


def _has_axis(names: Iterable[str], limits: Mapping[str, Limit]) -> bool:
    return any(name in limits and limits[name].samples for name in names)


def _table(rows: Mapping[str, Html], limits: Mapping[str, Limit], *, explained: bool = False) -> Html:
    """Rows by metric; where no limit of theirs has samples, as for equal bits, nothing is said of an axis.

    `explained` is true where a table above says what is on an axis.
    """
    if not _has_axis(rows, limits):
        return table([*HEADER[:3], ""], list(rows.values()), {"class": "metrics no-axis"})
    key = tag("canvas", {"class": "axis-key", "aria-hidden": "true"})
    drawn = table([*HEADER[:3], [HEADER[3], key]], list(rows.values()), {"class": "metrics"})
    return tag("div", {}, None if explained else tag("p", {"class": "note"}, KEY), drawn)


def _judged(row: MetricRow, limit: Limit | None) -> Html:
    word = state(row)
    margin = f"margin {signed(row.margin, row.unit)}, {used(row)} of the limit used"
    return tag(
        "tr",
        {"class": TONES[word]},
        _named(row.metric, word, TONES[word], why(row) if why(row) != METRICS[row.metric].meaning else ""),
        cell(HEADER[1], number(row.value, row.unit), kind="number"),
        cell(HEADER[2], bound(row), tag("small", {}, margin) if row.direction != "exact" else None, kind="number"),
        _axis(row.metric, limit),
    )


def _measured(name: str, value: float, limit: Limit | None, reason: str) -> Html:
    metric = METRICS[name]
    relation = {"lower": "<=", "higher": ">=", "exact": "="}[metric.direction]
    return tag(
        "tr",
        {},
        _named(name, why=reason),
        cell(HEADER[1], number(value, metric.unit), kind="number"),
        cell(HEADER[2], "-" if limit is None else f"{relation} {number(limit.value, limit.unit)}", kind="number"),
        _axis(name, limit),
    )


def _named(name: str, word: str = "", tone: str = "", why: str = "") -> Html:
    """The metric with its state, its meaning, and why its limit is what it is: a column of its own was too narrow."""
    badge = tag("span", {"class": f"badge {tone}"}, word) if word else None
    meaning = tag("small", {}, METRICS[name].meaning) if level_of(name) == OUTPUTS else None
    said = [meaning, *([tag("small", {"class": "reason"}, why)] if why else [])]
    return cell(HEADER[0], badge, " ", tag("code", {}, name), said, kind="name")


def _axis(name: str, limit: Limit | None) -> Html:
    inside: Node = None
    if limit is not None and limit.samples is not None:
        inside = tag("canvas", {"class": "axis", "data-metric": name, "role": "img", "aria-label": _said(limit)})
    return cell(HEADER[3], inside, kind="axis-cell")


def _said(limit: Limit) -> str:
    """The axis in words, for those who cannot see it."""
    assert limit.samples is not None
    weakest = "no defect measured"
    if limit.weakest_defect is not None:
        weakest = f"weakest defect {number(limit.weakest_defect, limit.unit)} ({limit.weakest_defect_from})"
    return f"floor {number(limit.floor, limit.unit)} ({limit.floor_from}), {weakest}"
