"""The axis of limits: shares of the limit worked by hand, in every direction."""

import math

import msgspec
import pytest

from parity.diff.metric import METRICS
from parity.judge.limit import Limit, derive_limit
from parity.judge.registry import Registry
from parity.judge.verdict import Verdict
from parity.report.page_metrics import axis_data, metric_table, plain_metrics


def limit(metric: str, floor: float, defect: float) -> Limit:
    return derive_limit(
        METRICS[metric],
        floor={"threads": [floor] * 2},
        defects={"gelu": [defect], "other": [defect]},
        targets=["gelu"],
        calibration="c",
    )


@pytest.mark.parametrize(
    ("metric", "floor", "defect", "value", "shares"),
    [
        ("video_latent.relative_l2", 0.01, 1.0, 0.2, (0.1, 2.0, 10.0)),  # the limit is 0.1
        ("frames.psnr_db.min", 60.0, 20.0, 20.0, (0.1, 10.0, 10.0)),  # 40 dB: 20 dB are a factor of ten
        ("frames.ssim.min", 0.99, 0.91, 0.985, (1 / 3, 0.5, 3.0)),  # 1 - 0.03
    ],
)
def test_shares_are_distances_over_the_limits(
    metric: str, floor: float, defect: float, value: float, shares: tuple[float, float, float]
) -> None:
    found = axis_data({metric: value}, {metric: limit(metric, floor, defect)})[metric]
    assert [point[0] for point in found["floors"]] == ["threads", "threads"]
    assert found["floors"][0][1] == pytest.approx(shares[0])
    assert found["value"][0] == pytest.approx(shares[1])
    assert [(point[0], point[3]) for point in found["defects"]] == [("gelu", True), ("other", False)]
    assert found["defects"][0][1] == pytest.approx(shares[2])


def test_perfect_absent_and_boundless_values_have_their_place() -> None:
    limits = {"frames.psnr_db.min": limit("frames.psnr_db.min", 60.0, 20.0)}
    assert axis_data({"frames.psnr_db.min": math.inf}, limits)["frames.psnr_db.min"]["value"][0] == 0
    assert math.isnan(axis_data({}, limits)["frames.psnr_db.min"]["value"][0])
    none = {"frames.mad.max": limit("frames.mad.max", 0.0, 0.0)}  # harmless variation changes nothing
    found = axis_data({"frames.mad.max": 0.5}, none)["frames.mad.max"]
    assert found["value"][0] == math.inf and found["floors"][0][1] == 1.0


def test_failed_metrics_come_first_and_what_passes_or_is_not_judged_is_folded(
    verdict: Verdict, registry: Registry
) -> None:
    metrics = {row.metric: row.value for row in verdict.rows} | {"frames.max_abs": 3.0}
    text = metric_table(verdict, metrics, registry.limits_of("astronaut"))
    names = [
        "video_latent.relative_l2",
        "frames.ssim.min",
        "frames.psnr_db.min",
        "frames.max_abs",
    ]  # used: 1.2, 3 waived, 0
    places = [text.index(f"<code>{name}</code>") for name in names]
    places.insert(1, text.index(f"{len(verdict.rows) - 1} within their limits"))
    places.insert(4, text.index("1 more, measured without being judged"))
    assert places == sorted(places)
    assert "one byte says nothing" in text and "waived: known, see notes" in text
    assert (
        text.count('<canvas class="axis"') == 4 and 'aria-label="floor 0.01 (threads), weakest defect 1 (gelu)"' in text
    )


def test_groups_of_taps_are_folded_and_counted(verdict: Verdict) -> None:
    row = next(row for row in verdict.rows if not row.passed and not row.waived)
    taps = [
        msgspec.structs.replace(row, metric="drift.init.video"),
        msgspec.structs.replace(row, metric="drift.text", passed=True),
        msgspec.structs.replace(row, metric="isolated.init.video", passed=True),
    ]
    text = metric_table(msgspec.structs.replace(verdict, rows=(*verdict.rows, *taps)), {}, {})
    assert '<details class="more" open=""><summary>Drift of taps: 1 of 2 groups beyond their limit</summary>' in text
    assert '<details class="more"><summary>Isolated errors: none of 1 groups beyond their limit</summary>' in text
    assert '<details class="more" open=""><summary>Outputs: 1 of 5 metrics beyond their limit</summary>' in text
    assert text.index("<code>frames.ssim.min</code>") < text.index("Drift of taps") < text.index("drift.init.video")
    many = tuple(msgspec.structs.replace(row, metric="drift.text", status="OVERLAP") for _ in range(60))
    text = metric_table(msgspec.structs.replace(verdict, rows=many), {}, {})
    listed = "<summary>OVERLAP by 60 metrics, on which alone no case passes</summary>drift.text,"
    assert listed in text


def test_metrics_stand_there_without_a_verdict_too() -> None:
    text = plain_metrics({"frames.max_abs": 3.0}, {})
    assert "3 levels" in text and "no verdict" in text


def test_an_axis_is_explained_only_where_one_is_drawn(verdict: Verdict, registry: Registry) -> None:
    limits = registry.limits_of("astronaut")
    text = metric_table(verdict, {row.metric: row.value for row in verdict.rows}, limits)
    assert (text.count("Upper dots"), text.count("axis-key")) == (1, 2)  # of those that failed and the others
    equal_bits = metric_table(verdict, {}, {})
    assert "Upper dots" not in equal_bits and "axis-key" not in equal_bits and "no-axis" in equal_bits
