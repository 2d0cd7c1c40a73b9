import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from parity.diff.sketches import relative_l2
from parity.diff.traces import SIDES, OmittedTaps, TraceDiff, compare_traces, drift_grids
from parity.explain.oracle import Arbitration, arbitrate, tally
from parity.runs.difference import Difference
from parity.taps.dataflow import Dataflow
from parity.taps.pattern import chosen
from parity.trace.checksums import TapChecksums
from parity.trace.file import SketchTable, Trace
from parity.trace.sketch import TapSketch, dtype_name, sketch
from runners.case import Case
from runners.errors import RunError

MakeCase = Callable[..., Case]
CLEAN = "denoise/000/cond/block/01/video/ff"


def tensors_of(flow: Dataflow, seed: int = 0) -> dict[str, Tensor]:
    """Random taps; those of video and audio differ in shape."""
    return dict(random_taps(flow.taps, seed))


@cache
def random_taps(taps: tuple[str, ...], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {tap: torch.randn(1, 7, 24 if "video" in tap else 16, generator=generator) for tap in taps}


def noisy(tensors: dict[str, Tensor], size: float, taps: Iterable[str] | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(99)
    chosen = set(tensors if taps is None else taps)
    return {
        tap: x + size * torch.randn(x.shape, generator=generator) if tap in chosen else x for tap, x in tensors.items()
    }


@cache
def sketched(tensor: Tensor) -> TapSketch:
    """The sketch of a tensor, made once: most taps of most traces here are the same ones, and copies are changed."""
    return sketch(tensor, buckets=16)


def table_of(tensors: dict[str, Tensor], pattern: str | None = None, complete: bool = True) -> SketchTable:
    sketches = [sketched(tensor) for tensor in tensors.values()]
    return SketchTable(
        buckets=16,
        pattern=pattern,
        complete=complete,
        names=list(tensors),
        shapes=[one.shape for one in sketches],
        dtypes=[dtype_name(tensor.dtype) for tensor in tensors.values()],
        floats=torch.stack([torch.cat((s.buckets, torch.tensor([s.l2, s.max_abs, s.mean]))) for s in sketches]),
        integers=torch.tensor([[s.checksum, s.nan_count, s.inf_count] for s in sketches]),
    )


def trace_of(tensors: dict[str, Tensor], pattern: str | None = None, complete: bool = True) -> Trace:
    return Trace(table_of(tensors, pattern, complete))


def codes(diff: TraceDiff) -> list[tuple[str, str]]:
    return [(finding.code, finding.where) for finding in diff.findings]


@pytest.fixture
def flow(micro_case: MakeCase) -> Dataflow:
    return Dataflow(micro_case(), 2)


def test_equal_traces_are_equal_in_every_tap_whatever_their_order(flow: Dataflow) -> None:
    tensors = tensors_of(flow)
    diff = compare_traces(trace_of(tensors), trace_of(dict(reversed(tensors.items()))), flow)
    assert diff.bit_equal and tuple(diff.taps) == flow.taps and set(diff.errors.values()) == {0.0}


def test_a_tap_that_differs_has_its_error(flow: Dataflow) -> None:
    tensors = tensors_of(flow)
    diff = compare_traces(trace_of(tensors), trace_of(noisy(tensors, 0.1, [CLEAN])), flow)
    assert not diff.bit_equal and not diff.findings
    assert diff.errors[CLEAN] == pytest.approx(0.1, rel=0.5)
    assert [tap for tap, error in diff.errors.items() if error] == [CLEAN]
    assert diff.errors is diff.errors  # asked for once for each of 55,092 taps: made anew each time, that took minutes


def test_a_removed_tap_is_named_on_whichever_side_it_is_missing(flow: Dataflow) -> None:
    tensors = tensors_of(flow)
    fewer = {tap: x for tap, x in tensors.items() if tap != CLEAN}
    whole, less = trace_of(tensors), trace_of(fewer)
    assert codes(compare_traces(whole, less, flow)) == [("missing_tensor", CLEAN)]
    assert codes(compare_traces(less, whole, flow)) == [("extra_tensor", CLEAN)]
    assert codes(compare_traces(less, less, flow)) == [("missing_tensor", CLEAN)]  # agreeing on too little
    assert not compare_traces(less, less, flow).bit_equal


def test_a_tap_that_the_case_does_not_leave_is_named(flow: Dataflow) -> None:
    stranger = "denoise/000/isolated/block/00/video/av_attn"
    tensors = tensors_of(flow)
    more = tensors | {stranger: torch.ones(3)}
    assert codes(compare_traces(trace_of(tensors), trace_of(more), flow)) == [("extra_tensor", stranger)]
    assert codes(compare_traces(trace_of(more), trace_of(tensors), flow)) == [("missing_tensor", stranger)]
    assert codes(compare_traces(trace_of(more), trace_of(more), flow)) == [("extra_tensor", stranger)]


@pytest.mark.parametrize(("value", "code"), [(math.nan, "nan"), (math.inf, "inf")])
def test_only_the_first_of_a_spreading_nan_is_named_on_either_side(flow: Dataflow, value: float, code: str) -> None:
    tensors = tensors_of(flow)
    broken = {tap: x.clone() for tap, x in tensors.items()}
    for tap in flow.taps[flow.rank(CLEAN) :]:
        if tap == CLEAN or any(not broken[name].isfinite().all() for name in flow.inputs_of(tap)):
            broken[tap][0, 3, 2] = value
    found = compare_traces(trace_of(tensors), trace_of(broken), flow)
    assert codes(found) == [(f"{code}_candidate", CLEAN)]
    assert math.isnan(found.errors[CLEAN]) and math.isnan(found.errors["decode/frames"])
    assert codes(compare_traces(trace_of(broken), trace_of(tensors), flow)) == [(f"{code}_reference", CLEAN)]
    both = compare_traces(trace_of(broken), trace_of(broken), flow)
    assert {found for found, _ in codes(both)} == {f"{code}_candidate", f"{code}_reference"} and not both.bit_equal


def golden_of(tensors: dict[str, Tensor], bits: str | None = None) -> Trace:
    """A trace as a golden keeps it: sketches of few taps, the bits of more."""
    pattern = "init/* decode/*"
    few = table_of({tap: x for tap, x in tensors.items() if chosen(tap, pattern)}, pattern)
    more = trace_of({tap: x for tap, x in tensors.items() if chosen(tap, bits)})
    return Trace(few, TapChecksums(digests=more.bits, pattern=bits))


def test_taps_that_a_golden_keeps_no_sketch_of_are_held_to_its_bits(flow: Dataflow) -> None:
    tensors = tensors_of(flow)
    golden = golden_of(tensors)
    same = compare_traces(golden, trace_of(tensors), flow)
    assert same.bit_equal and not same.findings and set(same.taps) == {tap for tap in flow.taps if tap in golden}
    assert same.compared == len(flow.taps) and set(same.by_bits) == set(flow.taps) - set(golden)
    assert compare_traces(trace_of(tensors), golden, flow).by_bits == same.by_bits  # whichever side is reduced
    for other in (noisy(tensors, 1e-6, [CLEAN]), tensors | {CLEAN: tensors[CLEAN].double()}):
        found = compare_traces(golden, trace_of(other), flow)
        assert (found.bit_equal, found.bit_different, found.findings) == (False, 1, ())
        assert [tap for tap, equal in found.by_bits.items() if not equal] == [CLEAN] and CLEAN not in found.errors


@pytest.mark.parametrize(("value", "code"), [(math.nan, "nan"), (math.inf, "inf")])
def test_nan_in_a_tap_that_a_golden_keeps_no_sketch_of_is_named_where_it_begins(
    flow: Dataflow, value: float, code: str
) -> None:
    tensors = tensors_of(flow)
    broken = {tap: x.clone() for tap, x in tensors.items()}
    for tap in (CLEAN, CLEAN.replace("/ff", "/out"), flow.taps[-1]):  # the last has a sketch on both sides
        broken[tap][0, 3, 2] = value
    for golden in (golden_of(tensors), golden_of(broken)):  # whether or not it was as broken when it was recorded
        found = codes(compare_traces(golden, trace_of(broken), flow))
        assert found[0] == (f"{code}_candidate", CLEAN) and {where for _, where in found} == {CLEAN, flow.taps[-1]}
    assert codes(compare_traces(trace_of(broken), golden_of(tensors), flow))[0] == (f"{code}_reference", CLEAN)


def test_a_tap_whose_bits_are_missing_is_named_unless_a_pattern_left_it_out(flow: Dataflow) -> None:
    tensors = tensors_of(flow)
    fewer = {tap: x for tap, x in tensors.items() if tap != CLEAN}
    golden = golden_of(tensors)
    assert codes(compare_traces(golden, trace_of(fewer), flow)) == [("missing_tensor", CLEAN)]
    assert codes(compare_traces(golden_of(fewer), trace_of(tensors), flow)) == [("extra_tensor", CLEAN)]
    assert codes(compare_traces(golden_of(fewer), trace_of(fewer), flow)) == [("missing_tensor", CLEAN)]
    partial = {tap: x for tap, x in tensors.items() if chosen(tap, "init/* text/*")}
    found = compare_traces(golden, trace_of(partial, "init/* text/*"), flow)
    assert found.bit_equal and {tap.partition("/")[0] for tap in found.by_bits} == {"text"}
    offered = compare_traces(golden, trace_of(partial), flow, offered="init/* text/*")
    assert offered.bit_equal and offered.by_bits == found.by_bits
    older = golden_of(tensors, "init/* decode/* text/*")  # one that was thinned kept the bits of what it had
    assert compare_traces(older, trace_of(tensors), flow).by_bits == found.by_bits


def test_another_shape_is_named(flow: Dataflow) -> None:
    tensors = tensors_of(flow)
    found = compare_traces(trace_of(tensors), trace_of(tensors | {CLEAN: tensors[CLEAN][:, :-1]}), flow)
    assert codes(found) == [("shape_mismatch", CLEAN)] and math.isnan(found.errors[CLEAN])


def test_another_environment_a_crash_and_an_empty_trace_are_named(flow: Dataflow) -> None:
    tensors = tensors_of(flow)
    whole = trace_of(tensors)
    diff = compare_traces(whole, whole, flow, environment=[Difference(key="torch", old="2.13.0", new="2.11.0")])
    (found,) = diff.findings
    assert found.code == "environment_mismatch" and found.message.startswith(
        "torch: 2.13.0 against 2.11.0 (reference against candidate)"
    )
    assert codes(compare_traces(whole, trace_of(tensors, complete=False), flow)) == [("incomplete_trace", "candidate")]
    decoded = {tap: x for tap, x in tensors.items() if chosen(tap, "decode/*")}
    nothing = compare_traces(trace_of({"init/video": torch.ones(3)}, "init/*"), trace_of(decoded, "decode/*"), flow)
    assert codes(nothing) == [("empty", "trace")] and not nothing.bit_equal


def exchanged(tensors: dict[str, Tensor], new_of: dict[str, str]) -> dict[str, Tensor]:
    def source(tap: str) -> str:
        parts = tap.split("/")
        return "/".join([*parts[:2], new_of.get(parts[2], parts[2]), *parts[3:]]) if len(parts) > 3 else tap

    return {tap: tensors.get(source(tap), x) for tap, x in tensors.items()}


def test_exchanged_passes_are_named_even_under_noise(flow: Dataflow) -> None:
    tensors = tensors_of(flow)
    swapped = noisy(exchanged(tensors, {"cond": "uncond", "uncond": "cond"}), 0.05)
    found = compare_traces(trace_of(tensors), trace_of(swapped), flow)
    named = [finding for finding in found.findings if finding.code == "swapped_pass"]
    assert [finding.where for finding in named] == ["denoise/000/cond", "denoise/000/uncond"]
    assert "conditional pass holds what the reference's negative-prompt pass holds, in 2 of 2" in named[0].message


def test_a_negative_prompt_that_never_arrived_is_named(flow: Dataflow) -> None:
    tensors = tensors_of(flow)
    found = compare_traces(trace_of(tensors), trace_of(exchanged(tensors, {"uncond": "cond"})), flow)
    assert codes(found) == [("swapped_pass", "denoise/000/uncond")]


def test_a_pass_that_equals_another_in_one_stream_alone_or_is_merely_nearer_is_not_taken_for_it(flow: Dataflow) -> None:
    tensors = tensors_of(flow)
    swapped = exchanged(tensors, {"uncond": "cond"})
    for stream in ("video", "audio"):
        one = {tap: x if f"/{stream}" in tap else tensors[tap] for tap, x in swapped.items()}
        assert not compare_traces(trace_of(tensors), trace_of(one), flow).findings
    assert not compare_traces(trace_of(tensors), trace_of(noisy(swapped, 0.25)), flow).findings
    two = exchanged(tensors, {"uncond": "cond"}) | {
        tap: x for tap, x in exchanged(tensors, {"uncond": "perturbed"}).items() if "/audio" in tap
    }
    assert not compare_traces(trace_of(tensors), trace_of(two), flow).findings, "another pass in each stream"


def test_what_lies_in_both_traces_is_compared_whatever_anybody_says_was_recorded(flow: Dataflow) -> None:
    tensors = tensors_of(flow)
    whole, moved = trace_of(tensors), noisy(tensors, 0.1, [CLEAN])
    for offered, pattern in (("decode/*", None), (None, "decode/*"), ("", "init/*"), ("decode/*", "decode/*")):
        found = compare_traces(whole, trace_of(moved, pattern), flow, offered=offered)
        assert (found.bit_equal, found.bit_different, found.compared) == (False, 1, len(flow.taps))
        assert found.errors[CLEAN] == pytest.approx(0.1, rel=0.5)
    golden = golden_of(tensors)  # holds the bits alone of what moved
    found = compare_traces(golden, trace_of(moved, "decode/*"), flow, offered="decode/*")
    assert found.by_bits[CLEAN] is False and found.compared == len(flow.taps)


def spoiled(table: SketchTable, tap: str, column: int, value: float) -> Trace:
    """A trace in which one number of a tap's row is another: buckets, then norm, largest magnitude and mean."""
    floats = table.floats.clone()
    floats[table.names.index(tap), column] = value
    return Trace(replace(table, floats=floats))


@pytest.mark.parametrize("column", [-3, -2, -1], ids=["l2", "max_abs", "mean"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1e30])
def test_a_trace_that_contradicts_itself_is_named_and_never_equal(flow: Dataflow, column: int, value: float) -> None:
    tensors = tensors_of(flow)
    whole, wrong = trace_of(tensors), spoiled(table_of(tensors), CLEAN, column, value)
    for reference, candidate in ((whole, wrong), (wrong, whole), (wrong, wrong)):
        found = compare_traces(reference, candidate, flow)
        assert ("contradictory_trace", CLEAN) in codes(found) and not found.bit_equal
    golden = golden_of(tensors)  # has no sketch of this tap to hold it against
    assert ("contradictory_trace", CLEAN) in codes(compare_traces(golden, wrong, flow))


def test_equal_checksums_beside_unequal_statistics_are_a_contradiction(flow: Dataflow) -> None:
    tensors = tensors_of(flow)
    table, row = table_of(tensors), list(tensors).index(CLEAN)
    norm, largest, mean = table.floats[row, -3:].tolist()
    for column, value in ((0, 9.0), (-3, norm * 1.01), (-2, largest * 1.01), (-1, mean + 0.01 * largest)):
        found = compare_traces(trace_of(tensors), spoiled(table, CLEAN, column, value), flow)
        assert codes(found) == [("contradictory_trace", CLEAN)]
    for column, value in ((-3, norm * (1 + 1e-6)), (-1, mean + 1e-7 * largest)):  # as sums round on another device
        assert not compare_traces(trace_of(tensors), spoiled(table, CLEAN, column, value), flow).findings


def test_passes_that_agree_or_merely_drift_are_not_taken_for_each_other(flow: Dataflow) -> None:
    tensors = tensors_of(flow)
    alike = exchanged(tensors, {"perturbed": "cond"})  # no block is perturbed
    assert not compare_traces(trace_of(alike), trace_of(noisy(alike, 0.05)), flow).findings
    assert not compare_traces(trace_of(tensors), trace_of(noisy(tensors, 0.5)), flow).findings
    close = noisy(
        alike, 0.2, [tap for tap in alike if "/perturbed/" in tap]
    )  # nearer to each other than noise moves them
    assert not compare_traces(trace_of(close), trace_of(noisy(close, 0.5)), flow).findings


def test_patterns_limit_what_is_wanted(flow: Dataflow) -> None:
    tensors = tensors_of(flow)
    some = {tap: x for tap, x in tensors.items() if tap.startswith("denoise/001")}
    diff = compare_traces(trace_of(tensors), trace_of(some, "denoise/001/*"), flow)
    assert diff.bit_equal and len(diff.taps) == len(some)
    del some["denoise/001/guided/audio"]
    assert codes(compare_traces(trace_of(tensors), trace_of(some, "denoise/001/*"), flow)) == [
        ("missing_tensor", "denoise/001/guided/audio")
    ]


TEXT = ("text/pos/hidden", "text/neg/hidden")


def padded(tensors: dict[str, Tensor], pattern: str | None = None) -> Trace:
    """The trace of an earlier version, whose text taps are of more tokens."""
    table = table_of({tap: x.repeat(1, 3, 1) if tap in TEXT else x for tap, x in tensors.items()}, pattern)
    return Trace(replace(table, padded_text=True))


def test_text_with_padding_on_one_side_is_left_out_on_both(flow: Dataflow) -> None:
    tensors = tensors_of(flow)
    old, new = padded(tensors), trace_of(tensors)
    for reference, candidate, side in zip((old, new), (new, old), SIDES, strict=True):
        found = compare_traces(reference, candidate, flow)
        assert found.bit_equal and found.findings == () and found.compared == len(flow.taps) - len(TEXT)
        assert found.left_out == OmittedTaps(taps=TEXT, padded=(side,)) and not found.is_wanted(TEXT[0])
        assert not any(tap in found.errors for tap in TEXT)
    moved = compare_traces(old, trace_of(noisy(tensors, 0.1, ["connector/neg/audio"])), flow)
    assert [tap for tap, error in moved.errors.items() if error] == ["connector/neg/audio"]
    lost = {tap: x for tap, x in tensors.items() if tap not in (TEXT[0], "connector/pos/video")}
    assert codes(compare_traces(old, trace_of(lost), flow)) == [("missing_tensor", "connector/pos/video")]


def test_text_of_real_tokens_on_both_sides_is_wanted_whole(flow: Dataflow) -> None:
    tensors = tensors_of(flow)
    new = trace_of(tensors)
    lost = trace_of({tap: x for tap, x in tensors.items() if tap != TEXT[1]})
    assert codes(compare_traces(new, lost, flow)) == [("missing_tensor", TEXT[1])]
    fewer = trace_of(tensors | {TEXT[0]: tensors[TEXT[0]][:, 1:]})  # a token less
    assert codes(compare_traces(new, fewer, flow)) == [("shape_mismatch", TEXT[0])]
    assert compare_traces(new, new, flow).left_out == OmittedTaps()


def test_bits_of_text_with_padding_are_left_out_of_a_golden_without_sketches_too(flow: Dataflow) -> None:
    tensors = tensors_of(flow)
    golden = golden_of(tensors)
    older = Trace(replace(golden.part("*"), padded_text=True, pattern=golden.pattern), golden.checksums)
    found = compare_traces(older, trace_of(noisy(tensors, 0.1, TEXT)), flow)
    assert found.bit_equal and found.left_out.taps == TEXT and not any(tap in found.by_bits for tap in TEXT)
    assert compare_traces(golden, trace_of(noisy(tensors, 0.1, TEXT)), flow).bit_different == 2


def test_drift_is_spread_over_steps_and_blocks(flow: Dataflow) -> None:
    errors = {tap: float(flow.rank(tap)) for tap in flow.taps}
    grids = {(grid.guidance_pass, grid.stream, grid.part): grid.values for grid in drift_grids(errors, flow)}
    assert len(grids) == 4 * 10 - 2  # the isolated pass has no cross-modal branch
    values = grids["uncond", "audio", "text_attn"]
    assert (len(values), len(values[0])) == (2, 2)
    assert values[1][0] == flow.rank("denoise/001/uncond/block/00/audio/text_attn")
    assert drift_grids({"init/video": 0.0}, flow) == ()


def sketches(tensors: dict[str, Tensor]) -> dict[str, TapSketch]:
    return {tap: sketch(x, buckets=64) for tap, x in tensors.items()}


def test_the_nearer_run_is_named_different_or_not(flow: Dataflow) -> None:
    tensors = {tap: x for tap, x in tensors_of(flow).items() if tap.startswith("init/")} | {
        tap: torch.randn(1, 40, 64) for tap in ("denoise/000/guided/video", "denoise/000/guided/audio", "decode/mel")
    }
    oracle = sketches(tensors)
    official = noisy(tensors, 0.04, ["denoise/000/guided/video", "denoise/000/guided/audio", "decode/mel"])
    candidate = {
        **tensors,
        "denoise/000/guided/video": tensors["denoise/000/guided/video"] + 0.01 * torch.randn(1, 40, 64),
        "denoise/000/guided/audio": tensors["denoise/000/guided/audio"] + 0.2 * torch.randn(1, 40, 64),
        "decode/mel": tensors["decode/mel"] * math.nan,
    }
    found = arbitrate(oracle, sketches(official), sketches(candidate))
    assert found["denoise/000/guided/video"].ratio == pytest.approx(0.25, rel=0.3)
    assert found["denoise/000/guided/video"].nearer == "candidate"
    assert found["denoise/000/guided/audio"].nearer == "official"
    assert found["init/video"].nearer == "neither" and found["init/video"].ratio == 1.0
    assert found["decode/mel"].nearer is None and math.isnan(found["decode/mel"].ratio)
    count = tally(found)
    assert (count.candidate, count.official, count.neither, count.undecided) == (1, 1, 2, 1)
    without: Any = {tap: one for tap, one in oracle.items() if tap != "decode/mel"}
    assert arbitrate(without, oracle, oracle)["decode/mel"].nearer is None


def test_an_oracle_of_other_noise_is_refused(flow: Dataflow) -> None:
    tensors = tensors_of(flow)
    official = sketches(tensors)
    other = sketches(tensors | {"init/audio": torch.randn(1, 7, 16)})
    assert relative_l2(other["init/audio"], official["init/audio"]).estimate > 0.5
    with pytest.raises(RunError, match=r"other noise.*init/audio"):
        arbitrate(other, official, official)
    with pytest.raises(RunError, match="init/video"):
        arbitrate({}, official, official)


def test_a_ratio_over_nothing_is_infinite_or_one() -> None:
    assert Arbitration(candidate=0.1, official=0.0).ratio == math.inf
    assert Arbitration(candidate=0.0, official=0.0).nearer == "neither"
    assert Arbitration(candidate=math.nan, official=0.0).nearer is None
