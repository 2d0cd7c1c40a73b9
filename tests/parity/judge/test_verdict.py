"""The gate: what passes, what fails under which name, and what cannot be judged."""

import json
import math
import subprocess
import sys

import pytest

from parity.diff.comparison import Comparison, Finding
from parity.diff.metric import BIT_EQUALITIES, METRICS
from parity.judge.registry import Registry, Waiver
from parity.judge.rules import judge
from parity.judge.verdict import gate_exit_code
from parity.report.documents import verdict_document
from parity.report.words import in_words, notes
from runners.errors import RegistryError, RunError
from tests.parity.judge.numbers_and_limits import COUNT, EQUAL, ERROR, GOOD, LEVEL, by_limits, limit, registry, row


def test_within_all_limits_is_parity_and_says_by_how_much() -> None:
    verdict = by_limits(GOOD)
    assert (verdict.outcome, verdict.exit_code) == ("parity", 0)
    assert row(verdict, ERROR).margin == pytest.approx(0.05)
    assert row(verdict, ERROR).used == pytest.approx(0.5)
    assert row(verdict, LEVEL).margin == pytest.approx(5.0)
    assert row(verdict, LEVEL).used == pytest.approx(0.562341, abs=1e-6)  # 10^(-5/20)


@pytest.mark.parametrize(
    ("metric", "value", "margin", "used"),
    [
        (ERROR, 0.2, -0.1, 2.0),
        (ERROR, math.inf, -math.inf, math.inf),
        (LEVEL, 10.0, -20.0, 10.0),
        (LEVEL, -math.inf, -math.inf, math.inf),
        (COUNT, -1.0, -1.0, math.inf),
    ],
)
def test_one_metric_beyond_its_limit_is_enough(metric: str, value: float, margin: float, used: float) -> None:
    verdict = by_limits({**GOOD, metric: value})
    assert (verdict.outcome, verdict.exit_code) == ("not_at_parity", 1)
    assert [failed.metric for failed in verdict.failed_rows()] == [metric]
    assert row(verdict, metric).margin == pytest.approx(margin)
    assert row(verdict, metric).used == pytest.approx(used)


def test_the_limit_itself_passes_and_the_next_number_does_not() -> None:
    bound = registry().defaults[ERROR].value
    assert by_limits({**GOOD, ERROR: bound}).exit_code == 0
    assert by_limits({**GOOD, ERROR: math.nextafter(bound, 1)}).exit_code == 1


@pytest.mark.parametrize("value", [math.nan, None])
def test_what_was_not_computed_fails_by_name(value: float | None) -> None:
    verdict = by_limits({**GOOD, ERROR: value})
    assert verdict.exit_code == 2
    assert [(f.code, f.where) for f in verdict.failures] == [
        ("missing_metric" if value is None else "nan_metric", ERROR)
    ]


def test_a_metric_with_a_limit_that_is_absent_fails() -> None:
    verdict = by_limits({ERROR: 0.0, COUNT: 0.0})
    assert verdict.exit_code == 2
    assert [(f.code, f.where) for f in verdict.failures] == [("missing_metric", LEVEL)]


@pytest.mark.parametrize(
    ("code", "where", "outcome"),
    [
        ("missing_tensor", "audio_latent", "undecided"),  # what is missing leaves open what it would have been
        ("nan_candidate", "audio", "undecided"),
        ("incomplete_trace", "candidate", "undecided"),
        ("contradictory_trace", "init/video", "undecided"),
        ("same_run", "run", "undecided"),
        ("identity_mismatch", "dtype", "undecided"),
        ("identity_mismatch", "weights", "not_at_parity"),  # another model by its own word
        ("missing_frame", "video_frames", "not_at_parity"),  # the case fixes how many there are, and how large
        ("shape_mismatch", "video_frames", "not_at_parity"),
        ("shape_mismatch", "denoise/000/latent/video", "not_at_parity"),
        ("shape_mismatch", "text/neg/hidden", "undecided"),  # engines cut prompts up in their own ways
        ("rate_mismatch", "audio", "not_at_parity"),
        ("swapped_pass", "denoise/000/uncond", "not_at_parity"),
    ],
)
def test_a_finding_fails_although_every_number_is_good(code: str, where: str, outcome: str) -> None:
    found = Finding(code=code, where=where, message="x")
    for verdict in (
        by_limits(GOOD, None, found),
        judge(Comparison(case="astronaut", metrics=EQUAL, findings=(found,)), "exact"),
    ):
        assert (verdict.outcome, verdict.failures[0].code) == (outcome, code)


