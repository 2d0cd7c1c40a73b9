"""By which limits and on which levels of evidence a comparison is judged, and what it owes."""

import math

import msgspec
import pytest

from parity.diff.comparison import MEASURED, Comparison, EvidenceLevel, Finding
from parity.diff.metric import BIT_EQUALITIES, METRICS
from parity.judge.limit import exact_limit
from parity.judge.limit_table import TableKey
from parity.judge.registry import Registry
from parity.judge.rules import judge
from parity.judge.strength import Strength
from parity.judge.verdict import Verdict
from parity.report.documents import verdict_document
from parity.report.words import in_words, notes
from runners.errors import RegistryError
from tests.parity.judge.numbers_and_limits import (
    ALL,
    ALONE,
    COUNT,
    DRIFT,
    EQUAL,
    ERROR,
    GOOD,
    HERE,
    LEVEL,
    by_limits,
    changes,
    limit,
    on,
    on_levels,
    registry,
    row,
    with_internals,
)


def test_no_case_passes_on_uncalibrated_limits_alone_but_it_may_fail_on_them() -> None:
    overlap = {ERROR: limit(ERROR, 0.1, 0.11), COUNT: exact_limit(METRICS[COUNT])}  # bound 0.125
    limits = registry(defaults=overlap)
    verdict = by_limits({ERROR: 0.12, COUNT: 0.0}, limits)
    assert (verdict.outcome, verdict.exit_code) == ("undecided", 2)
    assert any("OVERLAP" in note and ERROR in note for note in notes(verdict))
    assert by_limits({ERROR: 0.13, COUNT: 0.0}, limits).exit_code == 1
    helped = registry(defaults={**overlap, LEVEL: limit(LEVEL, 40.0, 20.0)})
    verdict = by_limits({ERROR: 0.12, COUNT: 0.0, LEVEL: 31.0}, helped)
    assert verdict.exit_code == 0
    assert any("no metric of video_latent can decide" in note for note in notes(verdict))


def test_limits_of_another_environment_pass_nothing_and_fail_only_what_is_far_beyond() -> None:
    def elsewhere(metrics: dict[str, float | None]) -> Verdict:
        return judge(
            Comparison(case="astronaut", metrics=metrics, environment_of_candidate={"torch": "2.14.0"}),
            "limits",
            registry=registry(),
        )

    verdict = elsewhere(GOOD)
    assert (verdict.outcome, changes(verdict, ERROR)) == ("undecided", ["torch: 2.13.0 -> 2.14.0"])
    assert any("or on other numbers (torch: 2.13.0 -> 2.14.0)" in note for note in notes(verdict))
    assert not any("were not told apart" in note for note in notes(verdict))  # they were, only elsewhere
    for level, code in ((29.0, 2), (20.1, 2), (19.9, 1)):  # beyond 30 dB, the limit; 40 dB - 20 log10(8 x 1.25) = 20 dB
        assert elsewhere({**GOOD, LEVEL: level}).exit_code == code
    for error, code in ((0.2, 1), (0.1001, 1), (0.1, 2)):  # the limit is 0.1, and so are 8 reaches of 0.0125
        assert elsewhere({**GOOD, ERROR: error}).exit_code == code
    assert elsewhere({**GOOD, LEVEL: 25.0, COUNT: 1.0}).exit_code == 1  # one wanted value is wanted everywhere
    verdict = elsewhere({**GOOD, ERROR: 0.2})
    assert any(note.startswith("1 outputs are beyond 8 times the reach") and ERROR in note for note in notes(verdict))


def test_limits_of_taps_measured_elsewhere_fail_nothing_however_far() -> None:
    verdict = judge(
        Comparison(
            case="astronaut",
            metrics={**GOOD, DRIFT: 9.0},
            levels={"outputs": MEASURED, "drift": MEASURED},
            environment_of_candidate={"torch": "2.14.0"},
        ),
        "limits",
        registry=with_internals(),
    )
    assert verdict.outcome == "undecided" and not row(verdict, DRIFT).passed


def test_a_floor_of_zero_is_no_measure_of_what_is_far() -> None:
    lag = "audio.lag_samples.max_abs"
    still = registry(defaults={**registry().defaults, lag: limit(lag, 0.0, 20.0)})
    verdict = judge(
        Comparison(case="astronaut", metrics={**GOOD, lag: 9.0}, environment_of_candidate={"torch": "2.14.0"}),
        "limits",
        registry=still,
    )
    assert verdict.outcome == "undecided"


