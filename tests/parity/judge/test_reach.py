"""The reach of harmless variation, seen or yet to come: worked by hand, kind by kind."""

import math

import pytest

from parity.diff.metric import METRICS
from parity.judge.reach import MARGIN, distance, distances_of, reach

ERROR, COSINE, MEDIAN = (METRICS[f"video_latent.{name}"] for name in ("relative_l2", "cosine", "ulp.p50"))


def test_distances() -> None:
    assert distance(20.0, "dB", "higher") == pytest.approx(0.1)
    assert distance(math.inf, "dB", "higher") == 0.0
    assert distance(-math.inf, "dB", "higher") == math.inf
    assert distance(0.75, "", "higher") == 0.25
    assert distance(3.0, "dB", "lower") == 3.0
    assert math.isnan(distance(math.nan, "", "higher"))
    assert distances_of({"a": (0.75, 0.5), "b": (1.0,)}, "", "higher") == {"a": [0.25, 0.5], "b": [0.0]}


def test_draws_of_one_kind_tell_how_far_the_next_may_go() -> None:
    tight = [1.0, 1.0, 1.01, 1.01, 1.02, 1.02, 1.03, 1.04]
    assert reach({"a": tight}, ERROR) == MARGIN  # median 1.015, spread 1.5 %: four of them stay within the margin
    wide = [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]  # median sqrt(2), each of the upper half sqrt(2) times that
    assert reach({"a": wide}, ERROR) == pytest.approx(2 * math.sqrt(2))  # sqrt(2) x sqrt(2)^4, of the largest, 2
    drawn = {f"noise_ulp_{seed}": [value] for seed, value in enumerate(wide)}
    assert reach(drawn, ERROR) == reach({"a": wide}, ERROR), "a draw's number is no part of its kind"
    assert reach({"a": wide[1:]}, ERROR) == MARGIN, "seven samples show no spread"
    assert reach({"a": [0.0] * 9 + wide}, ERROR) == reach({"a": wide}, ERROR), "equal bits say nothing of a spread"
    assert (
        reach({"a": [0.0] * 20}, ERROR) == MARGIN
        and reach({"a": [3.0] * 20}, ERROR) == MARGIN
        and reach({}, ERROR) == MARGIN
    )


def test_how_far_a_kind_is_from_another_is_no_spread() -> None:
    small = {f"text_ulp_{seed}": [0.001] for seed in range(8)}
    assert reach({**small, "products": [1.0], "attention": [0.5]}, ERROR) == MARGIN
    # the spread of both, 2^(1/2) over half of either, at the larger median, 4: 4 x sqrt(2)^4, of the largest, 4 sqrt(2)
    low = {f"text_ulp_{seed}": [2.0**power] for seed, power in enumerate((-0.5, -0.5, 0.5, 0.5))}
    high = {f"noise_ulp_{seed}": [4 * value for value in values] for seed, values in enumerate(low.values())}
    assert reach({**low, **high}, ERROR) == pytest.approx(16 / (4 * math.sqrt(2)))


def test_two_variations_at_once_add_their_squares() -> None:
    assert reach({"products": [3.0], "attention": [4.0], "steps": [1.0]}, ERROR) == MARGIN  # 5 of 4
    assert reach({"products": [12.0], "attention": [12.0]}, ERROR) == pytest.approx(math.sqrt(2))
    assert reach({"products": [3.0], "attention": [4.0]}, COSINE) == pytest.approx(7 / 4)
    draws = {"noise_ulp_0": [4.0], "noise_ulp_1": [3.9]}  # one kind, which nothing has twice
    assert reach(draws, ERROR) == MARGIN and reach({**draws, "products": [3.9]}, ERROR) == pytest.approx(
        math.hypot(4.0, 3.9) / 4
    )
    alone = METRICS["isolated.block.video.ff"]
    assert reach({"products": [12.0], "attention": [12.0]}, alone) == MARGIN, "all rewrites at once were measured there"
    assert METRICS["video_latent.cosine"].squared and METRICS["frames.ssim.min"].squared
    assert not METRICS["frames.psnr_db.min"].squared and not METRICS["video_latent.relative_l2"].squared


def test_a_whole_number_may_be_one_more() -> None:
    assert reach({"a": [2.0, 1.0]}, MEDIAN) == 1.5
    assert reach({"a": [16.0, 1.0]}, MEDIAN) == MARGIN
    assert reach({"a": [0.0, 0.0]}, MEDIAN) == MARGIN
