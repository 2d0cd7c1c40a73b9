"""Verdicts in words: numbers with their units, states, headlines. Every report uses these.

Text that came from a run or a registry is made printable first, so that a file from a stranger cannot steer a terminal.
"""

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from parity.diff.comparison import LEVEL_WORDS, OUTPUTS, Side, Sides
from parity.identify.releases import Follows
from parity.judge.gate import of_exact_tier
from parity.judge.limit import ELSEWHERE_FACTOR, POPULATION
from parity.judge.perf import PerfRow, PerfVerdict
from parity.judge.proposal import LimitChange
from parity.judge.rules import JUDGED
from parity.judge.strength import CatchCount
from parity.judge.verdict import Failure, MetricRow, Verdict, gate_exit_code
from runners.printable import printable

GIB = 1 << 30
HASH_SHOWN = 12  # characters of a hash
MOST_OF_A_NOTE = 240  # characters of a note that are shown at once
MOST_DIFFERENCES = 2  # between environments that a first line names
MOST_OF_A_CODE = 3  # failures of one code that are said one by one
MOST_WORST = 5  # metrics beyond their limits that are shown unless all are asked for
COLUMNS: Final = ("", "metric", "value", "limit", "margin", "used", "why this limit")


class RowWords(NamedTuple):
    """A row of a verdict in words."""

    row: MetricRow
    cells: tuple[str, ...]  # under COLUMNS
    sentence: str  # the same in one line, for places without a table


@dataclass(frozen=True, kw_only=True)
class GateWords:
    """The gate's findings in words: made once, and laid out by the terminal, JUnit, Markdown and JSON alike."""

    verdict: Verdict
    perf: PerfVerdict | None  # the speed, where it was asked for
    parity: str  # headline of the verdict alone
    headline: str  # with the speed; the last line of every report
    first_line: str  # the verdict with what it rests on; the first line of every report
    why: str  # the first line of the explanation, of a verdict that is no parity; else empty
    sides: tuple[str, ...]  # a line a run: what it is, when and where it ran; what its engine says; whose limits hold
    judged_by: str
    rows: tuple[RowWords, ...]  # those that count against parity first, then by how much of their limit they use
    worst: tuple[RowWords, ...]  # the rows that count against parity
    failures: tuple[tuple[Failure, str], ...]  # the first few of each code with their message
    notes: tuple[str, ...]
    other_release: str | None  # that the candidate follows another release than it was judged by
    exit_code: int


def in_words(
    verdict: Verdict, perf: PerfVerdict | None = None, followed: Follows | None = None, why: str = "", first: str = ""
) -> GateWords:
    """The words of a gate's verdict.

    Args:
        verdict: what the gate came to.
        perf: the speed, where it was asked for.
        followed: the other release that a candidate follows, where known.
        why: the first line of the explanation (`parity.report.explanation.story`); at parity it is not said.
        first: the place where the candidate first diverges (`parity.report.explanation.first_place`).
    """
    ordered = sorted(verdict.rows, key=lambda row: (not row.failed, -row.used))
    rows = tuple(RowWords(row, _cells(row), sentence(row)) for row in ordered)
    counted = "" if verdict.outcome == "parity" else f": {how_many(verdict)}"
    counted += f", first divergence at {first}" if first and counted else ""
    return GateWords(
        verdict=verdict,
        perf=perf,
        parity=headline(verdict),
        headline=headline(verdict, perf),
        first_line=f"{headline(verdict, perf)}{counted} (judged by {judged_by(verdict)})",
        why="" if verdict.outcome == "parity" else why,
        sides=(*sides_in_words(verdict.sides), *root_in_words(verdict)),
        judged_by=judged_by(verdict),
        rows=rows,
        worst=tuple(one for one in rows if one.row.failed),
        failures=tuple(folded(verdict.failures)),
        notes=notes(verdict),
        other_release=None if followed is None else release_followed(followed),
        exit_code=gate_exit_code(verdict.exit_code, perf.exit_code if perf else 0),
    )


def how_many(verdict: Verdict) -> str:
    """The count of what is wrong: "62 of 118 metrics beyond their limits and 2 findings"."""
    failed = len(verdict.failed_rows())
    said = f"{failed} of {len(verdict.rows)} metrics beyond their limits"
    found = len(verdict.failures)
    return said if not found else f"{said} and {found} finding{'s' if found > 1 else ''}"


def runs_named(run: str, reference: str | None) -> str:
    """Two runs as a verb is given them. `reference` is as it was named; None for the golden."""
    return shlex.quote(run) + ("" if reference is None else f" --against {shlex.quote(reference)}")


