"""The head of the page: the decision in one word, why in one sentence, and what stands behind it in a few numbers."""

import math
from collections.abc import Iterable, Mapping

from parity.diff.comparison import CODES
from parity.diff.metric import METRICS
from parity.diff.runs import RunsDiff
from parity.explain.explanation import Explanation
from parity.judge.perf import PerfVerdict
from parity.judge.verdict import MetricRow, Verdict
from parity.report.explanation import cause_line, explanation_lines, first_place, story
from parity.report.page_html import Html, Node, join, tag, with_code
from parity.report.page_metrics import TONES as ROW_TONES
from parity.report.words import bound, capitalised, head_and_list, judged_by, notes, number, state

WORDS = {"parity": "Parity", "not_at_parity": "Not at parity", "undecided": "Could not judge"}
TONES = {"parity": "good", "not_at_parity": "bad", "undecided": "warn"}
SPEED_WORDS = {
    "ok": ("fast enough", "good"),
    "slower": ("too slow", "bad"),
    "inconclusive": ("inconclusive", "warn"),
    "not_comparable": ("no baseline", "warn"),
}
OUTPUTS = ("frames", "audio", "video_latent", "audio_latent")
MOST_REASONS = 8


def verdict_section(
    found: RunsDiff, verdict: Verdict | str, diagnosis: Explanation | str, perf: PerfVerdict | str
) -> Html:
    """The head. A verdict or diagnosis that is a string is the reason why there is none."""
    outcome = verdict.outcome if isinstance(verdict, Verdict) else "undecided"
    tone = TONES[outcome]
    symptom = verdict if isinstance(verdict, str) else _sentence(verdict, found.metrics)
    lead = "" if outcome == "parity" else cause_line(diagnosis)
    return tag(
        "header",
        {"class": f"verdict {tone}", "id": "verdict"},
        tag("p", {"class": "eyebrow"}, f"Parity report · {found.case}"),
        tag("h1", {"data-outcome": outcome}, WORDS[outcome]),
        tag("p", {"class": "lead"}, with_code(lead or symptom)),
        tag("p", {"class": "sides"}, _sides(found, verdict)),
        _reasons(verdict, diagnosis, symptom if lead else ""),
        tag("div", {"class": "tiles"}, list(_tiles(found.metrics, verdict, diagnosis, perf))),
    )


def divergence_section(diagnosis: Explanation | str, verdict: Verdict | str, case: str) -> Html:
    """The place where the run first departs, in words."""
    if isinstance(diagnosis, str):
        return tag("p", {"class": "note"}, diagnosis)
    found = diagnosis.divergence
    first, *rest = explanation_lines(diagnosis, verdict, case)
    tone = "good" if not found.departs else "bad" if found.roots else "warn"
    return join(
        [
            tag("p", {"class": f"first {tone}"}, with_code(capitalised(first))),
            tag("ul", {"class": "explanation"}, (tag("li", {}, _labelled(line)) for line in rest)),
        ]
    )


def _sentence(verdict: Verdict, metrics: Mapping[str, float]) -> str:
    if verdict.outcome == "parity":
        if verdict.profile == "exact":
            return "Frames, sound and latents equal the reference's in every bit."
        return f"All {len(verdict.rows)} judged metrics are within their limits."
    failed = verdict.failed_rows()
    if verdict.failures and verdict.outcome == "undecided":
        more = f" and {len(verdict.failures) - 1} more" if len(verdict.failures) > 1 else ""
        return f"{verdict.failures[0].code} in {verdict.failures[0].where}{more}: the numbers cannot be believed."
    if not failed and verdict.failures:
        more = f" and {len(verdict.failures) - 1} more" if len(verdict.failures) > 1 else ""
        return f"{verdict.failures[0].code} in {verdict.failures[0].where}{more}: the case fixes what is another here."
    if not failed:
        return "Nothing failed, but nothing that passed can tell a defect from harmless variation."
    if verdict.profile == "exact":
        other = [name.replace("_", " ") for name in OUTPUTS if metrics.get(f"outputs.bit_equal.{name}") != 1.0]
        taps = f"{metrics.get('taps.bit_different', 0):.0f} taps, though the outputs are equal"
        return f"Bits were to be equal and are not, in {', '.join(other) or taps}."
    worst = max(failed, key=lambda row: row.used)
    value = number(worst.value, worst.unit)
    return (
        f"{len(failed)} of {len(verdict.rows)} judged metrics are beyond their limit; "
        f"farthest: {worst.metric} is {value}, wanted {bound(worst)}."
    )


