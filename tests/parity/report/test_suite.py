"""The table of a suite: every tap is held to its bits, and neither a refusal nor an early stop is a pass."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from parity.diff.comparison import Comparison, Finding, Side
from parity.diff.metric import METRICS
from parity.diff.runs import RunsDiff, read_numbers
from parity.diff.sketches import SketchDiff
from parity.diff.traces import OmittedTaps, TraceDiff
from parity.explain.diagnosis import NO_TRACES
from parity.explain.explanation import Explanation, explain
from parity.explain.floors import Floors
from parity.judge.rules import judge
from parity.report.explanation import explanation_lines
from parity.report.markdown import escaped
from parity.report.suite import COLUMNS, SuiteLine, draw_suite, save_suite, suite_code
from parity.report.terminal import Terminal
from parity.runs.folder import RunManifest
from parity.taps.dataflow import Dataflow
from runners.case import Case

Diagnose = Callable[..., Explanation]

PERFECT = {"exact": 0.0, "lower": 0.0, "higher": 1.0}


def numbers(**changes: float) -> RunsDiff:
    metrics = {name: PERFECT[metric.direction] for name, metric in METRICS.items()}
    metrics |= {name: 1.0 for name in metrics if ".bit_equal." in name}
    side = Side(runner="native", tier="exact", dtype="bf16", reference="1.0.0", run_sha256="ab" * 32)
    return RunsDiff(
        case="micro",
        reference=side,
        candidate=side,
        environment=(),
        environment_of_candidate={"device_name": "GPU|<b>"},
        metrics={**metrics, **{name.replace("__", "."): value for name, value in changes.items()}},
        findings=(),
        per_frame={},
    )


def record(runner: str) -> RunManifest:
    values: dict[str, Any] = {
        "schema_version": 1,
        "case": {"id": "micro"},
        "inputs": {},
        "runner": runner,
        "tier": "exact",
        "dtype": "bf16",
        "reference": "1.0.0",
        "weights_hash": "ab",
        "model_version": "2.3",
        "environment": {"device_name": "GPU|<b>"},
        "created_utc": "2026-01-01T00:00:00+00:00",
        "frame_rate": 24.0,
        "sample_rate_hz": 48000,
        "sigmas": [1.0, 0.0],
        "end_to_end_s": 12.34,
        "stage_s": {"denoising": 10.0},
        "step_s": [1.0],
        "peak_bytes": 3 << 30,
        "details": {},
        "files": {},
    }
    return msgspec.convert(values, RunManifest)


@pytest.fixture
def diagnosis(micro_case: Callable[..., Case]) -> Diagnose:
    """Two taps, equal or not, with findings."""
    flow = Dataflow(micro_case(), 2)

    def made(equal: bool, *findings: Finding) -> Explanation:
        diff = SketchDiff(estimate=0.0 if equal else 0.5, low=0.0, high=0.5, bit_equal=equal)
        taps = {"decode/frames": diff, "decode/mel": diff}
        traces = TraceDiff(taps=taps, findings=findings, is_wanted=lambda tap: tap in taps)
        return explain(traces, flow, Floors(flow, "bf16"), bits_expected=True)

    return made


def line(taps: Explanation | None = None, refusal: str = "", **changes: float) -> SuiteLine:
    found = numbers(**changes)
    return SuiteLine(
        case="micro",
        what="native against official",
        found=found,
        verdict=refusal or judge(found, "exact"),
        taps=taps,
        manifests=(record("official"), record("native")),
    )


def test_equal_outputs_and_taps_are_parity(diagnosis: Diagnose) -> None:
    good = line(diagnosis(True))
    assert (good.code, good.complaints()) == (0, [])
    cells = dict(zip(COLUMNS, good.cells(), strict=True))
    assert cells["frames"] == cells["sound"] == cells["latents"] == "bit-identical"
    assert (cells["taps"], cells["time"], cells["peak"]) == ("2 bit-identical", "12.3 s / 12.3 s", "3.0 / 3.0 GiB")


def good_has_none(diagnosis: Diagnose) -> bool:
    return line(diagnosis(True)).document()["explanation"] == ""


def test_a_tap_that_differs_is_no_parity_even_if_all_outputs_are_equal(diagnosis: Diagnose) -> None:
    bad = line(diagnosis(False))
    assert bad.code == 1 and bad.cells()[6] == "2 of 2 differ"
    assert bad.complaints() == list(explanation_lines(diagnosis(False)))
    assert bad.complaints()[0].startswith("0 of 2 taps equal in every bit; the first to differ is `decode/frames`")
    assert bad.complaints()[1].startswith("first departs at decoded frames: relative L2 0.5")
    assert bad.document()["explanation"] == bad.complaints()[0] and good_has_none(diagnosis)


def test_a_tap_that_is_missing_cannot_be_judged(diagnosis: Diagnose) -> None:
    assert line(diagnosis(True, Finding(code="missing_tensor", where="decode/mel", message="gone"))).code == 2


def test_an_output_that_differs_is_no_parity_and_shows_by_how_much() -> None:
    bad = line(outputs__bit_equal__frames=0.0, frames__psnr_db__min=41.5)
    assert bad.code == 1 and bad.cells()[3] == "PSNR 41.5 dB" and "bit_equal" in bad.complaints()[0]


def test_what_has_no_limits_is_not_judged_and_says_why() -> None:
    refused = line(refusal="Registry entry missing")
    assert (refused.code, refused.cells()[2], refused.complaints()[0]) == (2, "-", "Registry entry missing")
    assert refused.complaints()[1:] == [refused.why] == [NO_TRACES]


def test_taps_that_were_left_out_are_said_though_the_line_is_at_parity(diagnosis: Diagnose, tmp_path: Path) -> None:
    omitted = OmittedTaps(taps=("text/pos/hidden",), padded=("reference",))
    good = replace(line(diagnosis(True)), found=replace(numbers(), left_out=omitted))
    said = io.StringIO()
    draw_suite(Terminal(file=said, width=200), [good], [])
    words = "text/pos/hidden left out: the reference was recorded when they still held padding"
    assert words in said.getvalue()
    save_suite(tmp_path, [good], [], 1.0)
    assert escaped(words) in (tmp_path / "suite.md").read_text()
    document = json.loads((tmp_path / "suite.json").read_text())
    assert document["lines"][0]["left_out"]["taps"] == ["text/pos/hidden"] and good.code == 0


@pytest.mark.parametrize(
    ("lines", "missing", "code"),
    [([line()], [], 0), ([line()], ["micro/native"], 2), ([], [], 2), ([line(), line(refusal="no")], [], 2)],
)
def test_a_suite_passes_only_whole(lines: list[SuiteLine], missing: list[str], code: int) -> None:
    assert suite_code(lines, missing) == code


def test_it_is_drawn_and_saved_and_its_numbers_can_be_judged_again(diagnosis: Diagnose, tmp_path: Path) -> None:
    said = io.StringIO()
    draw_suite(Terminal(file=said, width=150), [line(diagnosis(True))], ["micro/late"])
    text = said.getvalue()
    assert "COULD NOT JUDGE" in text and "not run yet: micro/late" in text
    assert "…" not in text and "native against official" in text  # a log is as wide as its table
    save_suite(tmp_path, [line(diagnosis(True))], [], 433.6)
    document = json.loads((tmp_path / "suite.json").read_text())
    assert document["took_s"] == 433.6 and "This call took 434 s." in (tmp_path / "suite.md").read_text()
    assert (document["exit_code"], document["outcome"]) == (0, "PARITY")
    assert document["runs"]["micro/native"]["step_s"] == [1.0]
    assert "GPU\\|&lt;b&gt;" in (tmp_path / "suite.md").read_text()
    saved = read_numbers(tmp_path / "numbers_micro_native_against_official.json")
    assert judge(Comparison(case="micro", metrics=saved.metrics), "exact").outcome == "parity"