def next_steps(run: str, reference: str | None) -> tuple[str, ...]:
    """The commands to type after a verdict that is no parity. Arguments as `runs_named`."""
    runs = runs_named(run, reference)
    return (f"next: parity explain {runs}", f"next: parity report {runs} --out page.html")


def _cells(row: MetricRow) -> tuple[str, ...]:
    value, margin = number(row.value, row.unit), signed(row.margin, row.unit)
    return state(row), row.metric, value, bound(row), margin, used(row), why(row)


def sides_in_words(sides: Sides) -> tuple[str, ...]:
    """A line for each side, then the phrases of the candidate's engine and what differs in the environment."""
    candidate = () if sides.candidate is None else sides.candidate.described
    return (
        f"reference: {_side(sides.reference)}",
        f"candidate: {_side(sides.candidate)}",
        *(f"candidate says: {phrase}" for phrase in candidate),
        *(f"environment differs: {one.beside}" for one in sides.environment),
    )


def root_in_words(verdict: Verdict) -> Iterable[str]:
    """The folder whose word a verdict takes, unless it is the checkout's own: an unpacked archive may be one."""
    if verdict.root:
        yield f"limits and goldens: those of {verdict.root}, not those that ship with the parity that judges"


def _side(side: Side | None) -> str:
    if side is None:
        return "outputs in memory, of no run"
    parts = [
        f"{side.runner}, tier {side.tier}, {side.dtype}, release {side.reference}",
        f"code {side.code[:HASH_SHOWN]}" if side.code else "code not recorded",
        f"ran {side.created_utc}" if side.created_utc else "date not recorded",
        f"on {side.device} {side.processor}".rstrip() if side.device else "device not recorded",
        f"run {side.run_id}" if side.run_id else f"run without an id, run.json {side.run_sha256[:HASH_SHOWN]}",
    ]
    return ", ".join(parts)


def capitalised(line: str) -> str:
    """A sentence with a capital letter first; a name of code keeps its own."""
    first = line.split(" ", 1)[0]
    return line if "_" in first or "." in first else line[:1].upper() + line[1:]


def head_and_list(note: str) -> tuple[str, str]:
    """A long note parted before the names it ends in; one that is short, or ends in none, whole and an empty list."""
    head, _, listed = note.rpartition(": ")
    names = bool(head) and not any(" " in one for one in listed.split(", "))
    return (head, listed) if names and len(note) > MOST_OF_A_NOTE else (note, "")


def folded(failures: Sequence[Failure]) -> list[tuple[Failure, str]]:
    """The first few failures of each code with their message; the last of them says how many more there are."""
    counts = Counter(failure.code for failure in failures)
    shown: Counter[str] = Counter()
    said = []
    for failure in failures:
        shown[failure.code] += 1
        more = counts[failure.code] - MOST_OF_A_CODE
        if shown[failure.code] < MOST_OF_A_CODE or (shown[failure.code] == MOST_OF_A_CODE and more <= 0):
            said.append((failure, failure.message))
        elif shown[failure.code] == MOST_OF_A_CODE:
            said.append((failure, f"{failure.message} (and {more} more)"))
    return said


def number(value: float | None, unit: str = "") -> str:
    """A number to six digits with its unit; "-" for what is not there."""
    if value is None:
        return "-"
    if unit == "bytes":
        return f"{value / GIB:.4f} GiB"
    return f"{value:.6g} {unit}".rstrip()


def short(value: float | None, unit: str = "") -> str:
    """A measurement to four digits, which is more than a clock repeats."""
    return number(value if value is None or unit == "bytes" else float(f"{value:.4g}"), unit)


def signed(value: float, unit: str) -> str:
    """A number with its sign, zero excepted."""
    return f"{'+' if value > 0 else ''}{number(value, unit)}"


def bound(row: MetricRow) -> str:
    """The limit of a row as a condition."""
    relation = {"lower": "<=", "higher": ">=", "exact": "="}[row.direction]
    return f"{relation} {number(row.limit, row.unit)}"


def used(row: MetricRow) -> str:
    """The part of the limit that a row uses up, as a share of the distance from perfect agreement."""
    if math.isinf(row.used):
        return "inf"
    return f"{100 * row.used:.3g} %" if row.used < 10 else f"{row.used:.3g}x"


def state(row: MetricRow) -> str:
    """One word for a row."""
    if not row.passed:
        return "waived" if row.waived else "FAIL"
    if row.expired:
        return "expired"
    return "uncalibrated" if row.status == "OVERLAP" else "ok"


