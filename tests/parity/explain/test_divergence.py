import math
from collections.abc import Callable

import pytest

from parity.explain.divergence import Divergence, first_divergence
from parity.explain.floors import Floors
from parity.taps.dataflow import Dataflow
from runners.case import Case
from runners.errors import RunError

MakeCase = Callable[..., Case]
FLOOR = 1e-3


@pytest.fixture
def flow(micro_case: MakeCase) -> Dataflow:
    return Dataflow(micro_case(), 3)


def downstream(flow: Dataflow, sources: list[str]) -> set[str]:
    """Everything computed from `sources`, by walking backwards from each tap: another way than the code's."""

    def reaches(tap: str, seen: dict[str, bool]) -> bool:
        if tap not in seen:
            seen[tap] = tap in sources or any(reaches(name, seen) for name in flow.inputs_of(tap))
        return seen[tap]

    seen: dict[str, bool] = {}
    return {tap for tap in flow.taps if reaches(tap, seen)}


def errors_of(flow: Dataflow, sources: list[str], size: float = 0.5) -> dict[str, float]:
    wrong = downstream(flow, sources)
    return {tap: size if tap in wrong else FLOOR / 2 for tap in flow.taps}


def find(flow: Dataflow, errors: dict[str, float]) -> Divergence:
    return first_divergence(errors, lambda tap: FLOOR, flow)


@pytest.mark.parametrize(
    "source",
    [
        "text/neg/hidden",
        "connector/pos/audio",
        "init/video",
        "denoise/000/cond/block/00/video/av_attn",
        "denoise/000/perturbed/block/01/audio/self_attn",
        "denoise/000/isolated/block/02/video/ff",
        "denoise/001/uncond/block/02/audio/out",
        "denoise/000/uncond/x0/video",
        "denoise/001/guided/audio",
        "denoise/001/latent/video",
        "decode/frames",
        "decode/waveform",
    ],
)
def test_one_source_is_the_one_root_and_all_else_is_inherited(flow: Dataflow, source: str) -> None:
    errors = errors_of(flow, [source])
    found = find(flow, dict(reversed(errors.items())))  # order of the data-flow, not of the mapping
    assert [root.tap for root in found.roots] == [source]
    assert found.roots[0].ratio == pytest.approx(500)
    assert found.above == sum(error > FLOOR for error in errors.values()) == found.inherited + 1
    assert not found.findings and found.departs and found.compared == len(flow.taps)


def test_parallel_roots_are_all_listed_shallowest_first(flow: Dataflow) -> None:
    sources = [
        "denoise/000/cond/block/00/video/av_attn",
        "denoise/000/cond/block/00/audio/av_attn",
        "denoise/000/uncond/block/00/video/av_attn",
        "denoise/000/perturbed/block/01/video/self_attn",
    ]
    found = find(flow, errors_of(flow, sources[::-1]))
    assert [root.tap for root in found.roots] == sources


def test_a_root_whose_stream_hides_it_does_not_make_its_descendants_roots(flow: Dataflow) -> None:
    source = "denoise/000/cond/block/00/video/av_attn"
    errors = errors_of(flow, [source])
    errors["denoise/000/cond/block/00/video/ff"] = 0.0
    errors["denoise/000/cond/block/00/video/out"] = 0.0  # a large residual stream dilutes the branch below its floor
    assert [root.tap for root in find(flow, errors).roots] == [source]


def test_an_error_at_its_floor_is_not_above_and_bits_must_be_equal_at_floor_zero(flow: Dataflow) -> None:
    errors = dict.fromkeys(flow.taps, FLOOR)
    assert not find(flow, errors).departs
    clean = dict.fromkeys(flow.taps, 0.0)
    assert not first_divergence(clean, lambda tap: 0.0, flow).departs
    clean["denoise/001/guided/video"] = 1e-9
    (root,) = first_divergence(clean, lambda tap: 0.0, flow).roots
    assert root.tap == "denoise/001/guided/video" and root.ratio == math.inf


