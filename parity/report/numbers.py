"""The numbers of a comparison as a terminal table, without judgement."""

from rich.table import Table
from rich.text import Text

from parity.diff.metric import BIT_EQUALITIES, METRICS
from parity.diff.runs import RunsDiff
from parity.report.terminal import Terminal
from parity.report.words import number
from runners.printable import printable


def draw_diff(console: Terminal, found: RunsDiff, title: str) -> None:
    """Print what differs in the environment, every number, what was left out, and what was found besides."""
    for one in found.environment:
        console.print(Text(printable(f"environment differs: {one.beside}"), "yellow"), soft_wrap=True)
    if same := _all_equal(found):
        console.print(printable(f"{title}: {same}"), soft_wrap=True)
        return
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


def _all_equal(found: RunsDiff) -> str:
    """That all bits are equal, where they are and nothing but a run against itself was found; else nothing."""
    equal = all(found.metrics.get(name) == 1.0 for name in BIT_EQUALITIES)
    others = [finding for finding in found.findings if finding.code != "same_run"]
    if not equal or others or found.left_out.taps or found.metrics.get("taps.bit_different", 0.0) != 0.0:
        return ""
    drift = found.levels.get("drift")
    taps = f" and {drift.compared} taps" if drift is not None and "taps.bit_different" in found.metrics else ""
    itself = "; it is the reference's own run, or a copy" if found.findings else ""
    return f"all bits equal, of frames, sound, latents{taps}{itself}"
