"""The findings of a suite: one line a comparison, as a table, Markdown, and JSON that is judged again later."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from rich import box
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from parity.diff.isolated import SavedIsolation
from parity.diff.runs import RunsDiff
from parity.explain.diagnosis import NO_TRACES
from parity.explain.explanation import Explanation
from parity.judge.rules import JUDGED
from parity.judge.verdict import Verdict, gate_exit_code
from parity.report.documents import verdict_document
from parity.report.explanation import explanation_document, explanation_lines, story
from parity.report.markdown import escaped
from parity.report.terminal import Terminal
from parity.report.words import GIB, in_words, number, root_in_words, sentence, sides_in_words
from parity.runs.folder import RunManifest
from parity.trace.atomic import write_bytes_atomic, write_json_atomic
from runners.printable import printable

SCHEMA_VERSION: Final = 1
MOST_PLACES: Final = 5  # named of those that add an error
WORDS: Final = {0: "PARITY", 1: "NOT AT PARITY", 2: "COULD NOT JUDGE"}
COLUMNS: Final = (
    "case",
    "comparison",
    "judged by",
    "frames",
    "sound",
    "latents",
    "taps",
    "isolated",
    "time",
    "peak",
    "verdict",
)
TITLE: Final = "Is it still the official LTX-2.3?"


@dataclass(frozen=True, kw_only=True)
class SuiteLine:
    """One comparison. A verdict that is a string is the reason why there is none."""

    case: str
    what: str
    found: RunsDiff
    verdict: Verdict | str
    taps: Explanation | None  # None where a run has no trace
    manifests: tuple[RunManifest, RunManifest]  # reference and candidate
    alone: SavedIsolation | None = None  # what the candidate's parts add by themselves, where that was measured

    @property
    def by_bits(self) -> bool:
        """True if the candidate is held to the reference's bits."""
        return isinstance(self.verdict, Verdict) and self.verdict.profile == "exact"

    @property
    def code(self) -> int:
        """The verdict's exit code; whoever is held to bits is held to those of every tap, too."""
        if isinstance(self.verdict, str):
            return 2
        if not self.by_bits or self.taps is None or self.taps.bit_equal:
            return self.verdict.exit_code
        return gate_exit_code(self.verdict.exit_code, 2 if self.taps.traces.findings else 1)

    @property
    def why(self) -> str:
        """The first line of the explanation of a line that is no parity; else empty."""
        return story(self.taps or NO_TRACES, self.verdict) if self.code else ""

    def cells(self) -> tuple[str, ...]:
        """The line as texts, one for each of COLUMNS."""
        old, new = self.manifests
        return (
            self.case,
            self.what,
            self._judged_by(),
            self._equal_or(f"PSNR {self._number('frames.psnr_db.min', 'dB')}", "frames"),
            self._equal_or(f"SNR {self._number('audio.snr_db.min', 'dB')}", "audio"),
            self._equal_or(f"L2 {self._worst_latent()}", "video_latent", "audio_latent"),
            self._taps(),
            self._isolated(),
            f"{old.end_to_end_s:.1f} s / {new.end_to_end_s:.1f} s",
            f"{old.peak_bytes / GIB:.1f} / {new.peak_bytes / GIB:.1f} GiB",
            WORDS[self.code],
        )

    def reservations(self) -> list[str]:
        """The remarks that keep the numbers of a line from being the whole of a comparison in one environment."""
        omitted = [self.found.left_out.words] if self.found.left_out.taps else []
        return [*(f"environment differs: {one.beside}" for one in self.found.environment), *omitted]

    def sides(self) -> list[str]:
        """The two runs: what each is, when and where it ran; and whose limits and goldens hold, if not our own."""
        runs = [line for line in sides_in_words(self.found.sides) if line.startswith(("reference: ", "candidate: "))]
        return runs if isinstance(self.verdict, str) else [*runs, *root_in_words(self.verdict)]

    def complaints(self) -> list[str]:
        """Everything that keeps the line from parity, a sentence each."""
        if isinstance(self.verdict, str):
            said = [self.verdict]
        else:
            said = [f"{one.code} at {one.where}: {one.message}" for one in self.verdict.failures]
            said += [sentence(row) for row in self.verdict.failed_rows()]
        if self.taps is not None and not self.taps.bit_equal:
            said += explanation_lines(self.taps, self.verdict)
        elif self.why:
            said.append(self.why)
        return said + self._alone_said()

    def _alone_said(self) -> list[str]:
        """The parts that add an error by themselves, in a sentence."""
        if self.alone is None:
            return []
        if not self.alone.differing and self.taps is not None and not self.taps.bit_equal:
            return [
                f"fed the official inputs on this machine, all {len(self.alone.rows)} places have the official bits; "
                "both sides share one copy of the weights, so a change of weights in place does not show in isolation"
            ]
        if not self.alone.differing:
            return []
        named = self.alone.origins or self.alone.differing
        more = f" and {len(named) - MOST_PLACES} more" if len(named) > MOST_PLACES else ""
        errors = {where: error for where, error, _ in self.alone.errors()}
        places = ", ".join(f"{where} ({number(errors.get(where))})" for where in named[:MOST_PLACES])
        return [
            f"fed the official inputs, {len(self.alone.differing)} of {len(self.alone.rows)} places differ by "
            f"themselves at steps {', '.join(map(str, self.alone.steps))}; an error begins at {places}{more}"
        ]

    def document(self) -> dict[str, Any]:
        """As JSON data, before infinities are written as strings."""
        return {
            "case": self.case,
            "what": self.what,
            "exit_code": self.code,
            "outcome": WORDS[self.code],
            "explanation": self.why,
            "refusal": self.verdict if isinstance(self.verdict, str) else "",
            "sides": msgspec.to_builtins(self.found.sides),
            "verdict": None if isinstance(self.verdict, str) else verdict_document(in_words(self.verdict)),
            "taps": None if self.taps is None else explanation_document(self.taps, self.verdict),
            "isolated": None
            if self.alone is None
            else {
                "steps": list(self.alone.steps),
                "places": len(self.alone.rows),
                "differing": len(self.alone.differing),
                "origins": list(self.alone.origins[:MOST_PLACES]),
            },
            "environment_differences": [one.beside for one in self.found.environment],
            "left_out": asdict(self.found.left_out),
        }

    def _judged_by(self) -> str:
        """By equality of bits, or by limits on which levels of evidence."""
        if isinstance(self.verdict, str):
            return "-"
        if self.by_bits:
            parts = ("outputs", *(["taps"] if self.taps else []), *(["isolated parts"] if self.alone else []))
            return f"bits: {', '.join(parts)}"
        return f"limits: {', '.join(level for level, state in self.verdict.levels.items() if state == JUDGED)}"

    def _equal_or(self, otherwise: str, *names: str) -> str:
        equal = all(self.found.metrics.get(f"outputs.bit_equal.{name}") == 1.0 for name in names)
        return "bit-identical" if equal else otherwise

    def _number(self, metric: str, unit: str) -> str:
        return number(self.found.metrics.get(metric), unit)

    def _worst_latent(self) -> str:
        values = [self.found.metrics.get(f"{name}_latent.relative_l2") for name in ("video", "audio")]
        return number(max((value for value in values if value is not None), default=None))

    def _isolated(self) -> str:
        if self.alone is None:
            return "-"
        differing, places = len(self.alone.differing), len(self.alone.rows)
        return f"{differing} of {places} differ" if differing else f"{places} bit-identical"

    def _taps(self) -> str:
        if self.taps is None:
            return "-"
        traces = self.taps.traces
        if traces.bit_equal:
            return f"{traces.compared} bit-identical"
        return f"{traces.bit_different} of {traces.compared} differ"


