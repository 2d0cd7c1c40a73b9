"""Verdicts as Markdown for a CI job summary, and as workflow annotations.

Names and reasons may come from a stranger's run, so they are escaped: nothing in them becomes a link, tag or command.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from parity.report.terminal import Terminal
from parity.report.words import COLUMNS, MOST_WORST, GateWords, RowWords, head_and_list, perf_sentence
from parity.trace.atomic import append_text
from runners.printable import printable

MOST_ANNOTATIONS: Final = 10  # that GitHub shows of a step
_ESCAPED = str.maketrans(
    {mark: f"\\{mark}" for mark in "\\`*_{}[]()#+!|~@:"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


def verdict_markdown(said: GateWords, steps: Sequence[str] = ()) -> str:
    """The summary of a gate: headline, what failed, what to type next unless it is parity, then everything, folded."""
    perf = said.perf
    parts = [
        f"### {escaped(said.first_line)}",
        *([escaped(said.why)] if said.why else []),
        f"Case {escaped(said.verdict.case)}.",
    ]
    parts += [f"- {escaped(line)}" for line in said.sides]
    parts += [
        f"- **{escaped(failure.code)}** in {escaped(failure.where)}: {escaped(message)}"
        for failure, message in said.failures
    ]
    if said.worst:
        parts.append(_table(said.worst[:MOST_WORST]))
    if (more := len(said.worst) - MOST_WORST) > 0:
        parts.append(f"{more} more are beyond their limits; all are below.")
    parts += [f"- {escaped(head_and_list(note)[0])}" for note in said.notes]  # the table has what a note lists
    parts += [f"- {escaped(step)}" for step in steps if said.exit_code]
    if said.rows:
        parts.append(f"<details><summary>All {len(said.rows)} metrics</summary>\n\n{_table(said.rows)}\n\n</details>")
    if perf is not None:
        parts.append(f"**Speed** of {escaped(perf.title)}: {escaped(perf.outcome)} (baseline: {escaped(perf.reason)})")
        parts += [f"- {escaped(perf_sentence(row))}" for row in perf.rows]
        parts += [f"- {escaped(note)}" for note in perf.notes]
    return _joined(parts)


def error_markdown(case: str, message: str, why: str = "") -> str:
    """The summary of a gate that could not judge; `why` is the first line of the explanation, where there is one."""
    explained = f"{escaped(why)}\n\n" if why else ""
    return f"### VERDICT: COULD NOT JUDGE\n\n{explained}Case {escaped(case)}: {escaped(message)}\n"


def say_in_workflow(summary: str, commands: Iterable[str], terminal: Terminal) -> None:
    """Add to a workflow's job summary and annotate its run, where there is one; it reads output and errors alike."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        append_text(Path(path), summary + "\n")  # other steps share this file
    if os.environ.get("GITHUB_ACTIONS") == "true":
        terminal.commands(commands)


def annotations(said: GateWords) -> list[str]:
    """Workflow commands: the first line of the explanation, then what is wrong, worst first; each fits one line.

    GitHub shows ten errors of a step at most, so the last says how many more there are.
    """
    title, perf = f"parity {said.verdict.case}", said.perf
    lines = [annotation(title, f"{said.parity}: {said.why}")] if said.why else []
    lines += [annotation(title, f"{failure.code} in {failure.where}: {message}") for failure, message in said.failures]
    lines += [annotation(title, one.sentence) for one in said.worst]
    if said.verdict.outcome == "undecided":
        lines.append(annotation(title, f"undecided: {'; '.join(said.notes) or said.parity}"))
    if perf is not None and perf.outcome != "ok":
        wrong = [perf_sentence(row) for row in perf.rows if row.outcome not in ("ok", "unjudged")]
        lines += [annotation(f"speed {perf.title}", text) for text in wrong or [f"{perf.outcome}: {perf.reason}"]]
    if len(lines) > MOST_ANNOTATIONS:
        more = len(lines) - MOST_ANNOTATIONS + 1
        lines = [*lines[: MOST_ANNOTATIONS - 1], annotation(title, f"and {more} more; the job summary has them all")]
    return lines


def annotation(title: str, message: str) -> str:
    """A `::error` workflow command, escaped as the runner unescapes it."""
    data = printable(message).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    name = printable(title).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
    return f"::error title={name}::{data}"


def _table(rows: Sequence[RowWords]) -> str:
    lines = [f"|{' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(map(escaped, one.cells))} |" for one in rows]
    return "\n".join(lines)


def _joined(parts: list[str]) -> str:
    """Paragraphs apart, list items together."""
    text = ""
    for before, part in zip(["", *parts], parts, strict=False):
        together = before.startswith("- ") and part.startswith("- ")
        text += ("" if not text else "\n" if together else "\n\n") + part
    return text + "\n"


def escaped(text: str) -> str:
    """The text as Markdown that shows it and does nothing else."""
    return printable(text).translate(_ESCAPED)
