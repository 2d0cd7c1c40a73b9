"""Groups of taps: every tap of a case falls into one of few tens, by part, stream and range of steps."""

import math
from collections.abc import Callable

import pytest

from parity.diff.metric import METRICS
from parity.runs.reduced import kept_taps
from parity.taps.dataflow import Dataflow
from parity.taps.group import DRIFT_GROUPS, ISOLATED_GROUPS, drift_group, isolated_group, range_of, worst_by_group
from parity.taps.pattern import chosen
from runners.case import Case


@pytest.mark.parametrize(
    ("tap", "group"),
    [
        ("text/neg/hidden", "text"),
        ("connector/pos/audio", "connector.audio"),
        ("image/3/latent", "image"),
        ("init/video", "init.video"),
        ("denoise/000/cond/block/41/video/self_attn", "block.video.self_attn.first_step"),
        ("denoise/015/isolated/block/00/audio/ff", "block.audio.ff.first_half"),
        ("denoise/016/uncond/block/00/audio/ff", "block.audio.ff.second_half"),
        ("denoise/029/perturbed/x0/audio", "x0.audio.second_half"),
        ("denoise/000/guided/video", "guided.video.first_step"),
        ("denoise/001/latent/audio", "latent.audio.first_half"),
        ("decode/waveform", "decode.waveform"),
    ],
)
def test_a_tap_of_thirty_steps_lies_in_its_group(tap: str, group: str) -> None:
    assert drift_group(tap, 30) == group
    assert group in DRIFT_GROUPS and f"drift.{group}" in METRICS


@pytest.mark.parametrize(("steps", "ranges"), [(1, "1"), (2, "12"), (3, "123"), (4, "1223"), (5, "12233")])
def test_halves_of_short_runs(steps: int, ranges: str) -> None:
    names = {"1": "first_step", "2": "first_half", "3": "second_half"}
    assert [range_of(step, steps) for step in range(steps)] == [names[digit] for digit in ranges]


def test_every_group_of_a_case_is_in_a_reduced_trace_too(micro_case: Callable[..., Case]) -> None:
    for steps in (1, 2, 3, 4, 30):
        case = micro_case({"request.num_inference_steps": steps})
        flow = Dataflow(case, 5)
        kept = {drift_group(tap, steps) for tap in flow.taps if chosen(tap, kept_taps(case.plans, 4))}
        assert kept == {drift_group(tap, steps) for tap in flow.taps} <= set(DRIFT_GROUPS)
    assert len(DRIFT_GROUPS) < 64 and len(ISOLATED_GROUPS) < 64


@pytest.mark.parametrize(
    ("where", "group"),
    [
        ("text/pos/mask", "text.mask"),
        ("connector/neg/audio", "connector.audio"),
        ("image/2/picture", "image.picture"),
        ("sigmas", "sigmas"),
        ("init/video", "init.video"),
        ("init/video/positions", "init.video.positions"),
        ("denoise/017/uncond/block/05/audio/ff", "block.audio.ff"),
        ("denoise/003/cond/block/47/video/av_attn/sdpa", "block.video.av_attn.sdpa"),
        ("denoise/000/cond/block/00/video/ff/sdpa", None),
        ("denoise/000/cond/rotary/video/own", "rotary.video.own"),
        ("denoise/000/cond/modulation/audio/cross_gate", "modulation.audio.cross_gate"),
        ("denoise/001/guided/video", "guided.video"),
        ("decode/mel", "decode.mel"),
        ("denoise/000/cond", None),  # a whole pass that was left out
        ("denoise/000/cond/enabled/video", None),
    ],
)
def test_a_place_of_an_isolation_lies_in_its_group(where: str, group: str | None) -> None:
    assert isolated_group(where) == group
    assert group is None or f"isolated.{group}" in METRICS


def test_the_worst_of_a_group_counts_and_nan_is_worse_than_anything() -> None:
    pairs = [("a", 0.1), ("b", math.nan), ("a", 0.3), ("b", 0.2), ("a", 0.2), ("c", math.inf)]
    worst = worst_by_group(pairs)
    assert worst["a"] == 0.3 and math.isnan(worst["b"]) and worst["c"] == math.inf
    assert worst_by_group([("z", 0.0)]) == {"z": 0.0}