def why(row: MetricRow) -> str:
    """The values that a limit lies between, or the meaning of one wanted value; the waiver's reason where there is one.

    Why a limit changed is in the registry, and no message.
    """
    reason = row.reason
    if row.floor is not None:
        reason = f"harmless {number(row.floor, row.unit)} ({row.floor_from})"
        if row.weakest_defect is not None:
            reason += f", weakest defect {number(row.weakest_defect, row.unit)} ({row.weakest_defect_from})"
    if row.waived:
        reason = f"waived: {row.waived}; limit: {reason}"
    return printable(reason if row.status != "OVERLAP" else f"OVERLAP: {reason}")


def sentence(row: MetricRow) -> str:
    """A row in one line, for places without a table."""
    return (
        f"{row.metric} is {number(row.value, row.unit)}, wanted {bound(row)}: margin {signed(row.margin, row.unit)}, "
        f"{used(row)} of the limit used ({why(row)})"
    )


def perf_sentence(row: PerfRow) -> str:
    """A speed row in one line."""
    change = "" if row.change_percent is None else f", {row.change_percent:+.3g} %"
    tail = f" ({row.reason})" if row.reason else ""
    return printable(
        f"{row.quantity} is {number(row.value, row.unit)}, baseline {number(row.baseline, row.unit)}, "
        f"allowed {number(row.allowed, row.unit)}{change}: {row.outcome}{tail}"
    )


def interval(row: PerfRow) -> str:
    """The confidence interval of a change, in the row's unit."""
    if row.interval is None:
        return "-"
    low, high = row.interval
    return f"{signed(low, row.unit)} .. {signed(high, row.unit)}"


def limit_words(change: LimitChange, *, old: bool) -> str:
    """One side of a change of limits."""
    limit = change.old if old else change.new
    if limit is None:
        return "-"
    mark = " (OVERLAP)" if limit.status == "OVERLAP" else ""
    return f"{number(limit.value, limit.unit)}{mark}"


def change_words(change: LimitChange) -> str:
    """The size of a change of limits: "1.4x looser"."""
    if change.old is None or change.new is None:
        return "a new limit" if change.old is None else "no limit any more"
    if change.factor == 1.0:
        return f"{change.old.status} -> {change.new.status}"
    return f"{change.factor:.3g}x {'looser' if change.kind == 'loosened' else 'tighter'}"


def judged_by(verdict: Verdict) -> str:
    """By what a case was judged: "equality of outputs and 668 taps", or "limits on outputs and drift of 41 of 668 taps,
    without isolated errors". What was not judged says why where it is all that there is beside the outputs."""
    drift = verdict.evidence.get("drift")
    if verdict.profile == "exact":
        if drift is None or not (drift.measured or drift.compared):
            return f"equality of outputs alone{'' if drift is None else f': {drift.why}'}"
        return f"equality of outputs and {_taps(drift.compared, drift.of)}"
    there = [level for level, state in verdict.levels.items() if state == JUDGED]
    left_out = [level for level in verdict.levels if level not in there]
    words = f"limits on {_listed([_level_in_words(verdict, level) for level in there])}"
    candidate, differs = verdict.sides.candidate, verdict.sides.environment
    if candidate is not None and of_exact_tier(candidate) and differs:  # which is the candidate's own word
        named = [one.beside for one in differs[:MOST_DIFFERENCES]]
        named += [f"{len(differs) - len(named)} more"] if len(differs) > len(named) else []
        words = words.replace("limits", f"limits and not by bits, since environments differ ({'; '.join(named)}),", 1)
    if there == [OUTPUTS] and "drift" in left_out:
        return f"{words} alone: {verdict.levels['drift']}"
    return words + (f", without {levels_named(left_out)}" if left_out else "")


def _level_in_words(verdict: Verdict, level: str) -> str:
    """A level of evidence, with how many taps it is of where that was counted."""
    one = verdict.evidence.get(level)
    if level != "drift" or one is None or not one.of:
        return LEVEL_WORDS[level]
    return f"drift of {_taps(one.drifting, one.of)}"


def _taps(count: int, of: int) -> str:
    if not of:  # nobody counted
        return "taps"
    return f"{of} taps" if count == of else f"{count} of {of} taps"


def levels_named(levels: Sequence[str]) -> str:
    """Levels of evidence: "outputs, drift of taps and isolated errors"."""
    return _listed([LEVEL_WORDS[level] for level in levels])


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def notes(verdict: Verdict) -> tuple[str, ...]:
    """The notes that a reader needs on a verdict besides its numbers and failures, a sentence each."""
    return (*_evidence(verdict), *_taps_compared(verdict), *_limits_that_decide_nothing(verdict))


