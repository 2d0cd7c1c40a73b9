"""The registry: lookup, self-check, and the refusal to loosen without a reason."""

from pathlib import Path

import msgspec
import pytest

from parity.diff.metric import METRICS
from parity.judge.limit import Calibration, Limit, derive_limit, exact_limit
from parity.judge.limit_table import TableKey
from parity.judge.proposal import propose, rederived
from parity.judge.registry import DEFAULTS, Registry, Waiver, load_registry, save_registry
from runners.errors import RegistryError

ERROR = "video_latent.relative_l2"
COUNT = "frames.count.difference"
CALIBRATION = Calibration(
    date="2026-11-23",
    command="make thresholds",
    runs=("runs/a", "runs/b"),
    environment={"torch": "2.13.0"},
    expires_with=("torch",),
    padded_text=False,
)


def error_limit(floor: float, defect: float = 1.0) -> Limit:
    return derive_limit(METRICS[ERROR], floor={"threads": [floor] * 2}, defects={"gelu": [defect]}, calibration="c")


def registry(default: float = 0.01, case: float | None = None) -> Registry:
    return Registry(
        calibrations={"c": CALIBRATION},
        defaults={ERROR: error_limit(default), COUNT: exact_limit(METRICS[COUNT])},
        cases={} if case is None else {TableKey("astronaut"): {ERROR: error_limit(case)}},
    )


def test_a_case_overrides_the_default_of_the_metrics_it_lists() -> None:
    limits = registry(case=0.04).limits_of("astronaut")
    assert limits[ERROR].value == pytest.approx(0.2)  # sqrt(0.04 * 1)
    assert limits[COUNT].value == 0.0
    assert registry(case=0.04).limits_of("another")[ERROR].value == pytest.approx(0.1)


def test_a_registry_survives_the_file_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "consistency_threshold.json"
    whole = msgspec.structs.replace(
        registry(case=0.04),
        unjudged={"frames.max_abs": "one byte says nothing"},
        waivers=(Waiver(case="astronaut", metric=ERROR, reason="known"),),
    )
    save_registry(path, whole)
    assert load_registry(path) == whole
    load_registry(path).verify()


def test_a_hand_edited_file_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "consistency_threshold.json"
    save_registry(path, registry())
    text = path.read_text()
    assert text.count('"value": 0.1,') == 1
    path.write_text(text.replace('"value": 0.1,', '"value": 0.3,'))
    with pytest.raises(RegistryError, match=r"defaults: video_latent.relative_l2 says value 0.3; its samples give 0.1"):
        load_registry(path).verify()
    path.write_text(text.replace('"value": 0.1,', '"value": 0.1, "tolerance": 2,'))
    with pytest.raises(RegistryError, match=r"consistency_threshold.json is not a valid .*unknown field `tolerance`"):
        load_registry(path)
    path.write_text(text.replace('"direction": "lower"', '"direction": "higher"'))
    with pytest.raises(RegistryError, match=r"as parity.diff.metric defines it"):
        load_registry(path).verify()
    path.write_text(text.replace('"method": "limit', '"method": "my limit'))
    with pytest.raises(RegistryError, match="method says"):
        load_registry(path).verify()


def test_names_that_nothing_measures_and_references_to_nothing_are_refused() -> None:
    limit = error_limit(0.01)
    with pytest.raises(RegistryError, match=r"No metric is named 'video_latent.relativ_l2'"):
        Registry(calibrations={"c": CALIBRATION}, defaults={"video_latent.relativ_l2": limit})
    with pytest.raises(RegistryError, match="calibration 'c', which is not here"):
        Registry(cases={TableKey("astronaut"): {ERROR: limit}})
    with pytest.raises(RegistryError, match="has a limit and stands under unjudged"):
        Registry(calibrations={"c": CALIBRATION}, defaults={ERROR: limit}, unjudged={ERROR: "no"})
    with pytest.raises(RegistryError, match="needs a reason"):
        Registry(unjudged={ERROR: ""})
    with pytest.raises(RegistryError, match="needs a reason"):
        Waiver(case="astronaut", metric=ERROR, reason="  ")
    with pytest.raises(RegistryError, match="waived twice"):
        Registry(waivers=(Waiver(case="a", metric=ERROR, reason="x"), Waiver(case="a", metric=ERROR, reason="y")))
    with pytest.raises(RegistryError, match="cannot be called 'defaults'"):
        Registry(cases={TableKey("defaults"): {}})
    with pytest.raises(RegistryError, match="calibration 'c' is used by no limit"):
        Registry(calibrations={"c": CALIBRATION}).verify()


