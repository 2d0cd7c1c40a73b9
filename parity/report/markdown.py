"""Verdicts as Markdown for a CI job summary, and as workflow annotations.

Names and reasons may come from a stranger's run, so they are escaped: nothing in them becomes a link, tag or command.
"""

from pathlib import Path

from parity.judge.perf import PerfVerdict
from parity.judge.verdict import Row, Verdict
from parity.report.words import (
    ROW_COLUMNS,
    folded,
    headline,
    judged_by,
    notes,
    perf_sentence,
    printable,
    row_cells,
    sentence,
)

_ESCAPED = str.maketrans(
    {mark: f"\\{mark}" for mark in "\\`*_{}[]()#+!|~@:"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


def verdict_markdown(verdict: Verdict, perf: PerfVerdict | None = None) -> str:
    """The summary of a gate: headline, what failed, then everything, folded."""
    parts = [
        f"### {escaped(headline(verdict, perf))}",
        f"Case {escaped(verdict.case)}, judged by {escaped(judged_by(verdict))}.",
    ]
    parts += [
        f"- **{escaped(failure.code)}** in {escaped(failure.where)}: {escaped(message)}"
        for failure, message in folded(verdict.failures)
    ]
    if failed := verdict.failed_rows():
        parts.append(_table(failed))
    parts += [f"- {escaped(note)}" for note in notes(verdict)]
    if verdict.rows:
        parts.append(
            f"<details><summary>All {len(verdict.rows)} metrics</summary>\n\n{_table(verdict.rows)}\n\n</details>"
        )
    if perf is not None:
        parts.append(f"**Speed** of {escaped(perf.title)}: {escaped(perf.outcome)} (baseline: {escaped(perf.reason)})")
        parts += [f"- {escaped(perf_sentence(row))}" for row in perf.rows]
        parts += [f"- {escaped(note)}" for note in perf.notes]
    return _joined(parts)


def error_markdown(case: str, message: str) -> str:
    """The summary of a gate that could not judge."""
    return f"### VERDICT: COULD NOT JUDGE\n\nCase {escaped(case)}: {escaped(message)}\n"


def append_summary(path: Path, text: str) -> None:
    """Append to a job's summary file, which other steps share (`$GITHUB_STEP_SUMMARY`)."""
    with path.open("a", encoding="utf-8") as file:
        file.write(text + "\n")


def annotations(verdict: Verdict, perf: PerfVerdict | None = None) -> list[str]:
    """One workflow command for each thing that is wrong; each fits one line."""
    title = f"parity {verdict.case}"
    lines = [
        annotation(title, f"{failure.code} in {failure.where}: {message}")
        for failure, message in folded(verdict.failures)
    ]
    lines += [annotation(title, sentence(row)) for row in verdict.failed_rows()]
    if verdict.outcome == "undecided":
        lines.append(annotation(title, f"undecided: {'; '.join(notes(verdict)) or headline(verdict)}"))
    if perf is not None and perf.outcome != "ok":
        wrong = [perf_sentence(row) for row in perf.rows if row.outcome not in ("ok", "unjudged")]
        lines += [annotation(f"speed {perf.title}", text) for text in wrong or [f"{perf.outcome}: {perf.reason}"]]
    return lines


def annotation(title: str, message: str) -> str:
    """A `::error` workflow command, escaped as the runner unescapes it."""
    data = printable(message).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    name = printable(title).replace("%", "%25").replace(":", "%3A").replace(",", "%2C")
    return f"::error title={name}::{data}"


def _table(rows: tuple[Row, ...]) -> str:
    lines = ["| " + " | ".join(ROW_COLUMNS).lstrip() + " |", "| --- " * len(ROW_COLUMNS) + "|"]
    lines += ["| " + " | ".join(map(escaped, row_cells(row))) + " |" for row in rows]
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
