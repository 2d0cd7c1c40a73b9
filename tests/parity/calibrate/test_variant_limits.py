import msgspec
import pytest

from parity.calibrate.variant_limits import widened
from parity.diff.metric import METRICS
from parity.judge.limit import Calibration, derive_limit, exact_limit
from parity.judge.limit_table import TableKey
from parity.judge.registry import Registry

GROUP = "drift.block.audio.av_attn.first_step"
CASE = TableKey("case")
LOWER, HIGHER, EXACT = "video_latent.relative_l2", "frames.psnr_db.min", "frames.count.difference"


def _registry() -> Registry:
    floors = {LOWER: 0.02, HIGHER: 40.0}
    defects = {LOWER: 0.08, HIGHER: 20.0}
    limits = {
        name: derive_limit(
            METRICS[name], floor={"a": (x,), "b": (x,)}, defects={"d": (defects[name],)}, calibration="c"
        )
        for name, x in floors.items()
    }
    environment = {"device": "cpu"}
    calibration = Calibration(
        date="2026-01-02", command="x", runs=("y",), environment=environment, expires_with=("device",)
    )
    return Registry(calibrations={"c": calibration}, cases={CASE: {**limits, EXACT: exact_limit(METRICS[EXACT])}})


def test_a_variant_that_drifts_farther_gets_room_and_others_none() -> None:
    far = widened(_registry(), "case", {"run": {LOWER: 0.1, HIGHER: 10.0, EXACT: 5.0}}).cases[CASE]
    assert far[LOWER].value == pytest.approx(0.125)
    assert far[HIGHER].value == pytest.approx(10.0 - 1.93820026)  # 20 log10(1.25)
    assert far[EXACT].value == 0.0 and far[LOWER].floor == 0.1
    near = widened(_registry(), "case", {"run": {LOWER: 0.01, HIGHER: 50.0}}).cases[CASE]
    assert near[LOWER].value == pytest.approx(0.04) and near[HIGHER].value == pytest.approx(30.0)


def test_a_metric_that_only_some_runs_have_is_widened_by_those() -> None:
    some = widened(_registry(), "case", {"run": {HIGHER: 50.0}, "alone": {LOWER: 0.1}}).cases[CASE]
    assert some[LOWER].value == pytest.approx(0.125) and some[HIGHER].value == pytest.approx(30.0)


def test_groups_that_the_variant_does_not_have_are_not_missed() -> None:
    registry = _registry()
    drift = derive_limit(METRICS[GROUP], floor={"a": (0.1, 0.1)}, defects={"d": (0.9,)}, calibration="c")
    registry = msgspec.structs.replace(registry, cases={CASE: {**registry.cases[CASE], GROUP: drift}})
    assert GROUP not in widened(registry, "case", {"run": {LOWER: 0.1}}).cases[CASE]
    assert GROUP in widened(registry, "case", {"run": {LOWER: 0.1, GROUP: 0.2}}).cases[CASE]


def test_the_registry_itself_is_left_alone() -> None:
    registry = _registry()
    widened(registry, "case", {"run": {LOWER: 0.1}})
    assert registry.cases[CASE][LOWER].value == pytest.approx(0.04)