def suite_code(lines: Sequence[SuiteLine], missing: Sequence[str]) -> int:
    """The exit code of a whole suite; one that has not come to its end could not judge."""
    return gate_exit_code(*(line.code for line in lines), *([2] if missing or not lines else []))


def draw_suite(console: Terminal, lines: Sequence[SuiteLine], missing: Sequence[str]) -> None:
    """Print the table, what keeps lines from parity, and the verdict."""
    rows = [line.cells() for line in lines]
    shown = [index for index in range(len(COLUMNS)) if not rows or any(row[index] != "-" for row in rows)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=TITLE, title_justify="left")
    for index in shown:
        table.add_column(COLUMNS[index], overflow="fold", no_wrap=not console.is_terminal)  # nothing is cut short
    for row in rows:
        table.add_row(*(Text(printable(row[index])) for index in shown))
    for line in lines:
        for side in line.sides():
            console.print(f"{line.case}, {line.what}: {side}", soft_wrap=True)
    for line in lines:  # before any number
        for phrase in line.reservations():
            console.print(Text(printable(f"{line.case}, {line.what}: {phrase}"), "yellow"))
    whole = Measurement.get(console, console.options.update(width=10_000), table).maximum
    width = console.width
    if not console.is_terminal:  # a log is as wide as its lines; a terminal would break them anywhere
        console.width = max(whole, width)
    console.print(table)
    console.width = width
    for line in lines:
        for complaint in line.complaints():
            console.print(Text(printable(f"{line.case}, {line.what}: {complaint}")), soft_wrap=True)
    for name in missing:
        console.print(Text(printable(f"not run yet: {name}"), "yellow"))
    code = suite_code(lines, missing)
    console.print(Text(f"VERDICT: {WORDS[code]}", "bold green" if code == 0 else "bold red"))


