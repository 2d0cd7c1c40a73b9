"""The numbers of a comparison as a terminal table, without judgement."""

from rich.table import Table
from rich.text import Text

from parity.diff.metric import METRICS
from parity.diff.runs import RunsDiff
from parity.report.terminal import Terminal
from parity.report.words import number
from runners.printable import printable


def draw_diff(console: Terminal, found: RunsDiff, title: str) -> None:
    """Print what differs in the environment, every number, what was left out, and what was found besides."""
    for one in found.environment:
        console.print(Text(printable(f"environment differs: {one.beside}"), "yellow"), soft_wrap=True)
    table = Table("metric", "value", "better", title=Text(printable(title)))
    for name, value in found.metrics.items():
        metric = METRICS[name]
        table.add_row(name, number(value, metric.unit), metric.direction)
    console.print(table)
    if found.left_out.taps:
        console.print(Text(printable(found.left_out.words), "yellow"), soft_wrap=True)
    for finding in found.findings:
        words = printable(f"{finding.code} at {finding.where}: {finding.message}")
        console.print(Text(words, "bold red"), soft_wrap=True)