def _evidence(verdict: Verdict) -> Iterable[str]:
    """By what a run was judged by limits, what was left out, and what that is worth."""
    if not verdict.levels:
        return
    there = [level for level, state in verdict.levels.items() if state == JUDGED]
    measured = {level: verdict.evidence[level] for level in there if level in verdict.evidence}
    form = f", imported in the form {verdict.form}" if verdict.form else ""
    parts = [f"judged by {levels_named(there)}{form}"]
    parts += [
        "of outputs without latents, which were not given"
        if level == OUTPUTS
        else f"of {LEVEL_WORDS[level]} without {len(one.without)} groups that its runner does not offer"
        for level, one in measured.items()
        if one.without
    ]
    parts += [
        f"of {LEVEL_WORDS[level]} without {', '.join(one.left_out)}, whose taps could not be compared"
        for level, one in measured.items()
        if one.left_out
    ]
    parts += [f"not by {LEVEL_WORDS[level]}: {state}" for level, state in verdict.levels.items() if state != JUDGED]
    if verdict.caught is not None:
        parts.append(_worth(verdict.caught))
    yield "; ".join(parts)


def _worth(caught: CatchCount) -> str:
    alone = " alone" if len(caught.levels) == 1 else ""
    seen = f" {caught.seen}" if caught.seen else ""
    return (
        f"{levels_named(caught.levels)}{seen}{alone} catch {caught.count} of {caught.defects} known defects "
        f"({caught.limits_of}, {caught.date})"
    )


def _taps_compared(verdict: Verdict) -> Iterable[str]:
    """Number of taps compared, where not all were; without any, equality of outputs is no equality of taps."""
    drift = verdict.evidence.get("drift")
    if drift is not None and drift.measured and drift.why:
        yield drift.why
    elif drift is not None and not drift.measured and verdict.profile == "exact":
        yield f"outputs are judged, and no taps but those in both traces: {drift.why}"


def _limits_that_decide_nothing(verdict: Verdict) -> Iterable[str]:
    rows = verdict.rows
    if far := [row.metric for row in rows if row.far and row.failed]:
        yield (
            f"{len(far)} outputs are beyond {ELSEWHERE_FACTOR:g} times the reach of harmless variation, which no other "
            f"machine explains, so limits that were measured elsewhere fail them: {', '.join(far)}"
        )
    if changes := {change for row in rows for change in row.expired}:
        count = sum(bool(row.expired) for row in rows)
        yield (
            f"{count} limits were measured in another environment or on other numbers "
            f"({'; '.join(sorted(map(str, changes)))}): they pass nothing; run where they were measured, or measure "
            "them here with `parity calibrate`"
            + (
                "; `parity diff --as-judged` saves numbers as they are judged"
                if any(change.key == POPULATION for change in changes)
                else ""
            )
        )
    if needed := [row.metric for row in rows if row.status == "OVERLAP"]:
        yield f"OVERLAP by {len(needed)} metrics, on which alone no case passes: {', '.join(needed)}"
    for group in sorted({row.metric.split(".")[0] for row in rows}):
        members = [row for row in rows if row.metric.split(".")[0] == group]
        able = any(row.status == "calibrated" for row in members)  # but expired, or one would be decisive
        if not able and any(row.status != "exact" for row in members):
            yield f"no metric of {group} can decide: harmless variation and known defects were not told apart"
    for row in rows:
        if row.waived:
            yield f"{row.metric} is waived: {row.waived}"


def release_followed(found: Follows) -> str:
    """That a candidate follows another release than it was judged by."""
    where = f"official {found.release} ({found.folder})"
    if math.isinf(found.times):
        return f"The candidate has every bit of {where}, not of {found.instead_of}: it follows that release."
    return (
        f"The candidate is {found.times:.2g} times nearer to {where} than to {found.instead_of}, in frames and "
        "sound: it seems to follow that release."
    )


def headline(verdict: Verdict, perf: PerfVerdict | None = None) -> str:
    """The decision in capitals, with the speed where it was asked for."""
    parity = {"parity": "PARITY", "not_at_parity": "NOT AT PARITY", "undecided": "COULD NOT JUDGE"}[verdict.outcome]
    if perf is None:
        return f"VERDICT: {parity}"
    speed = {
        "ok": "SPEED OK",
        "slower": "TOO SLOW",
        "inconclusive": "SPEED INCONCLUSIVE",
        "not_comparable": "SPEED NOT COMPARABLE",
    }[perf.outcome]
    return f"VERDICT: {parity}, {speed}"