def test_what_is_there_and_fails_decides_before_what_is_missing() -> None:
    missing = Finding(code="missing_tensor", where="denoise/000/uncond/x0/video", message="x")
    for spoiled in ({}, {LEVEL: None}, {LEVEL: math.nan}):
        assert by_limits({**GOOD, **spoiled}, None, missing).exit_code == 2
        assert by_limits({**GOOD, **spoiled, ERROR: 0.2}, None, missing).exit_code == 1
        assert by_limits({**GOOD, **spoiled, COUNT: 1.0}, None, missing).exit_code == 1
    apart = {**EQUAL, BIT_EQUALITIES[0]: 0.0}
    assert judge(Comparison(case="astronaut", metrics=apart, findings=(missing,)), "exact").exit_code == 1


def test_a_metric_without_a_limit_cannot_be_judged_unless_the_registry_says_why() -> None:
    with pytest.raises(RegistryError, match=r"Registry entry missing .*frames\.max_abs"):
        by_limits({**GOOD, "frames.max_abs": 3.0})
    verdict = by_limits({**GOOD, "frames.max_abs": 3.0}, registry(unjudged={"frames.max_abs": "one byte"}))
    assert (verdict.exit_code, verdict.unjudged) == (0, {"frames.max_abs": "one byte"})
    with pytest.raises(RegistryError, match="No metric is named"):
        by_limits({**GOOD, "frames.maxabs": 3.0})


def test_a_gate_that_saw_nothing_does_not_pass() -> None:
    with pytest.raises(RunError, match="nothing was compared"):
        by_limits({})
    with pytest.raises(RunError, match="nothing was compared"):
        judge(Comparison(case="astronaut", metrics={}), "exact")
    with pytest.raises(RegistryError, match="No metric of case 'astronaut' has a limit"):
        by_limits({COUNT: 0.0}, Registry(unjudged={COUNT: "not today"}))
    with pytest.raises(RegistryError, match="give the registry"):
        judge(Comparison(case="astronaut", metrics=GOOD), "limits")


def test_exact_wants_every_output_equal() -> None:
    verdict = judge(Comparison(case="astronaut", metrics={**EQUAL, ERROR: 0.0, COUNT: 0.0}), "exact")
    assert (verdict.outcome, len(verdict.rows), list(verdict.unjudged)) == ("parity", 5, [ERROR])
    several = dict.fromkeys(sorted((name for name in METRICS if name.startswith("video_latent.")), reverse=True), 0.0)
    again = judge(Comparison(case="astronaut", metrics={**EQUAL, **several, COUNT: 0.0}), "exact")
    named = list(again.unjudged)
    assert len(named) > 5 and named == sorted(named)  # in one order on every call
    for name in BIT_EQUALITIES:
        assert judge(Comparison(case="astronaut", metrics={**EQUAL, name: 0.0}), "exact").exit_code == 1
        less = {other: value for other, value in EQUAL.items() if other != name}
        missing = judge(Comparison(case="astronaut", metrics=less), "exact")
        assert (missing.exit_code, missing.failures[0].code) == (2, "missing_metric")
    assert judge(Comparison(case="astronaut", metrics={**EQUAL, COUNT: 1.0}), "exact").exit_code == 1


