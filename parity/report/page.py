"""One run as one page: verdict first, then where it departs, what that does to picture and sound, and what it costs.

The page is a single file that asks nothing of a network: style, scripts, pictures and sound are inside, and its content
policy forbids everything else. Runs are data from strangers: all text is escaped by `parity.report.page_html`, and
scripts read data as JSON and write it as text.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

from parity.diff.runs import RunsDiff
from parity.explain.explanation import Explanation
from parity.judge.limit import Limit
from parity.judge.perf import PerfVerdict
from parity.judge.perf_history import HistoryLine
from parity.judge.verdict import Verdict
from parity.report.page_drift import drift_data
from parity.report.page_environment import environment_section
from parity.report.page_frames import album
from parity.report.page_html import Html, Node, data_block, join, tag, with_code
from parity.report.page_identity import IdentityAnswer, identity_section
from parity.report.page_metrics import axis_data, metric_table, plain_metrics
from parity.report.page_outputs import shown_outputs
from parity.report.page_sound import sound_data
from parity.report.page_times import times_section
from parity.report.page_verdict import divergence_section, verdict_section
from parity.runs.folder import Run
from parity.trace.atomic import write_bytes_atomic

MOST_PAGE_BYTES: Final = 12_000_000
MOST_SOUND_BYTES: Final = 4_500_000
ROOM_FOR_WORDS: Final = 1_000_000  # of the page, for tables, style and scripts
STYLE: Final = "page.css"
SCRIPTS: Final = ("page.js", "drift_map.js", "drift_detail.js", "frames.js", "sound.js", "limits.js")  # in this order
SECTIONS: Final = (
    ("divergence", "First divergence"),
    ("identity", "Which release"),
    ("drift", "Drift map"),
    ("frames", "Frames"),
    ("sound", "Sound"),
    ("metrics", "Metrics and limits"),
    ("times", "Times"),
    ("environment", "Environment"),
)


@dataclass(frozen=True, kw_only=True)
class Content:
    """Everything on a page. Where a field is a string, it is the reason why there is nothing else."""

    reference: Run
    candidate: Run
    found: RunsDiff
    verdict: Verdict | str
    perf: PerfVerdict | str
    diagnosis: Explanation | str
    limits: Mapping[str, Limit] = field(default_factory=dict)
    identified: IdentityAnswer | None = None
    history: Sequence[HistoryLine] = ()  # of the speed of this case, runner and machine


def write_page(path: Path, content: Content) -> int:
    """Write the page, whole or not at all; returns its size in bytes. Raises: RunError if outputs cannot be read."""
    data = render(content).encode()
    write_bytes_atomic(path, data)
    return len(data)


def render(content: Content) -> str:
    """The page as text of at most about `MOST_PAGE_BYTES`."""
    found, diagnosis = content.found, content.diagnosis
    old, new, notes = shown_outputs(content.reference, content.candidate)
    if not notes and any(name.startswith("small_") for name in found.per_frame):
        notes = ("Limits of this case hold for what its golden keeps, so the numbers below are of small copies.",)
    sound, sound_notes = sound_data(
        old.waveform, new.waveform, (old.sample_rate_hz, new.sample_rate_hz), MOST_SOUND_BYTES
    )
    numbers: dict[str, Any] = {
        "limits": axis_data(found.metrics, content.limits),
        "drift": None if isinstance(diagnosis, str) else drift_data(diagnosis),
    }
    sound_block, numbers_block = data_block("sound-data", sound), data_block("numbers", numbers)
    room = MOST_PAGE_BYTES - ROOM_FOR_WORDS - len(sound_block) - len(numbers_block)
    pictures = album(old.frames, new.frames, room)
    allowed = {name: limit.value for name, limit in content.limits.items()}
    frames_block = data_block("frames-data", pictures.data(old.frame_rate_hz, found.per_frame, allowed))
    bodies: dict[str, Node] = {
        "divergence": divergence_section(diagnosis, content.verdict, found.case),
        "identity": identity_section(content.identified),
        "drift": _drift(diagnosis),
        "frames": [*map(_note, (*notes, *pictures.notes())), _slot()],
        "sound": [*map(_note, sound_notes), _slot()],
        "metrics": metric_table(content.verdict, found.metrics, content.limits)
        if isinstance(content.verdict, Verdict)
        else plain_metrics(found.metrics, content.limits),
        "times": times_section(content.reference.manifest, content.candidate.manifest, content.perf, content.history),
        "environment": environment_section(content.reference.manifest, content.candidate.manifest),
    }
    head = verdict_section(found, content.verdict, diagnosis, content.perf)
    sections = [
        tag("section", {"id": name, "aria-labelledby": f"{name}-title"}, _title(name, title), bodies[name])
        for name, title in SECTIONS
    ]
    links = tag("nav", {"aria-label": "Sections"}, (tag("a", {"href": f"#{n}"}, t) for n, t in SECTIONS))
    body = [head, links, tag("main", {}, sections), numbers_block, frames_block, sound_block]
    return _document(f"{head_word(content.verdict)}: {found.case}", join(body))


def head_word(verdict: Verdict | str) -> str:
    """The decision, for the window's title."""
    return verdict.outcome.replace("_", " ") if isinstance(verdict, Verdict) else "could not judge"


def _title(name: str, title: str) -> Html:
    return tag("h2", {"id": f"{name}-title"}, title)


def _slot() -> Html:
    """The places where a script draws."""
    return tag("div", {"class": "slot"}, tag("noscript", {}, tag("p", {}, "This part is drawn by a script.")))


def _note(words: str) -> Html:
    return tag("p", {"class": "note"}, with_code(words))


def _drift(diagnosis: Explanation | str) -> Node:
    if isinstance(diagnosis, str):
        return _note(f"No map: {diagnosis}")
    floors = (
        "the registry's, by groups of taps" if diagnosis.floors_by_registry else "as measured in the file of floors"
    )
    if diagnosis.floors_by_rule:
        floors = "by rule where nobody measured it"
    omitted = diagnosis.traces.left_out
    return [
        _note(omitted.words) if omitted.taps else None,
        _note(
            "Relative L2 of every tap, estimated from sketches to about -15 % .. +21 %. Rows are steps, columns are "
            f"blocks, then the step's last three taps. Harmless noise is {floors}."
        ),
        _slot(),
    ]


def _document(title: str, body: Html) -> str:
    assets = resources.files("parity.report") / "assets"
    style = (assets / STYLE).read_text(encoding="utf-8")
    script = "\n".join((assets / name).read_text(encoding="utf-8") for name in SCRIPTS)
    policy = (
        f"default-src 'none'; img-src data:; media-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    head = [
        tag("meta", {"charset": "utf-8"}),
        tag("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("meta", {"name": "color-scheme", "content": "light dark"}),
        tag("link", {"rel": "icon", "href": "data:,"}),
        tag("title", {}, title),
        tag("style", {}, Html(style)),
    ]
    page = tag("html", {"lang": "en"}, tag("head", {}, head), tag("body", {}, body, tag("script", {}, Html(script))))
    return f"<!DOCTYPE html>\n{page}\n"


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode('ascii')}'"
