"""Limits between two populations, with every expected value worked by hand."""

import math

import msgspec
import pytest

from parity.diff.metric import METRICS, Metric
from parity.judge.limit import (
    Calibration,
    Limit,
    contradiction,
    derive_limit,
    exact_limit,
    fails_elsewhere,
    looser,
)
from parity.judge.reach import MARGIN
from runners.errors import RegistryError

ERROR = METRICS["video_latent.relative_l2"]  # lower
LEVEL = METRICS["frames.psnr_db.min"]  # higher, dB
LIKENESS = METRICS["frames.ssim.min"]  # higher, at most 1


def test_an_error_is_bounded_by_the_geometric_mean() -> None:
    floor = {"threads": [0.005, 0.01], "compiled": [0.002]}
    defects = {"gelu": [0.16, 0.04], "rope": [0.9]}
    limit = derive_limit(ERROR, floor=floor, defects=defects, calibration="c")
    assert limit.value == pytest.approx(0.02, rel=1e-15)  # sqrt(0.01 * 0.04)
    assert (limit.floor, limit.floor_from) == (0.01, "threads")
    assert (limit.weakest_defect, limit.weakest_defect_from) == (0.04, "gelu")
    assert limit.separation == pytest.approx(4.0)
    assert limit.status == "calibrated"


def test_what_arithmetic_bounds_is_limited_there_however_far_the_weakest_defect_is() -> None:
    floor, defects = {"a": [0.0], "b": [1e-5]}, {"scaled": [0.01]}
    limit = derive_limit(ERROR, floor=floor, defects=defects, calibration="c", bound=1e-4, bound_from="4 ULP of fp32")
    assert (limit.value, limit.status) == (1e-4, "calibrated")
    assert "at most 0.0001 by arithmetic (4 ULP of fp32)" in limit.reason
    assert contradiction(ERROR, limit) is None
    moved = msgspec.structs.replace(limit, value=1e-3)
    assert "value" in str(contradiction(ERROR, moved))


def test_a_bound_that_harmless_variation_breaks_or_a_defect_keeps_decides_nothing() -> None:
    broken = derive_limit(ERROR, floor={"a": [2e-4] * 2}, defects={"d": [0.01]}, calibration="c", bound=1e-4)
    assert (broken.status, broken.value) == ("OVERLAP", pytest.approx(2.5e-4))  # 1.25 times the floor
    assert "went beyond the bound" in broken.reason
    kept = derive_limit(ERROR, floor={"a": [0.0] * 2}, defects={"d": [1e-4]}, calibration="c", bound=1e-4)
    assert (kept.status, kept.value) == ("OVERLAP", 1e-4)
    for metric, bound in ((LEVEL, 1.0), (ERROR, math.inf), (ERROR, -1e-3), (ERROR, math.nan)):
        with pytest.raises(RegistryError, match="bound"):
            derive_limit(metric, floor={"a": [1.0]}, defects={}, calibration="c", bound=bound)


def test_a_level_in_db_is_bounded_by_the_mean_of_the_levels() -> None:
    limit = derive_limit(LEVEL, floor={"a": [46.0, 40.0]}, defects={"b": [20.0, 12.0]}, calibration="c")
    assert limit.value == 30.0
    assert limit.separation == pytest.approx(10.0)  # 20 dB is 10 times the amplitude
    assert limit.status == "calibrated"


def test_a_likeness_is_bounded_by_the_geometric_mean_of_what_lacks_to_one() -> None:
    limit = derive_limit(LIKENESS, floor={"a": [0.999, 0.99]}, defects={"b": [0.84, 0.5]}, calibration="c")
    assert limit.value == pytest.approx(0.96, rel=1e-12)  # 1 - sqrt(0.01 * 0.16)
    assert limit.separation == pytest.approx(16.0)


def test_overlapping_populations_say_so_and_are_bounded_by_the_floor_alone() -> None:
    limit = derive_limit(ERROR, floor={"a": [0.1, 0.04]}, defects={"b": [0.15]}, calibration="c")
    assert limit.status == "OVERLAP"  # 1.5 times apart, 1.25^2 = 1.5625 wanted
    assert limit.value == pytest.approx(0.125)
    level = derive_limit(LEVEL, floor={"a": [40.0, 41.0]}, defects={"b": [39.0]}, calibration="c")
    assert level.status == "OVERLAP"
    assert level.value == pytest.approx(40.0 - 1.93820, abs=1e-5)  # 20 log10(1.25)
    likeness = derive_limit(LIKENESS, floor={"a": [0.9, 0.9]}, defects={"b": [0.95]}, calibration="c")
    assert likeness.status == "OVERLAP"
    assert likeness.value == pytest.approx(0.875)


def test_the_separation_wanted_is_the_margin_squared() -> None:
    at = derive_limit(ERROR, floor={"a": [1.0, 1.0]}, defects={"b": [MARGIN**2]}, calibration="c")
    below = derive_limit(ERROR, floor={"a": [1.0, 1.0]}, defects={"b": [MARGIN**2 - 1e-9]}, calibration="c")
    assert (at.status, below.status) == ("calibrated", "OVERLAP")
    assert at.value == pytest.approx(MARGIN)  # exactly MARGIN above the floor and below the defect