def test_limits_of_another_population_pass_nothing_and_fail_only_what_is_far_beyond() -> None:
    some = "boxes of 8 px, taps latent/*"

    def over(compared_on: str, measured_on: dict[str, str], value: float = 0.05) -> Verdict:
        calibration = msgspec.structs.replace(registry().calibrations["c"], compared_on=measured_on)
        return judge(
            Comparison(
                case="astronaut", metrics={**GOOD, ERROR: value}, environment_of_candidate=HERE, compared_on=compared_on
            ),
            "limits",
            registry=registry(calibrations={"c": calibration}),
        )

    assert [over(some, {"astronaut": some}, value).exit_code for value in (0.05, 0.2)] == [0, 1]
    for compared_on, measured_on, said in (
        (some, {}, f"compared: everything -> {some}"),
        ("", {"astronaut": some}, f"compared: {some} -> everything"),
        (some, {"another": some}, f"compared: everything -> {some}"),
    ):
        verdict = over(compared_on, measured_on)
        assert (verdict.outcome, changes(verdict, ERROR)) == ("undecided", [said])
        assert any(f"or on other numbers ({said})" in note for note in notes(verdict))
        assert [over(compared_on, measured_on, value).exit_code for value in (0.1, 0.2)] == [2, 1]


def test_each_device_is_judged_by_its_own_limits_and_asked_for_them_by_name() -> None:
    cpu = registry()
    here, there = TableKey("astronaut"), TableKey("astronaut", "H100")
    limits = registry(
        defaults={},
        cases={here: cpu.defaults, there: {ERROR: limit(ERROR, 0.2, 2)}},
    )
    assert limits.devices_of("astronaut") == ("", "H100") and limits.devices_of("astro") == ()
    assert on("H100", {ERROR: 0.6}, limits).exit_code == 0  # up to 0.63, where a CPU may have 0.1
    assert by_limits({**GOOD, ERROR: 0.6}, limits).exit_code == 1
    with pytest.raises(RegistryError, match=r"measured on H200.*\(measured: a CPU, H100\).*--device cuda"):
        on("H200", {ERROR: 0.0}, limits)
    only_there = registry(defaults={}, cases={there: {ERROR: limit(ERROR, 0.2, 2)}})
    with pytest.raises(RegistryError, match=r"measured on a CPU.*\(measured: H100\)"):
        by_limits(GOOD, only_there)
    with pytest.raises(RegistryError, match=r"measured on H100.*nowhere yet"):
        on("H100", {ERROR: 0.0}, registry(defaults={}))


def test_a_verdict_says_how_many_taps_were_compared_where_not_all_were() -> None:
    part = {**ALL, "drift": EvidenceLevel(measured=True, why="288 of 668 taps were compared")}
    found = on_levels(part)
    assert part["drift"].why in notes(found) and found.outcome == on_levels(ALL).outcome == "parity"
    assert part["drift"].why not in notes(on_levels(ALL))
    exact = judge(Comparison(case="astronaut", metrics=dict.fromkeys(BIT_EQUALITIES, 1.0), levels=part), "exact")
    assert part["drift"].why in notes(exact) and exact.outcome == "parity"


def test_internals_are_judged_where_they_were_measured() -> None:
    good = on_levels(ALL)
    assert (good.outcome, set(good.levels.values())) == ("parity", {"judged"})
    assert notes(good)[0] == "judged by outputs, drift of taps and isolated errors"
    assert on_levels(ALL, drift=0.2).outcome == "not_at_parity"
    assert on_levels(ALL, alone=0.2).outcome == "not_at_parity"


def test_a_level_that_was_not_measured_is_named_with_the_reason_and_what_the_rest_is_worth() -> None:
    levels = {"outputs": MEASURED, "drift": EvidenceLevel(measured=False, why="it offers no internals")}
    strength = Strength(
        kind="mutation",
        limits_of="tiny",
        date="2026-01-02",
        defects=9,
        killed=9,
        killed_by_levels={"outputs": 5},
    )
    verdict = on_levels(levels, strength, drift=0.9, alone=0.9)
    assert verdict.outcome == "parity" and not any(row.metric in (DRIFT, ALONE) for row in verdict.rows)
    assert notes(verdict)[0] == (
        "judged by outputs; not by drift of taps: it offers no internals; not by isolated errors: it was not measured; "
        "outputs alone catch 5 of 9 known defects (tiny, 2026-01-02)"
    )
    assert verdict_document(in_words(verdict))["levels"]["drift"] == "it offers no internals"