def _sides(found: RunsDiff, verdict: Verdict | str) -> str:
    def side(one: str) -> str:
        it = getattr(found, one)
        return f"{it.runner} ({it.tier}, {it.dtype}, release {it.reference})"

    how = "" if isinstance(verdict, str) else f", by {judged_by(verdict)}"
    changed = (
        f"; environments differ: {'; '.join(one.beside for one in found.environment)}" if found.environment else ""
    )
    return f"{side('candidate')} judged against {side('reference')}{how}{changed}"


def _reasons(verdict: Verdict | str, diagnosis: Explanation | str, symptom: str) -> Node:
    said = [symptom] if symptom else []
    if isinstance(verdict, str) or verdict.outcome != "parity":
        said.append(story(diagnosis, verdict))
    if isinstance(verdict, Verdict):
        said += [f"{failure.code} in {failure.where}: {failure.message}" for failure in verdict.failures]
    if isinstance(verdict, Verdict) and verdict.outcome == "undecided":
        said += [head_and_list(note)[0] for note in notes(verdict)]
    more = [f"and {len(said) - MOST_REASONS} more"] if len(said) > MOST_REASONS else []
    lines = [*said[:MOST_REASONS], *more]
    return (
        tag("ul", {"class": "reasons"}, (tag("li", {}, with_code(capitalised(line))) for line in lines))
        if lines
        else None
    )


def _tiles(
    metrics: Mapping[str, float], verdict: Verdict | str, diagnosis: Explanation | str, perf: PerfVerdict | str
) -> Iterable[Html]:
    rows = {} if isinstance(verdict, str) else {row.metric: row for row in verdict.rows}
    if isinstance(diagnosis, Explanation):
        found = diagnosis.divergence
        place, _, size = first_place(diagnosis).partition(", ")
        counted = f"{found.compared} taps compared, {found.above} beyond what is allowed"
        tone = "good" if not found.departs else "bad" if found.roots else "warn"
        yield _tile("First divergence", place or "none", f"{size}; {counted}" if size else counted, f"{tone} wide")
    for title, output, metric, label in (
        ("Frames", "frames", "frames.psnr_db.min", "worst frame's PSNR"),
        ("Sound", "audio", "audio.snr_db.min", "worst channel's SNR"),
        ("Video latent", "video_latent", "video_latent.relative_l2", "relative L2"),
        ("Audio latent", "audio_latent", "audio_latent.relative_l2", "relative L2"),
    ):
        yield _output(metrics, rows, title, output, metric, label)
    if isinstance(perf, PerfVerdict):
        word, tone = SPEED_WORDS[perf.outcome]
        alike = (
            "of this machine and kind of run" if perf.outcome == "not_comparable" else "against this machine's baseline"
        )
        yield _tile("Speed", word, alike, tone)


def _output(
    metrics: Mapping[str, float], rows: Mapping[str, MetricRow], title: str, output: str, metric: str, label: str
) -> Html:
    """An output's tile: its metric, the tone of how that was judged, and the limit that it was judged by."""
    equality = f"outputs.bit_equal.{output}"
    if metrics.get(equality) == 1.0:
        return _tile(title, "identical", "every bit is equal", "good")
    value = metrics.get(metric, math.nan)
    words = "no number" if math.isnan(value) else number(float(f"{value:.4g}"), METRICS[metric].unit)
    row = rows.get(metric, rows.get(equality))
    if row is None:
        return _tile(title, words, label)
    limit = "wanted: equal bits" if row.metric == equality else f"limit {bound(row)}"
    told = state(row)
    weak = "; alone it decides nothing" if told == "uncalibrated" else ""
    return _tile(title, words, f"{label}{weak}", ROW_TONES[told], limit)


def _tile(title: str, value: str, label: str, tone: str = "", limit: str = "") -> Html:
    return tag(
        "div",
        {"class": f"tile {tone}".strip()},
        tag("span", {"class": "title"}, title),
        tag("strong", {}, value),
        tag("span", {"class": "limit"}, limit) if limit else None,
        tag("span", {"class": "label"}, label),
    )


def _labelled(line: str) -> Node:
    """`native: path` with its label set apart; of a finding its code is the label, of advice its verb."""
    for label in ("look at", *CODES):
        if line.startswith(f"{label} "):
            return [tag("b", {}, capitalised(label)), tag("span", {}, with_code(line.removeprefix(f"{label} ")))]
    label, colon, rest = line.partition(": ")
    if not colon or len(label) > 40:
        return tag("span", {}, with_code(capitalised(line)))
    return [tag("b", {}, capitalised(label)), tag("span", {}, with_code(rest))]
