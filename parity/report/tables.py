"""Verdicts, speed and changes of limits as terminal tables.

A terminal too narrow for a table gets one line an entry instead: a number is never cut short.
"""

from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from parity.judge.perf import PerfChange, PerfVerdict
from parity.judge.proposal import LimitChange
from parity.report.terminal import Terminal
from parity.report.words import (
    COLUMNS,
    MOST_WORST,
    GateWords,
    change_words,
    head_and_list,
    interval,
    limit_words,
    number,
    perf_sentence,
    state,
    used,
)
from runners.printable import printable

REASON_WIDTH = 24  # the least room, in characters, in which a reason is still readable
STYLES = {
    "FAIL": "bold red",
    "slower": "bold red",
    "missing": "bold red",
    "unmatched": "bold red",
    "loosened": "bold red",
    "removed": "bold red",
    "waived": "yellow",
    "expired": "yellow",
    "uncalibrated": "yellow",
    "inconclusive": "yellow",
    "tightened": "green",
    "ok": "green",
}


def draw_gate(console: Terminal, said: GateWords, *, whole: bool = False, steps: Sequence[str] = ()) -> None:
    """Print a verdict, the speed where it was asked for, and end in the line that says how the gate decided.

    The first line says how much is wrong and what the verdict rests on, the next one, if it is no parity, where to
    look, those after it what was compared; then come the metrics that are farthest beyond their limits.

    Args:
        console: to print to.
        said: the verdict.
        whole: every metric with the reason of its limit in place of the worst few.
        steps: what to type next, a line each; not said at parity.
    """
    for line in (said.first_line, *([said.why] if said.why else []), *said.sides):
        console.print(line, soft_wrap=not console.is_terminal)  # a terminal would break words
    if whole:
        draw_verdict(console, said)
    else:
        draw_worst(console, said)
    if said.exit_code:
        for step in steps:
            console.print(step, soft_wrap=True)
    if said.perf is not None:
        draw_perf(console, said.perf)
    style = {0: "bold green", 1: "bold red", 2: "bold yellow"}[said.exit_code]
    console.print(Text(said.headline, style), soft_wrap=True)
    if said.other_release is not None:
        console.print(said.other_release, soft_wrap=True)


def draw_worst(console: Terminal, said: GateWords) -> None:
    """Print the findings and the metrics farthest beyond their limits, each in a line; of the rest only how many."""
    _findings(console, said)
    shown = said.worst[:MOST_WORST]
    rows = [(state(one.row), one.row.metric, *one.cells[2:4], used(one.row)) for one in shown]
    lines = [(row[0], f"{row[1]} is {row[2]}, wanted {row[3]}: {row[4]} of the limit") for row in rows]
    if rows:
        title = f"{said.verdict.case}, farthest beyond their limits"
        _draw(console, title, ("", "metric", "value", "limit", "of the limit"), rows, lines)
    more = len(said.worst) - len(shown)
    within = len(said.rows) - len(said.worst)
    rest = [f"{more} more beyond their limits"] if more else []
    rest += [f"{within} within"] if within and said.worst else []
    if rest:
        _line(console, "note", f"{', '.join(rest)}; -v shows every metric and why its limit is what it is")
    for note in said.notes:
        head, listed = head_and_list(note)
        _line(console, "note", f"{head} (-v names them)" if listed else head)


def draw_verdict(console: Terminal, said: GateWords) -> None:
    """Print each metric with value, limit, by how much, and why the limit is what it is; then what was found.

    Those that count against parity come first, the farthest beyond its limit before the others.
    """
    verdict = said.verdict
    title = f"{verdict.case}, judged by {said.judged_by}"
    lines = [(one.cells[0], one.sentence) for one in said.rows]
    _draw(console, title, COLUMNS, [one.cells for one in said.rows], lines)
    _findings(console, said)
    for note in said.notes:
        _line(console, "note", note)
    if verdict.unjudged:
        reasons = dict.fromkeys(verdict.unjudged.values())
        for reason in reasons:
            names = sorted(name for name, its in verdict.unjudged.items() if its == reason)
            _line(console, "note", f"{len(names)} metrics are not judged ({reason}): {', '.join(names)}")


