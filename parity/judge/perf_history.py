"""The history of speed: a JSON line for each group of runs that was kept, beside the baselines of one's own project.

Lines are only ever added, so that a file merges and its end can be read by anything. What they are times of is a key,
as of a baseline: times of two keys are never one curve.
"""

import datetime
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from parity.judge.document import as_form, json_value, naming
from parity.judge.perf import Times, TimeSubject
from parity.judge.timed import TimedRun
from parity.trace.atomic import append_text, plain
from runners.errors import RegistryError
from runners.load import read_text

WANTED: Final = "line of the speed history"
MAX_BYTES: Final = 64 << 20
JUDGED: Final = "end_to_end"  # the quantity that a curve is of


class HistoryLine(TimeSubject, frozen=True, kw_only=True):
    """Runs of one key at one time, and whether they became the baseline."""

    schema_version: Literal[1] = 1
    created_utc: str  # ISO 8601, to the second
    code_version: str
    baseline: bool
    runs: tuple[Times, ...]

    def __post_init__(self) -> None:
        """Refuse a line without runs or date. Raises: RegistryError."""
        try:
            datetime.datetime.fromisoformat(self.created_utc)
        except ValueError:
            raise RegistryError(f"created_utc is {self.created_utc[:40]!r}, no date.") from None
        if not self.runs:
            raise RegistryError("A line of the history has at least one run.")

    def median(self, quantity: str = JUDGED) -> float | None:
        """The median of a quantity over the runs; None if one of them has it not."""
        values = [run.quantities().get(quantity) for run in self.runs]
        known = [value for value in values if value is not None]
        return statistics.median(known) if len(known) == len(values) else None


def history_line(runs: Sequence[TimedRun], code_version: str, *, baseline: bool) -> HistoryLine:
    """The line that is kept of runs of one key, now."""
    return HistoryLine(
        **{name: getattr(runs[0], name) for name in TimeSubject.__struct_fields__},
        created_utc=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        code_version=code_version,
        baseline=baseline,
        runs=tuple(run.times for run in runs),
    )


def keep_history(path: Path, lines: Iterable[HistoryLine]) -> None:
    """Add lines to the history. Raises: OutputError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(plain(msgspec.to_builtins(line)), allow_nan=False) + "\n" for line in lines)
    append_text(path, text)


def read_history(path: Path) -> tuple[HistoryLine, ...]:
    """The history, oldest first; nothing where there is none yet. Raises: RegistryError naming file and line."""
    if not path.exists():
        return ()
    text = read_text(path, RegistryError, "each line is one that `parity perf --update` added", max_bytes=MAX_BYTES)
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        place = path.with_name(f"{path.name}:{number}")
        value = json_value(line, place, WANTED)
        with naming(place, WANTED):
            lines.append(as_form(value, HistoryLine))
    return tuple(sorted(lines, key=lambda one: one.created_utc))


def curves(history: Iterable[HistoryLine]) -> dict[tuple[str, ...], list[HistoryLine]]:
    """The lines of each key together, oldest first."""
    found: dict[tuple[str, ...], list[HistoryLine]] = {}
    for line in history:
        found.setdefault(tuple(line.key().values()), []).append(line)
    return found