def test_the_bound_keeps_off_what_harmless_variation_may_yet_reach() -> None:
    wide = [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]  # median sqrt(2), spread log sqrt(2): sqrt(2) x 4
    limit = derive_limit(ERROR, floor={"a": wide}, defects={"b": [15.9]}, calibration="c")
    assert (limit.status, limit.value) == ("OVERLAP", pytest.approx(4 * math.sqrt(2)))  # sqrt(2 x 15.9) lies inside
    assert "may reach 2.83 x its floor" in limit.reason
    far = derive_limit(ERROR, floor={"a": wide}, defects={"b": [18.0]}, calibration="c")
    assert (far.status, far.value) == ("calibrated", pytest.approx(6.0))


def test_one_floor_sample_or_no_defect_is_not_a_calibration() -> None:
    assert derive_limit(ERROR, floor={"a": [0.1]}, defects={"b": [9.0]}, calibration="c").status == "OVERLAP"
    none = derive_limit(ERROR, floor={"a": [0.1, 0.2]}, defects={}, calibration="c")
    assert (none.status, none.weakest_defect, none.separation) == ("OVERLAP", None, None)


def test_only_the_defects_it_should_catch_count() -> None:
    defects = {"sound only": [0.0], "picture": [0.4]}
    limit = derive_limit(ERROR, floor={"a": [0.1, 0.1]}, defects=defects, targets=["picture"], calibration="c")
    assert (limit.status, limit.weakest_defect_from) == ("calibrated", "picture")
    assert limit.samples is not None and "sound only" in limit.samples.defects  # kept all the same
    every = derive_limit(ERROR, floor={"a": [0.1, 0.1]}, defects=defects, calibration="c")
    assert every.status == "OVERLAP"


def test_a_floor_of_zero_leaves_no_room_and_an_endless_defect_leaves_the_floor() -> None:
    still = derive_limit(LEVEL, floor={"a": [math.inf, math.inf]}, defects={"b": [20.0]}, calibration="c")
    assert (still.value, still.status, still.separation) == (math.inf, "calibrated", math.inf)
    unseen = derive_limit(ERROR, floor={"a": [0.0, 0.0]}, defects={"b": [0.0]}, calibration="c")
    assert (unseen.value, unseen.status, unseen.separation) == (0.0, "OVERLAP", 1.0)
    endless = derive_limit(ERROR, floor={"a": [0.1, 0.2]}, defects={"b": [math.inf]}, calibration="c")
    assert (endless.value, endless.status) == (0.25, "calibrated")


