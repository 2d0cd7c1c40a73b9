"""The history of speed on a terminal: a table a key, with a bar a line that starts at zero."""

from collections.abc import Iterable
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from parity.judge.perf_history import HistoryLine, curves
from parity.report.terminal import Terminal
from parity.report.words import HASH_SHOWN, number, short
from runners.printable import printable

BAR_COLUMNS: Final = 30
HEADER: Final = ("when (UTC)", "code", "runs", "end to end", "change", "", "peak memory")


def draw_history(console: Terminal, history: Iterable[HistoryLine]) -> None:
    """Print each key's lines, oldest first: medians over runs, the change from the line before, `*` at baselines."""
    for lines in curves(history).values():
        work = ", ".join(f"{name} {value[:HASH_SHOWN]}" for name, value in lines[-1].work.items())
        title = Text(printable(f"{lines[-1].title()} ({work})"))
        table = Table(*HEADER, box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
        times = [line.median() or 0.0 for line in lines]
        most = max(times) or 1.0
        for index, line in enumerate(lines):
            before = times[index - 1] if index else 0.0
            change = f"{100 * (times[index] / before - 1):+.1f} %" if before else "-"
            memory = line.median("peak_memory")
            table.add_row(
                printable(line.created_utc[:16].replace("T", " ")) + (" *" if line.baseline else ""),
                printable(line.code_version[:HASH_SHOWN]),
                str(len(line.runs)),
                short(times[index], "s"),
                change,
                Text("█" * max(1, round(BAR_COLUMNS * times[index] / most)), "cyan"),
                number(memory, "bytes"),
            )
        console.print(table)
    console.print("medians over runs; bars begin at zero; * became the baseline", soft_wrap=True)


def missing_baseline(title: str, runs: list[str], places: str) -> str:
    """The sentence to a run without a baseline: what to type to get one."""
    named = " ".join(runs)
    more = " ".join(f"RUN{index}" for index in range(len(runs) + 1, 4))
    return (
        f"There is no baseline of {title} in {places}. Make one of three runs of this machine: "
        f"`parity perf {f'{named} {more}'.strip()} --update`; or hold it to another run: "
        f"`parity perf --compare OTHER {runs[0]}`."
    )