def test_a_tap_of_another_shape_leaves_nothing_undecided_beside_an_output_with_other_bits() -> None:
    tap = Finding(code="shape_mismatch", where="text/neg/hidden", message="(1, 5, 7) against (1, 6, 7)")
    missing = Finding(code="missing_tensor", where="text/neg/hidden", message="the case leaves this tap")
    frames = Finding(code="shape_mismatch", where="frames", message="(9, 4, 6, 3) against (8, 4, 6, 3)")
    equal: dict[str, float | None] = dict.fromkeys(BIT_EQUALITIES, 1.0)
    apart = {**equal, "outputs.bit_equal.frames": 0.0}

    def code(metrics: dict[str, float | None], *findings: Finding) -> int:
        return judge(Comparison(case="c", metrics=metrics, findings=findings), "exact").exit_code

    assert code(apart, tap) == code(apart, missing) == code(apart, tap, missing) == code(apart, frames) == 1
    assert code(equal, tap) == code(equal, missing) == 2
    assert code(equal, frames) == 1, "the case fixes the size of frames"


def test_the_exact_profile_holds_isolated_errors_to_zero() -> None:
    name = "isolated.block.video.ff"
    assert judge(Comparison(case="astronaut", metrics={**EQUAL, name: 0.0}), "exact").exit_code == 0
    verdict = judge(Comparison(case="astronaut", metrics={**EQUAL, name: 1e-9}), "exact")
    assert verdict.exit_code == 1 and [failed.metric for failed in verdict.failed_rows()] == [name]


def test_a_waiver_excuses_one_metric_and_fails_the_gate_where_it_excuses_nothing() -> None:
    waived = registry(waivers=(Waiver(case="astronaut", metric=ERROR, reason="fused norm, see notes"),))
    verdict = by_limits({**GOOD, ERROR: 0.2}, waived)
    assert (verdict.exit_code, row(verdict, ERROR).waived) == (0, "fused norm, see notes")
    assert f"{ERROR} is waived: fused norm, see notes" in notes(verdict)
    assert by_limits({**GOOD, ERROR: 0.2, LEVEL: 1.0}, waived).exit_code == 1
    stale = by_limits(GOOD, waived)
    assert (stale.exit_code, stale.failures[0].code) == (2, "unmatched_waiver")
    broken = by_limits({**GOOD, ERROR: math.nan}, waived)
    assert [failure.code for failure in broken.failures] == ["nan_metric", "unmatched_waiver"]
    elsewhere = registry(waivers=(Waiver(case="another", metric=ERROR, reason="x"),))
    assert by_limits(GOOD, elsewhere).exit_code == 0


def test_a_case_does_not_pass_on_a_waived_metric_alone() -> None:
    limits = registry(
        defaults={ERROR: limit(ERROR, 0.01, 1.0)}, waivers=(Waiver(case="astronaut", metric=ERROR, reason="x"),)
    )
    assert by_limits({ERROR: 0.2}, limits).outcome == "undecided"


def test_a_limit_of_another_unit_cannot_judge() -> None:
    with pytest.raises(RegistryError, match="is 'higher' in 'dB'; the metric is 'lower'"):
        by_limits(GOOD, registry(defaults={**registry().defaults, ERROR: limit(LEVEL, 40.0, 20.0)}))


def test_the_document_is_json_with_infinities_as_strings() -> None:
    document = json.loads(json.dumps(verdict_document(in_words(by_limits({**GOOD, LEVEL: math.inf}))), allow_nan=False))
    assert (document["parity"], document["exit_code"], document["outcome"]) == (True, 0, "parity")
    level = next(row for row in document["rows"] if row["metric"] == LEVEL)
    assert (level["value"], level["margin"], level["used"]) == ("inf", "inf", 0.0)


def test_a_known_failure_outweighs_what_could_not_be_judged() -> None:
    assert [gate_exit_code(*codes) for codes in ((0, 0), (0, 1), (0, 2), (1, 2), (2, 1))] == [0, 1, 2, 1, 1]


def test_judging_needs_no_torch() -> None:
    code = "import sys, parity.judge.rules, parity.judge.perf; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