@pytest.mark.parametrize(
    ("metric", "floor", "message"),
    [
        ("video_latent.relative_l2", [0.1, math.nan], "is nan"),
        ("video_latent.relative_l2", [0.1, -0.1], "at least 0"),
        ("frames.ssim.min", [0.9, 1.1], "at most 1"),
        ("video_latent.relative_l2", [0.1, math.inf], "bounds nothing"),
        ("video_latent.relative_l2", [], "no floor sample"),
        ("frames.count.difference", [0.0, 0.0], "no limit between"),
    ],
)
def test_samples_that_bound_nothing_are_refused(metric: str, floor: list[float], message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        derive_limit(METRICS[metric], floor={"a": floor}, defects={"b": [0.5]}, calibration="c")


def test_a_target_that_was_not_measured_is_refused() -> None:
    with pytest.raises(RegistryError, match="should catch gelu"):
        derive_limit(ERROR, floor={"a": [0.1, 0.1]}, defects={"b": [1.0]}, targets=["gelu"], calibration="c")


@pytest.mark.parametrize("metric", [ERROR, LEVEL, LIKENESS])
@pytest.mark.parametrize(
    ("field", "value"),
    [("value", 0.5), ("floor", 0.3), ("weakest_defect", 0.2), ("separation", 7.0), ("status", "OVERLAP")],
)
def test_an_edited_limit_contradicts_its_samples(metric: Metric, field: str, value: object) -> None:
    floor, defect = {ERROR.name: (0.01, 0.9), LEVEL.name: (40.0, 10.0), LIKENESS.name: (0.98, 0.1)}[metric.name]
    limit = derive_limit(metric, floor={"a": [floor] * 2}, defects={"b": [defect]}, calibration="c")
    assert contradiction(metric, limit) is None
    edited = msgspec.structs.replace(limit, **{field: value})
    assert f"says {field}" in (contradiction(metric, edited) or "")


def test_another_unit_or_direction_than_the_metrics_is_a_contradiction() -> None:
    limit = derive_limit(ERROR, floor={"a": [0.1, 0.1]}, defects={"b": [1.0]}, calibration="c")
    assert "'higher' in 'dB'" in (contradiction(LEVEL, limit) or "")
    count = METRICS["frames.count.difference"]
    assert contradiction(count, exact_limit(count)) is None
    assert "wanted value is 0" in (contradiction(count, msgspec.structs.replace(exact_limit(count), value=1.0)) or "")


def test_looser_means_that_more_passes() -> None:
    def error(value: float, status: str = "calibrated") -> Limit:
        limit = derive_limit(ERROR, floor={"a": [0.1, 0.1]}, defects={"b": [1.0]}, calibration="c")
        return msgspec.structs.replace(limit, value=value, status=status)

    def level(value: float) -> Limit:
        limit = derive_limit(LEVEL, floor={"a": [40.0, 40.0]}, defects={"b": [10.0]}, calibration="c")
        return msgspec.structs.replace(limit, value=value)

    assert looser(error(0.1), error(0.2)) and not looser(error(0.2), error(0.1))
    assert not looser(error(0.1), error(0.1))
    assert looser(level(30.0), level(29.0)) and not looser(level(29.0), level(30.0))
    assert looser(error(0.2), error(0.1, "OVERLAP"))
    assert not looser(error(0.2, "OVERLAP"), error(0.1))
    assert looser(error(0.2), level(0.2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": math.inf}, "could never fail"),
        ({"value": math.nan}, "could never fail"),
        ({"status": "exact"}, "contradict"),
        ({"direction": "exact"}, "contradict"),
        ({"reason": " "}, "needs a reason"),
        ({"samples": None}, "needs floor, samples and calibration"),
    ],
)
def test_a_limit_that_could_not_be_followed_up_is_refused(changes: dict[str, object], message: str) -> None:
    limit = derive_limit(ERROR, floor={"a": [0.1, 0.1]}, defects={"b": [1.0]}, calibration="c")
    fields = {name: getattr(limit, name) for name in limit.__struct_fields__}
    with pytest.raises(RegistryError, match=message):
        Limit(**{**fields, **changes})


def test_a_calibration_expires_with_its_environment() -> None:
    calibration = Calibration(
        date="2026-11-23",
        command="make thresholds",
        runs=("runs/a",),
        environment={"torch": "2.13.0", "device": "cpu", "code_version": "abc"},
        expires_with=("torch", "device"),
    )
    same = {"torch": "2.13.0", "device": "cpu", "code_version": "other"}

    def changed(environment: dict[str, str]) -> list[str]:
        return [str(one) for one in calibration.changed(environment)]

    assert changed(same) == []
    assert changed({**same, "torch": "2.14.0"}) == ["torch: 2.13.0 -> 2.14.0"]
    assert changed({"torch": "2.13.0"}) == ["device: cpu -> not recorded"]
    assert calibration.changed({**same, "torch": "2.13.0+cu130"}) == []  # the same kernels on a CPU
    assert changed({**same, "torch": "2.13.1+cpu"}) == ["torch: 2.13.0 -> 2.13.1+cpu"]
    on_gpu = {"torch": "2.11.0+cu130", "device": "cuda"}
    measured = msgspec.structs.replace(calibration, environment=on_gpu)
    [moved] = measured.changed({**on_gpu, "torch": "2.11.0+cu126"})
    assert str(moved) == "torch: 2.11.0+cu130 -> 2.11.0+cu126"
    for changes, message in (
        ({"date": "23.11.2026"}, "YYYY-MM-DD"),
        ({"runs": ()}, "no runs"),
        ({"expires_with": ("driver",)}, "driver"),
        ({"expires_with": ()}, "nothing"),
    ):
        with pytest.raises(RegistryError, match=message):
            Calibration(**{**msgspec.structs.asdict(calibration), **changes})


def test_a_whole_number_may_be_one_more_before_it_may_be_a_quarter_more() -> None:
    median, byte = METRICS["video_latent.ulp.p50"], METRICS["frames.max_abs"]
    assert (median.whole, byte.whole, ERROR.whole, METRICS["frames.mad.max"].whole) == (True, True, False, False)
    overlap = derive_limit(median, floor={"a": [2.0, 1.0]}, defects={"b": [4.0]}, calibration="c")
    assert (overlap.value, overlap.status) == (3.0, "OVERLAP")  # 2 + 1; halfway is 2.83, where 3 would fail
    assert "harmless variation may reach 1.50 x its floor" in overlap.reason
    apart = derive_limit(median, floor={"a": [2.0, 1.0]}, defects={"b": [5.0]}, calibration="c")
    assert (apart.value, apart.status) == (pytest.approx(math.sqrt(10.0)), "calibrated")
    far = derive_limit(byte, floor={"a": [16.0, 12.0]}, defects={"b": [20.0]}, calibration="c")
    assert far.value == 20.0  # a quarter is more than one there
    still = derive_limit(METRICS["audio.lag_samples.max_abs"], floor={"a": [0.0, 0.0]}, defects={}, calibration="c")
    assert still.value == 0.0, "what harmless variation never moves it does not move by one"
    assert fails_elsewhere(25.0, median, overlap) and not fails_elsewhere(24.0, median, overlap)  # 8 x 3