def test_a_level_that_the_candidate_owes_is_a_failure() -> None:
    owed = EvidenceLevel(measured=False, why="its run has no trace", owed=True)
    verdict = on_levels({**ALL, "drift": owed})
    assert (verdict.outcome, verdict.exit_code) == ("undecided", 2)
    assert [(failure.code, failure.where) for failure in verdict.failures] == [("missing_trace", "drift")]


def test_a_group_with_a_limit_that_was_not_measured_fails_and_one_without_a_limit_is_raised() -> None:
    without = judge(
        Comparison(case="astronaut", metrics=GOOD, environment_of_candidate=HERE, levels=ALL),
        "limits",
        registry=with_internals(),
    )
    assert {failure.where for failure in without.failures} == {DRIFT, ALONE}
    with pytest.raises(RegistryError, match=r"drift\.image"):
        judge(
            Comparison(
                case="astronaut",
                metrics=GOOD | {DRIFT: 0.0, ALONE: 0.0, "drift.image": 0.0},
                environment_of_candidate=HERE,
                levels=ALL,
            ),
            "limits",
            registry=with_internals(),
        )


def test_groups_that_a_runner_does_not_offer_are_left_out_and_said() -> None:
    levels = {**ALL, "drift": EvidenceLevel(measured=True, without=(DRIFT,))}
    metrics = {name: value for name, value in GOOD.items() if name != DRIFT} | {ALONE: 0.005}
    verdict = judge(
        Comparison(case="astronaut", metrics=metrics, environment_of_candidate=HERE, levels=levels),
        "limits",
        registry=with_internals(),
    )
    assert verdict.outcome == "parity" and "of drift of taps without 1 groups" in notes(verdict)[0]
    assert on_levels(levels, drift=0.9).outcome == "not_at_parity", "what it offers all the same is judged"


def test_groups_whose_taps_could_not_be_compared_are_named_and_nothing_is_claimed_of_them() -> None:
    levels = {**ALL, "drift": EvidenceLevel(measured=True, left_out=(DRIFT,))}
    strength = Strength(
        kind="mutation",
        limits_of="tiny",
        date="2026-01-02",
        defects=9,
        killed=9,
        killed_by_levels={"outputs+drift+isolated": 9},
    )
    verdict = judge(
        Comparison(case="astronaut", metrics=GOOD | {ALONE: 0.005}, environment_of_candidate=HERE, levels=levels),
        "limits",
        registry=with_internals(),
        strength=strength,
    )
    assert verdict.outcome == "parity" and not any(row.metric == DRIFT for row in verdict.rows)
    assert f"of drift of taps without {DRIFT}, whose taps could not be compared" in notes(verdict)[0]
    assert "known defects" not in notes(verdict)[0] and "9 of 9 known defects" in notes(on_levels(ALL, strength))[0]


def test_a_limit_of_padded_text_decides_nothing_of_real_tokens() -> None:
    limits = with_internals()
    padded = msgspec.structs.replace(limits.calibrations["c"], padded_text=True)
    older = msgspec.structs.replace(limits, calibrations={"c": padded})

    def judged(padded_text: bool) -> Verdict:
        return judge(
            Comparison(
                case="astronaut",
                metrics=GOOD | {DRIFT: 0.9, ALONE: 0.005},
                environment_of_candidate=HERE,
                levels=ALL,
                padded_text=padded_text,
            ),
            "limits",
            registry=older,
        )

    now, then = judged(padded_text=False), judged(padded_text=True)
    said = "compared: hidden states of text with padding -> with real tokens only"
    assert now.outcome == "undecided" and changes(now, DRIFT) == [said] and not row(now, DRIFT).decisive
    assert any("1 limits were measured in another environment or on other numbers" in note for note in notes(now))
    assert row(now, ALONE).expired == row(now, ERROR).expired == (), "every other limit holds"
    assert then.outcome == "not_at_parity" and row(then, DRIFT).expired == (), "numbers saved then are of the same"


def test_a_case_without_limits_of_internals_is_judged_by_its_outputs_and_says_so() -> None:
    verdict = judge(
        Comparison(case="astronaut", metrics=GOOD | {DRIFT: 0.5}, environment_of_candidate=HERE, levels=ALL),
        "limits",
        registry=registry(),
    )
    assert verdict.outcome == "parity" and "no limits of it" in verdict.levels["drift"]


