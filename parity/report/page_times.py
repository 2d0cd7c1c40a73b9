"""Times of a run for the page: each quantity beside the reference run and the baseline of the machine."""

import math
from collections.abc import Sequence
from typing import Final

from parity.judge.perf import PerfRow, PerfVerdict
from parity.judge.perf_history import HistoryLine
from parity.judge.timed import timed_run
from parity.report.page_html import Html, Node, cell, join, table, tag, with_code
from parity.report.words import interval, short
from parity.runs.folder import IMPORTED, RunManifest

HEADER: Final = ("quantity", "this run", "reference run", "baseline", "allowed", "change", "")
TONES: Final = {"ok": "good", "slower": "bad", "missing": "bad", "unmatched": "bad", "inconclusive": "warn"}
BAR: Final = (200, 18)  # width and height, CSS pixels
MOST_TIMES: Final = 2.0  # the reference run's time, at which a bar's axis ends
STEPS: Final = (640, 150)


def times_section(
    reference: RunManifest, candidate: RunManifest, perf: PerfVerdict | str, history: Sequence[HistoryLine] = ()
) -> Html:
    """A table of quantities, a bar each, and the time of every step.

    Args:
        reference: of the reference run.
        candidate: of the run under test.
        perf: judged against the baseline, or why it was not.
        history: of the speed of this case, runner and machine, oldest first.
    """
    now, before = _quantities(candidate), _quantities(reference)
    judged = {row.quantity: row for row in perf.rows} if isinstance(perf, PerfVerdict) else {}
    names = list(dict.fromkeys((*now, *judged, *before)))
    rows = [_row(name, now.get(name), before.get(name), judged.get(name)) for name in names]
    said = [f"Not held to a baseline: {perf}"] if isinstance(perf, str) else [f"Baseline: {perf.reason}", *perf.notes]
    key = f"Bar: this run, from nothing to {MOST_TIMES:g} times the reference run. Thin line: reference run. "
    key += "Dashed line: the most that the baseline allows. "
    key += "Change: from the baseline or, where there is none, from the reference run."
    return join(
        [
            [tag("p", {"class": "note"}, with_code(one)) for one in said],
            table([HEADER[0], [HEADER[1], bar_axis()], *HEADER[2:]], rows, {"class": "times"}),
            tag("p", {"class": "note"}, key),
            tag("h3", {}, "Every step"),
            _steps(reference.step_s, candidate.step_s),
            *curve(history),
        ]
    )


def _quantities(manifest: RunManifest) -> dict[str, float]:
    """The times of a run by name; an imported one has none, since nobody's clock was there."""
    return {} if IMPORTED in manifest.details else timed_run(manifest).times.quantities()


def _row(name: str, now: float | None, before: float | None, judged: PerfRow | None) -> Html:
    unit = "bytes" if name == "peak_memory" else "s"
    tone = TONES.get(judged.outcome, "") if judged else ""
    state: Node = tag("span", {"class": f"badge {tone}"}, judged.outcome) if judged else None
    change = "-"
    if judged and judged.change_percent is not None:
        change = f"{judged.change_percent:+.3g} %"
    elif now is not None and before:
        change = change_words(now, before)
    spread = tag("small", {}, f"95 %: {interval(judged)}") if judged and judged.interval else None
    allowed = judged.allowed if judged else None
    return tag(
        "tr",
        {"class": tone or None},
        cell(HEADER[0], tag("code", {}, name), tag("small", {}, judged.reason) if judged and judged.reason else None),
        cell(HEADER[1], short(now, unit), bar(now, before, allowed), kind="number"),
        cell(HEADER[2], short(before, unit), kind="number"),
        cell(HEADER[3], short(judged.baseline if judged else None, unit), kind="number"),
        cell(HEADER[4], short(allowed, unit), kind="number"),
        cell(HEADER[5], change, spread, kind="number"),
        cell(HEADER[6], state),
    )


def change_words(now: float, before: float) -> str:
    """A time beside the reference run's, which is one sample: a share where it is close, else how many times it is."""
    ratio = now / before
    return f"{100 * (ratio - 1):+.1f} %" if 0.5 <= ratio <= 2 else f"{ratio:.3g}×"