def _findings(console: Terminal, said: GateWords) -> None:
    for failure, message in said.failures:
        _line(console, "FAIL", f"{failure.code} in {failure.where}: {message}")


def draw_perf(console: Terminal, perf: PerfVerdict) -> None:
    """Print each time and the memory beside its baseline."""
    rows = [
        (
            row.outcome,
            row.quantity,
            number(row.value, row.unit),
            number(row.baseline, row.unit),
            number(row.allowed, row.unit),
            "-" if row.change_percent is None else f"{row.change_percent:+.3g} %",
            interval(row),
            row.reason,
        )
        for row in perf.rows
    ]
    header = ("", "quantity", "now", "baseline", "allowed", "change", "95 % interval", "note")
    lines = [(row.outcome, perf_sentence(row)) for row in perf.rows]
    _draw(console, perf.title, header, rows, lines)
    _line(console, "baseline", perf.reason)
    for note in perf.notes:
        _line(console, "note", note)


def draw_changes(console: Terminal, changes: Sequence[LimitChange]) -> None:
    """Print old limits beside new ones, the largest change first; those that did not move are only counted."""
    moved = sorted((change for change in changes if change.kind != "unchanged"), key=lambda one: -one.factor)
    rows = []
    for change in moved:
        old, new = limit_words(change, old=True), limit_words(change, old=False)
        rows.append((change.kind, str(change.where), change.metric, old, new, change_words(change)))
    lines = [(row[0], f"{row[1]}: {row[2]}: {row[3]} -> {row[4]} ({row[5]})") for row in rows]
    if rows:
        _draw(console, "Limits, old against new", ("", "where", "metric", "old", "new", "change"), rows, lines)
    _line(console, "note", f"{len(changes) - len(moved)} limits are unchanged")


def draw_perf_changes(console: Terminal, changes: Sequence[PerfChange]) -> None:
    """Print what each quantity was allowed and will be."""
    rows = []
    for change in changes:
        unit = "bytes" if change.quantity == "peak_memory" else "s"
        kind = "loosened" if change.loosened else "ok"
        rows.append((kind, change.quantity, number(change.old, unit), number(change.new, unit), change.title))
    lines = [(row[0], f"{row[4]}: {row[1]}: {row[2]} -> {row[3]}") for row in rows]
    _draw(console, "Allowed times, old against new", ("", "quantity", "old", "new", "of"), rows, lines)


def _draw(
    console: Terminal,
    title: str,
    header: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    lines: Sequence[tuple[str, str]],
) -> None:
    """A table whose last column may wrap, or `lines` of (state, text) where the table would not fit."""
    rows = [tuple(map(printable, row)) for row in rows]
    table = Table(box=box.SIMPLE_HEAD, title=Text(printable(title)), title_justify="left", pad_edge=False)
    for position, name in enumerate(header):
        last = position == len(header) - 1
        longest = max((cell_len(row[position]) for row in rows), default=0)
        # Said outright: of a column that does not wrap, rich takes its longest word for the least width.
        least = min(longest, REASON_WIDTH) if last else longest
        table.add_column(Text(name), no_wrap=not last, overflow="fold", min_width=max(least, cell_len(name)))
    for row in rows:
        table.add_row(
            *(Text(cell, STYLES.get(row[0], "") if not position else "") for position, cell in enumerate(row))
        )
    if rows and Measurement.get(console, console.options.update(width=10_000), table).minimum <= console.width:
        console.print(table)
        return
    console.print(title, soft_wrap=True)
    for kind, text in lines:
        _line(console, kind, text)


def _line(console: Terminal, kind: str, text: str) -> None:
    said = Text.assemble((kind, STYLES.get(kind, "")), " ", printable(text))
    console.print(said, soft_wrap=not console.is_terminal)