def test_loosening_is_refused_without_a_reason_and_carries_it_ever_after() -> None:
    proposal = propose(registry(0.01), {DEFAULTS: {ERROR: error_limit(0.04)}}, {"c": CALIBRATION})
    kinds = {change.metric: change.kind for change in proposal.changes}
    assert kinds == {ERROR: "loosened", COUNT: "removed"}
    for reason in (None, "", "  "):
        with pytest.raises(RegistryError, match=r"loosen 2 limits .*--reason"):
            proposal.accept(reason)
    accepted = proposal.accept("new attention kernel")
    assert accepted.defaults[ERROR].reason.startswith("loosened: new attention kernel (floor 0.04 (threads), weak")
    accepted.verify()
    again = propose(accepted, {DEFAULTS: {ERROR: error_limit(0.04)}}, {"c": CALIBRATION})
    assert [change.kind for change in again.changes] == ["unchanged"]
    assert "new attention kernel" in again.accept(None).defaults[ERROR].reason


def test_tightening_and_new_limits_need_no_reason() -> None:
    new = {
        DEFAULTS: {ERROR: error_limit(0.0025), COUNT: exact_limit(METRICS[COUNT])},
        TableKey("b"): {ERROR: error_limit(0.001)},
    }
    proposal = propose(registry(0.01), new, {"c": CALIBRATION})
    assert {(change.where, change.metric): change.kind for change in proposal.changes} == {
        (DEFAULTS, ERROR): "tightened",
        (DEFAULTS, COUNT): "unchanged",
        (TableKey("b"), ERROR): "tightened",  # b took the default until now
    }
    assert proposal.accept(None).cases[TableKey("b")][ERROR].value == pytest.approx(0.001**0.5)


def test_a_case_entry_looser_than_the_default_it_took_is_a_loosening() -> None:
    proposal = propose(registry(0.01), {TableKey("b"): {ERROR: error_limit(0.02)}}, {"c": CALIBRATION})
    with pytest.raises(RegistryError, match=r"b: video_latent.relative_l2"):
        proposal.accept(None)
    assert "b is noisier" in proposal.accept("b is noisier").cases[TableKey("b")][ERROR].reason
    dropped = propose(registry(0.04, case=0.01), {TableKey("astronaut"): {}}, {})
    assert [change.kind for change in dropped.changes if change.where.case == "astronaut"] == ["loosened"]


def test_an_overlap_where_a_limit_was_is_a_loosening() -> None:
    proposal = propose(registry(0.5), {DEFAULTS: {ERROR: error_limit(0.4, 0.41)}}, {"c": CALIBRATION})
    assert proposal.changes[0].new is not None and proposal.changes[0].new.status == "OVERLAP"
    assert proposal.changes[0].kind == "loosened"


def test_replaced_calibrations_go_when_nothing_uses_them() -> None:
    later = msgspec.structs.replace(CALIBRATION, date="2026-12-01")
    limit = msgspec.structs.replace(error_limit(0.01), calibration="later")
    proposal = propose(registry(0.01), {DEFAULTS: {ERROR: limit}}, {"later": later})
    assert set(proposal.registry.calibrations) == {"later"}


def test_floors_and_limits_of_tap_groups_are_for_whoever_points_at_taps() -> None:
    drift = derive_limit(METRICS["drift.text"], floor={"a": [0.01, 0.01]}, defects={"d": [0.04]}, calibration="c")
    whole = msgspec.structs.replace(registry(), cases={TableKey("tiny"): {"drift.text": drift}})
    assert whole.floors_of("tiny") == {"text": (0.01, pytest.approx(0.02))}
    assert whole.floors_of("other") == {}
    padded = msgspec.structs.replace(CALIBRATION, padded_text=True)
    assert msgspec.structs.replace(whole, calibrations={"c": padded}).floors_of("tiny") == {}


def test_limits_are_worked_out_again_from_their_samples_and_loosened_only_with_a_reason() -> None:
    true = error_limit(0.01)
    narrow = msgspec.structs.replace(true, value=true.value / 2)  # as an older method may have had it
    tiny, other = TableKey("tiny"), TableKey("other")
    old = msgspec.structs.replace(registry(), cases={tiny: {ERROR: narrow}, other: {ERROR: narrow}})
    proposal = rederived(old, ["tiny"])
    with pytest.raises(RegistryError, match="loosen"):
        proposal.accept("")
    accepted = proposal.accept("another method")
    assert accepted.cases[tiny][ERROR].value == true.value and accepted.cases[other] == old.cases[other]
    assert {change.where.case for change in rederived(old).loosened()} == {"tiny", "other"}
    with pytest.raises(RegistryError, match="No limits of none"):
        rederived(old, ["none"])