def bar_axis() -> Html:
    """The axis of every bar, in times the reference run."""
    width, height = BAR
    ends = ((0.0, "0", ""), (0.5, f"{MOST_TIMES / 2:g}×", "middle"), (1.0, f"≥{MOST_TIMES:g}×", "end"))
    words = [
        tag("text", {"class": kind or None, "x": share * (width - 2), "y": 12}, said) for share, said, kind in ends
    ]
    return tag("svg", {"class": "bar", "viewBox": f"0 0 {width} {height}", "aria-hidden": "true"}, words)


def bar(now: float | None, before: float | None, allowed: float | None) -> Html:
    """A bar on the axis of `bar_axis`; of a quantity that the reference has not, none."""
    width, height = BAR
    if before is None or not 0 < before < math.inf:
        return Html("")

    def at(value: float) -> float:
        return round(min(1.0, value / (MOST_TIMES * before)) * (width - 2), 1)

    def mark(value: float | None, kind: str) -> Node:
        if value is None:
            return None
        return tag("line", {"class": kind, "x1": at(value), "x2": at(value), "y1": 1, "y2": height - 1})

    over = now is not None and allowed is not None and now > allowed
    drawn = tag("rect", {"class": "over" if over else "now", "y": 5, "height": 8, "rx": 2, "width": at(now or 0.0)})
    attributes = {"class": "bar", "viewBox": f"0 0 {width} {height}", "aria-hidden": "true"}
    return tag("svg", attributes, drawn, mark(before, "before"), mark(allowed, "allowed"))


def _steps(before: Sequence[float], now: Sequence[float]) -> Html:
    most = max((*before, *now), default=0.0)
    if most <= 0 or not math.isfinite(most):
        return tag("p", {"class": "note"}, "No step was timed.")
    said = f"{len(now)} steps of this run against {len(before)} of the reference; the longest took {most:.3g} s"
    count = max(len(before), len(now))
    ends = ("step 0", f"step {count - 1}")
    return tag(
        "figure",
        {},
        chart(said, [(before, "before"), (now, "now")], ends),
        tag("figcaption", {}, "Thick: this run. Thin: reference run. Seconds a step."),
    )


def curve(history: Sequence[HistoryLine]) -> list[Html]:
    """Medians of the history, where there is more than one."""
    times = [one for line in history if (one := line.median()) is not None]
    if len(times) < 2:
        return []
    said = f"end to end over {len(times)} entries of the history, from {times[0]:.3g} s to {times[-1]:.3g} s"
    ends = (history[0].created_utc[:10], history[-1].created_utc[:10])
    return [
        tag("h3", {}, "History"),
        tag("figure", {}, chart(said, [(times, "now")], ends), tag("figcaption", {}, "Median end to end, seconds.")),
    ]


def chart(said: str, lines: Sequence[tuple[Sequence[float], str]], ends: tuple[str, str]) -> Html:
    """Lines over an axis from zero, with seconds at the left and both ends of the other axis named."""
    width, height = STEPS
    left, right, top, bottom = 52, width - 10, 12, height - 22
    most = max(value for values, _ in lines for value in values)
    count = max(len(values) for values, _ in lines)

    def x(index: int) -> float:
        return round(left + (index / (count - 1) if count > 1 else 0.5) * (right - left), 1)

    def y(value: float) -> float:
        return round(bottom - value / most * (bottom - top), 1)

    parts: list[Node] = []
    for share in (0.0, 0.5, 1.0):
        at = y(share * most)
        parts.append(tag("line", {"class": "grid", "x1": left, "x2": right, "y1": at, "y2": at}))
        words = f"{share * most:.3g} s"
        parts.append(tag("text", {"x": left - 6, "y": at + 4, "text-anchor": "end"}, words))
    parts.append(tag("text", {"x": left, "y": height - 6}, ends[0]))
    if count > 1:
        parts.append(tag("text", {"x": right, "y": height - 6, "text-anchor": "end"}, ends[1]))
    for values, kind in lines:
        points = " ".join(f"{x(index)},{y(value)}" for index, value in enumerate(values))
        parts.append(tag("polyline", {"class": kind, "points": points}))
        if len(values) == 1:
            parts.append(tag("circle", {"cx": x(0), "cy": y(values[0]), "r": 3}))
    attributes = {"class": "steps", "viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": said}
    return tag("svg", attributes, parts)