def test_nan_is_above_every_floor(flow: Dataflow) -> None:
    errors = dict.fromkeys(flow.taps, 0.0)
    errors["denoise/000/cond/block/01/audio/ff"] = math.nan
    (root,) = find(flow, errors).roots
    assert root.tap == "denoise/000/cond/block/01/audio/ff" and math.isnan(root.ratio)


def test_missing_and_extra_taps_are_named(flow: Dataflow) -> None:
    errors = dict.fromkeys(flow.taps, 0.0)
    del errors["denoise/001/isolated/block/01/audio/ff"]
    errors["denoise/001/isolated/block/01/audio/av_attn"] = 0.0  # there is no cross-modal branch in that pass
    found = find(flow, errors)
    assert [(finding.code, finding.where) for finding in found.findings] == [
        ("missing_tensor", "denoise/001/isolated/block/01/audio/ff"),
        ("extra_tensor", "denoise/001/isolated/block/01/audio/av_attn"),
    ]
    assert found.departs and not found.roots


def test_nothing_compared_is_no_agreement(flow: Dataflow) -> None:
    found = find(flow, {})
    assert [finding.code for finding in found.findings] == ["empty"] and found.departs


def test_taps_that_were_not_to_be_recorded_are_looked_through(flow: Dataflow) -> None:
    errors = errors_of(flow, ["denoise/000/uncond/block/01/video/text_attn"])
    some = {tap: error for tap, error in errors.items() if "/x0/" in tap or "/latent/" in tap}
    found = first_divergence(some, lambda tap: FLOOR, flow, is_wanted=lambda tap: tap in some)
    # In step 0 only that prediction departs first; both streams do, because audio attends to video after text_attn.
    assert [root.tap for root in found.roots] == ["denoise/000/uncond/x0/video", "denoise/000/uncond/x0/audio"]
    assert not found.findings


def test_floors_are_measured_by_tap_then_group_then_ruled_and_grow_with_depth(flow: Dataflow) -> None:
    tap = "denoise/001/cond/block/02/video/ff"
    groups = {
        "denoise/*/cond/block/*/video/ff": 0.1,
        "denoise/*/cond/block/02/video/ff": 0.2,
        "denoise/001/cond/block/*/video/ff": 0.3,
        tap: 0.4,
    }
    for number in range(1, 5):
        known = dict(list(groups.items())[:number])
        assert Floors(flow, "bf16", known).of(tap) == list(known.values())[-1]
    assert Floors(flow, "bf16", groups).bound(tap) == pytest.approx(3 * 0.4)
    rule = Floors(flow, "bf16")
    assert rule.bound(tap) == rule.of(tap)
    assert rule.by_rule([tap, "init/video"]) == 2 and Floors(flow, "bf16", groups).by_rule([tap, "init/video"]) == 1
    depths = [rule.of(f"denoise/000/cond/block/{block:02d}/video/out") for block in range(3)]
    # 2 u of the latent itself and 2 u sqrt(b + 1) of the blocks, u = 2^-9
    assert depths == pytest.approx([2 * 2**-9 * math.sqrt(1 + block + 1) for block in range(3)])
    assert rule.of("denoise/001/cond/block/00/video/out") > rule.of("denoise/000/guided/video")
    # video: weights 1 + 2 + 1 + 2 of the conditional pass, 2, 1 and 2 of the others
    guided = 2 * 2**-9 * math.sqrt(3) * math.sqrt(36 + 4 + 1 + 4)
    guided = math.hypot(2 * 2**-9, guided)
    assert rule.of("denoise/000/guided/video") == pytest.approx(guided)
    assert rule.of("denoise/001/guided/video") == pytest.approx(math.sqrt(2) * guided)
    assert Floors(flow, "fp32").of(tap) == pytest.approx(rule.of(tap) * 2.0**-15)
    for every in flow.taps:
        assert 0 < rule.of(every) < 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1])
def test_a_floor_that_is_no_number_is_refused(flow: Dataflow, value: float) -> None:
    with pytest.raises(RunError, match="finite"):
        Floors(flow, "bf16", {"init/video": value})
    with pytest.raises(RunError, match="fp16"):
        Floors(flow, "fp16")