def save_suite(folder: Path, lines: Sequence[SuiteLine], missing: Sequence[str], took_s: float) -> None:
    """Write `suite.json`, `suite.md` and, for each line, numbers that `parity gate --numbers` judges again.

    `took_s` is of this call so far, without what runs that were kept had taken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runs = {f"{line.case}/{manifest.runner}": manifest for line in lines for manifest in line.manifests}
    code = suite_code(lines, missing)
    document = {
        "schema_version": SCHEMA_VERSION,
        "exit_code": code,
        "outcome": WORDS[code],
        "missing": list(missing),
        "took_s": took_s,
        "lines": [line.document() for line in lines],
        "runs": {
            name: {
                "end_to_end_s": manifest.end_to_end_s,
                "stage_s": manifest.stage_s,
                "step_s": manifest.step_s,
                "peak_bytes": manifest.peak_bytes,
                "files": manifest.files,
            }
            for name, manifest in runs.items()
        },
        "environment": lines[0].manifests[1].environment if lines else {},
    }
    write_json_atomic(folder / "suite.json", document)
    write_bytes_atomic(folder / "suite.md", _markdown(lines, missing, took_s).encode())
    for line in lines:
        name = f"{line.case} {line.what}".replace(" ", "_")
        write_json_atomic(folder / f"numbers_{name}.json", line.found.document())


def _markdown(lines: Sequence[SuiteLine], missing: Sequence[str], took_s: float) -> str:
    device = lines[0].manifests[1].environment.get("device_name", "CPU") if lines else "nothing"
    parts = [
        f"### {WORDS[suite_code(lines, missing)]}: {TITLE}",
        f"Measured on {escaped(str(device))}. This call took {took_s:.0f} s.",
    ]
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(tuple(escaped(cell) for cell in line.cells()) for line in lines)]
    parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    parts += [f"- {escaped(f'{line.case}, {line.what}: {side}')}" for line in lines for side in line.sides()]
    parts[2:2] = [
        f"- {escaped(f'{line.case}, {line.what}: {phrase}')}" for line in lines for phrase in line.reservations()
    ]
    parts += [f"- {escaped(f'{line.case}, {line.what}: {text}')}" for line in lines for text in line.complaints()]
    parts += [f"- not run yet: {escaped(name)}" for name in missing]
    return "\n\n".join(parts) + "\n"