def test_equality_has_no_levels() -> None:
    verdict = judge(Comparison(case="a", metrics=EQUAL | {DRIFT: 0.0}, levels={"outputs": MEASURED}), "exact")
    assert verdict.levels == {} and notes(verdict) == () and DRIFT not in verdict.unjudged


def test_equal_outputs_without_all_taps_are_said_to_be_no_more_than_that() -> None:
    def said(drift: EvidenceLevel) -> tuple[str, ...]:
        return notes(judge(Comparison(case="astronaut", metrics=EQUAL, levels={"drift": drift}), "exact"))

    (note,) = said(EvidenceLevel(measured=False, why="the reference has no trace"))
    assert note == "outputs are judged, and no taps but those in both traces: the reference has no trace"
    assert said(MEASURED) == ()


def test_by_bits_every_tap_that_the_reference_has_is_owed_by_whomever() -> None:
    def code(drift: EvidenceLevel, **changes: float) -> tuple[int, list[str]]:
        metrics = {**EQUAL, **{f"outputs.bit_equal.{name}": value for name, value in changes.items()}}
        verdict = judge(Comparison(case="astronaut", metrics=metrics, levels={"drift": drift}), "exact")
        return verdict.exit_code, [failure.code for failure in verdict.failures]

    assert code(EvidenceLevel(measured=True, compared=9, of=9)) == (0, [])
    assert code(EvidenceLevel(measured=True, compared=8, of=9, lacking=1)) == (2, ["missing_trace"])
    assert code(EvidenceLevel(measured=False, why="it offers no internals", lacking=9)) == (2, ["missing_trace"])
    assert code(EvidenceLevel(measured=False, why="neither run has a trace")) == (0, [])
    assert code(EvidenceLevel(measured=True, compared=8, of=9, lacking=1), audio=0.0) == (1, ["missing_trace"])


def test_what_needs_no_limit_fails_where_there_are_none_and_nothing_passes_there() -> None:
    none = Registry(unjudged={ERROR: "x", LEVEL: "x"})
    with pytest.raises(RegistryError, match="Registry entry missing"):
        by_limits(GOOD, none)
    assert by_limits({**GOOD, COUNT: 1.0}, none).exit_code == 1
    smaller = Finding(code="shape_mismatch", where="video_frames", message="x")
    assert by_limits({**GOOD, LEVEL: math.nan}, none, smaller).exit_code == 1
    refused = "Limits hold at another release."
    comparison = Comparison(case="astronaut", metrics=GOOD, environment_of_candidate=HERE)
    with pytest.raises(RegistryError, match="another release"):
        judge(comparison, "limits", registry=registry(), refused=refused)
    far = Comparison(case="astronaut", metrics={**GOOD, ERROR: 9.0}, environment_of_candidate=HERE)
    with pytest.raises(RegistryError, match="another release"):
        judge(far, "limits", registry=registry(), refused=refused)  # what another release does is no error
    rate = Comparison(case="astronaut", metrics={**GOOD, COUNT: -1.0}, environment_of_candidate=HERE)
    assert judge(rate, "limits", registry=registry(), refused=refused).exit_code == 1


def test_limits_of_another_device_pass_nothing_and_fail_only_what_is_far_beyond() -> None:
    here = registry(defaults={}, cases={TableKey("astronaut"): registry().defaults})
    for error in (0.0, 0.09):
        with pytest.raises(RegistryError, match=r"measured on H200.*\(measured: a CPU\)"):
            on("H200", {**GOOD, ERROR: error}, here)
    verdict = on("H200", {**GOOD, ERROR: 0.2}, here)
    assert verdict.exit_code == 1 and "device: a CPU -> H200" in changes(verdict, ERROR)


def test_isolated_errors_without_a_limit_do_not_undo_what_failed() -> None:
    added = {**GOOD, ALONE: 0.5}
    for metrics, code in ((GOOD, 0), ({**GOOD, ERROR: 0.2}, 1)):
        assert by_limits(metrics).exit_code == code
    levels = {"outputs": MEASURED, "isolated": MEASURED}
    limits = registry(
        defaults={**registry().defaults, "isolated.latent.video": limit("isolated.latent.video", 0.01, 1.0)}
    )

    def judged(metrics: dict[str, float | None]) -> int:
        comparison = Comparison(case="astronaut", metrics=metrics, environment_of_candidate=HERE, levels=levels)
        return judge(comparison, "limits", registry=limits).exit_code

    with pytest.raises(RegistryError, match=ALONE):
        judged(added)
    assert judged({**added, ERROR: 0.2}) == 1
