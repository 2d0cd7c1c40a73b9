import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from parity.diff.comparison import Finding
from parity.diff.sketches import SketchDiff
from parity.diff.traces import TraceDiff
from parity.explain.explanation import Explanation, explain
from parity.explain.floors import Floors
from parity.explain.hints import Cause
from parity.explain.matching_tap import MatchingTap
from parity.explain.oracle import Arbitration
from parity.report.explanation import MOST_LINES, explanation_document, explanation_lines, story
from parity.taps.dataflow import Dataflow
from runners.case import Case

MakeCase = Callable[..., Case]
HEAD = "denoise/000"
PASSES = ("cond", "uncond", "perturbed", "isolated")


@pytest.fixture
def flow(micro_case: MakeCase) -> Dataflow:
    return Dataflow(micro_case(), 2)


def spread(flow: Dataflow, sources: Iterable[str], size: float, clean: float = 0.0) -> TraceDiff:
    """A trace in which `sources` and all that depends on them differ by `size`."""
    dirty = set(sources)
    for tap in flow.taps:
        if any(name in dirty for name in flow.inputs_of(tap)):
            dirty.add(tap)
    values = {tap: size if tap in dirty else clean for tap in flow.taps}
    taps = {
        tap: SketchDiff(bit_equal=value == 0, estimate=value, low=value, high=value) for tap, value in values.items()
    }
    return TraceDiff(taps=taps, findings=(), is_wanted=lambda tap: True)


def told(flow: Dataflow, diff: TraceDiff, bits_expected: bool = True) -> Explanation:
    found = explain(diff, flow, Floors(flow, "bf16"), bits_expected=bits_expected)
    assert 0 < len(explanation_lines(found)) <= MOST_LINES
    assert all("\n" not in line for line in explanation_lines(found))
    return found


def looked_at(found: Explanation) -> str:
    """The place that the first line says to look at; no other line says it again."""
    first, *others = explanation_lines(found)
    assert not any("look at" in line for line in others)
    return first.split(": look at ", 1)[1]


def test_a_cross_modal_defect_is_located_sized_and_explained(flow: Dataflow) -> None:
    sources = [f"{HEAD}/{name}/block/00/{stream}/av_attn" for name in PASSES[:3] for stream in ("video", "audio")]
    found = told(flow, spread(flow, sources, 0.25))
    lines = "\n".join(explanation_lines(found))
    # harmless: 2 u of the latent and 2 u of one block, u = 2^-9, make 5.5e-3; 0.25 is 45 of those
    # equal: 8 before the blocks, 16 in block 0 before av_attn; of the isolated pass 4 after that, 8 of block 1, 2 x0
    assert explanation_lines(found)[0].startswith(
        f"38 of 187 taps equal in every bit; the first to differ is `{HEAD}/cond/block/00/video/av_attn` although "
        "its 6 inputs are equal: look at what both cross-modal attentions share: rotary positions in time"
    )
    assert explanation_lines(found)[1] == (
        "first departs at step 0, conditional pass, block 0, video, audio-to-video attention: "
        "relative L2 0.25, 45x harmless noise (0.0055); in 3 of 4 passes (cond, uncond, perturbed)"
    )
    assert "departs on its own, too: audio, video-to-audio attention" in lines
    assert "what both cross-modal attentions share: rotary positions in time" in lines
    assert "native: runners.ltx23.block.AudioVideoBlock.audio_to_video_attn, weights" in lines
    assert "official: ltx_core.model.transformer.transformer.BasicAVTransformerBlock.audio_to_video_attn" in lines
    assert "parity isolate CASE --weights DIR --block 0 --steps 0" in lines
    assert explanation_document(found)["roots"][0]["ratio"] == pytest.approx(0.25 / (2**-8 * math.sqrt(2)))
    assert explanation_document(found)["roots"][0]["native_module"].endswith("audio_to_video_attn")


@pytest.mark.parametrize(
    ("sources", "wanted"),
    [
        ([f"{HEAD}/perturbed/block/01/video/self_attn"], "which blocks are perturbed.*[1].*for video.*[0].*for audio"),
        ([f"{HEAD}/{name}/block/00/video/self_attn" for name in PASSES], "in all 4 passes"),
        ([f"{HEAD}/uncond/block/00/video/text_attn"], "the negative prompt's context"),
        ([f"{HEAD}/isolated/block/00/video/out"], "what the isolated pass leaves out"),
        (["denoise/001/cond/block/00/audio/ff"], "only from step 1 on"),
        ([f"{HEAD}/guided/audio"], "the guided combination"),
        ([f"{HEAD}/latent/video"], "the Euler step"),
        (["init/video", "init/audio"], "the noise: seed"),
        (["text/pos/hidden"], "tokens"),
        (["connector/neg/video"], "text connector"),
        (["decode/mel"], "audio VAE"),
        (["decode/frames"], "tiling"),
        ([f"{HEAD}/cond/x0/video"], "output head"),
    ],
)
def test_each_kind_of_start_has_its_hint(flow: Dataflow, sources: list[str], wanted: str) -> None:
    import re

    assert re.search(wanted, "\n".join(explanation_lines(told(flow, spread(flow, sources, 0.3)))))


def test_a_defect_is_located_by_bits_where_a_golden_keeps_no_sketch(flow: Dataflow) -> None:
    source = f"{HEAD}/cond/block/01/audio/ff"
    whole = spread(flow, [source], 0.25)
    kept = {tap: diff for tap, diff in whole.taps.items() if "/block/" not in tap}
    by_bits = {tap: diff.bit_equal for tap, diff in whole.taps.items() if tap not in kept}
    golden = replace(whole, taps=kept, is_wanted=lambda tap: "/block/" not in tap, by_bits=by_bits)
    found = told(flow, golden)
    assert [root.tap for root in found.divergence.roots] == [source]
    assert found.divergence.compared == len(flow.taps) and not found.bit_equal
    assert f"the first to differ is `{source}` although its 4 inputs are equal" in explanation_lines(found)[0]
    assert "keeps no sketch" in explanation_lines(found)[1] and "audio, feed-forward" in explanation_lines(found)[1]
    by_limits = told(flow, golden, bits_expected=False)  # drift can be judged by sketches alone
    assert by_limits.divergence.compared == len(kept)
    equal = replace(golden, taps=spread(flow, [], 0.0).taps, by_bits=dict.fromkeys(by_bits, True))
    assert "equal in every bit" in explanation_lines(told(flow, equal, bits_expected=False))[0]
    harmless = replace(spread(flow, [], 0.0), by_bits={source: False})
    assert "nothing departs beyond harmless noise" in explanation_lines(told(flow, harmless, bits_expected=False))[1]


def test_equal_runs_are_said_to_be_equal(flow: Dataflow) -> None:
    found = told(flow, spread(flow, [], 0.0))
    assert explanation_lines(found) == (f"all {len(flow.taps)} taps are equal in every bit",)
    assert found.bit_equal and not found.divergence.departs


def test_harmless_drift_is_no_departure_unless_bits_are_expected(flow: Dataflow) -> None:
    diff = spread(flow, ["init/video", "init/audio"], 2e-3)  # less than 2 u = 3.9e-3
    found = told(flow, diff, bits_expected=False)
    assert not found.divergence.departs and explanation_lines(found)[1].startswith(
        "nothing departs beyond harmless noise"
    )
    strict = told(flow, diff)
    assert strict.divergence.departs and "initial video latent" in explanation_lines(strict)[1]


def test_bits_come_first_then_named_failures_then_numbers(flow: Dataflow) -> None:
    diff = spread(flow, [f"{HEAD}/guided/audio"], 0.3)
    named = [
        Finding(code="environment_mismatch", where="environment", message="torch: 1 against 2"),
        Finding(code="nan_candidate", where="decode/mel", message="5 elements"),
        *(Finding(code="missing_tensor", where=f"gone/{n}", message="the candidate lacks this tap") for n in range(7)),
        Finding(code="swapped_pass", where="denoise/000/cond", message="holds another"),
    ]
    lines = explanation_lines(told(flow, TraceDiff(taps=diff.taps, findings=tuple(named), is_wanted=diff.is_wanted)))
    assert lines[0].startswith("109 of 187 taps equal in every bit; the first to differ is `denoise/000/guided/audio`")
    assert lines[1] == "environment_mismatch at environment: torch: 1 against 2"
    assert lines[2] == "nan_candidate at decode/mel: 5 elements"
    assert lines[3] == "missing_tensor at gone/0: the candidate lacks this tap (and 6 more); also swapped_pass"
    assert lines[4].startswith("first departs at step 0, audio, guided prediction")


def test_a_missing_tap_is_named_once_and_an_empty_trace_is_no_agreement(flow: Dataflow) -> None:
    diff = spread(flow, [], 0.0)
    gone = {tap: one for tap, one in diff.taps.items() if tap != "init/video"}
    found = told(flow, TraceDiff(taps=gone, findings=(), is_wanted=diff.is_wanted))
    first, second = explanation_lines(found)
    assert first == f"{len(flow.taps) - 1} of {len(flow.taps)} taps equal in every bit, 1 missing"
    assert second.startswith("missing_tensor at init/video") and found.divergence.departs
    nothing = told(flow, TraceDiff(taps={}, findings=(), is_wanted=diff.is_wanted))
    assert "so nothing is known" in explanation_lines(nothing)[0] and nothing.divergence.departs


def test_ten_lines_are_enough_whatever_is_wrong(flow: Dataflow) -> None:
    sources = [f"{HEAD}/{name}/block/00/{stream}/av_attn" for name in PASSES[:3] for stream in ("video", "audio")]
    diff = spread(flow, sources, 0.25)
    codes = ("environment_mismatch", "nan_candidate", "missing_tensor", "swapped_pass", "incomplete_trace")
    named = tuple(Finding(code=code, where="somewhere", message="something") for code in codes)
    found = explain(
        TraceDiff(taps=diff.taps, findings=named, is_wanted=diff.is_wanted),
        flow,
        Floors(flow, "bf16"),
        bits_expected=False,
        arbitrations={"decode/mel": Arbitration(candidate=0.01, official=0.04)},
    )
    assert len(explanation_lines(found)) == MOST_LINES == 10
    assert len(found.divergence.findings) == len(codes)  # machines get all of it


def test_an_oracle_is_heard(flow: Dataflow) -> None:
    arbitrations = {
        "decode/mel": Arbitration(candidate=0.01, official=0.04),
        "init/video": Arbitration(candidate=0.0, official=0.0),
        "decode/frames": Arbitration(candidate=math.nan, official=0.1),
    }
    diff = spread(flow, [f"{HEAD}/guided/audio"], 0.3)
    found = explain(diff, flow, Floors(flow, "bf16"), bits_expected=False, arbitrations=arbitrations)
    assert any(
        "candidate nearer at 1 taps, official at 0, alike at 1, 1 undecided" in line
        for line in explanation_lines(found)
    )
    assert len(explanation_lines(found)) <= MOST_LINES


def test_other_bits_without_a_difference_are_never_called_equal(flow: Dataflow) -> None:
    clean, tap = spread(flow, [], 0.0), f"{HEAD}/cond/block/01/video/ff"
    sign_of_zero = SketchDiff(bit_equal=False, estimate=0.0, low=0.0, high=0.0)
    diff = TraceDiff(taps={**clean.taps, tap: sign_of_zero}, findings=(), is_wanted=clean.is_wanted)
    found = told(flow, diff)
    assert found.divergence.departs and not found.bit_equal
    assert explanation_lines(found)[0].startswith(f"186 of 187 taps equal in every bit; `{tap}` alone differs although")
    assert explanation_lines(found)[1].startswith(
        "first departs at step 0, conditional pass, block 1, video, feed-forward: other bits"
    )
    assert not any("are equal in every bit" in line for line in explanation_lines(found))
    assert not told(flow, diff, bits_expected=False).divergence.departs  # limits do not ask for bits

    cast = SketchDiff(bit_equal=False, estimate=0.0, low=0.0, high=0.0, dtypes=("bfloat16", "float32"))
    found = told(flow, TraceDiff(taps={**clean.taps, tap: cast}, findings=(), is_wanted=clean.is_wanted))
    assert "bfloat16 in the reference, float32 here" in explanation_lines(found)[1]


def test_equal_taps_are_said_to_be_equal_even_from_another_environment(flow: Dataflow) -> None:
    clean = spread(flow, [], 0.0)
    elsewhere = Finding(code="environment_mismatch", where="environment", message="threads: 1 against 2")
    diff = TraceDiff(taps=clean.taps, findings=(elsewhere,), is_wanted=clean.is_wanted)
    found = told(flow, diff, bits_expected=False)
    assert explanation_lines(found)[0] == f"all {len(flow.taps)} taps are equal in every bit" and found.bit_equal
    assert explanation_lines(found)[1].startswith("environment_mismatch") and len(explanation_lines(found)) == 2
    incomplete = Finding(code="incomplete_trace", where="candidate", message="the candidate ended after 7 taps")
    diff = TraceDiff(taps=clean.taps, findings=(elsewhere, incomplete), is_wanted=clean.is_wanted)
    found = told(flow, diff, bits_expected=False)
    assert not found.bit_equal
    assert explanation_lines(found)[0] == f"the {len(flow.taps)} taps that could be compared are equal in every bit"


def test_what_is_held_instead_comes_before_what_is_likely(flow: Dataflow) -> None:
    diff = spread(flow, [f"{HEAD}/cond/block/00/video/ff"], 0.3)
    other = MatchingTap(tap=f"{HEAD}/cond/block/01/video/ff", nearer=math.inf)
    found = explain(diff, flow, Floors(flow, "bf16"), bits_expected=True, matching=lambda tap: other)
    look = looked_at(found)
    assert look == (
        "how it comes to hold what the reference has at step 0, conditional pass, block 1, video, feed-forward "
        "(to the bit)"
    )
    other = MatchingTap(tap=f"{HEAD}/uncond/block/00/video/ff", nearer=math.inf)
    found = explain(diff, flow, Floors(flow, "bf16"), bits_expected=True, matching=lambda tap: other)
    look = looked_at(found)
    assert look.startswith("the feed-forward branch") and "; it holds what the reference has at step 0, neg" in look


def test_a_small_defect_may_begin_at_an_input_that_is_raised_but_within_its_bound(flow: Dataflow) -> None:
    quiet = dict.fromkeys(flow.taps, 0.001)
    calibrated = {"text": (0.008, 0.02), "connector.video": (0.005, 0.0075)}  # floor and limit of each group

    def lines(hidden: float) -> tuple[str, ...]:
        errors = {**quiet, "text/pos/hidden": hidden, "connector/pos/video": 0.0077}
        taps = {tap: SketchDiff(bit_equal=False, estimate=e, low=e, high=e) for tap, e in errors.items()}
        diff = TraceDiff(taps=taps, findings=(), is_wanted=lambda tap: True)
        floors = Floors(flow, "bf16", calibrated=calibrated)
        return explanation_lines(explain(diff, flow, floors, bits_expected=False))

    # The context is at 1.54x its floor; the hidden states at 1.4x, which counts, or 0.9x, which is no more than noise
    assert (
        "it may begin before that, at Gemma's hidden states of the prompt: 1.4x harmless noise, too little to be sure"
        in lines(0.0112)
    )
    assert not any("may begin before" in line for line in lines(0.0072))


@pytest.mark.parametrize(
    ("source", "command"),
    [
        ("text/pos/hidden", "--stage text_encoding`"),
        ("connector/pos/audio", "--stage text_connector`"),
        (f"{HEAD}/guided/audio", "--stage denoising --steps 0`"),
        ("decode/waveform", "--stage audio_decoding`"),
    ],
)
def test_every_place_has_its_next_step(flow: Dataflow, source: str, command: str) -> None:
    assert any(
        line.startswith("next: `parity isolate") and command in line
        for line in explanation_lines(told(flow, spread(flow, [source], 0.3)))
    )


def test_an_engine_that_cannot_run_in_lockstep_is_not_sent_there(flow: Dataflow) -> None:
    diff = spread(flow, [f"{HEAD}/cond/block/00/video/ff"], 0.3)
    lines = explanation_lines(explain(diff, flow, Floors(flow, "bf16"), bits_expected=False, runner="engine"))
    assert not any("isolate" in line for line in lines)
    assert lines[-1].startswith(
        "next: `parity run --runner FILE.py:CLASS --case CASE --weights DIR "
        f"--taps '{HEAD}/cond/block/00/video/*' --keep full --out full`"
    )


def test_diffusers_is_shown_its_own_code(flow: Dataflow) -> None:
    diff = spread(flow, [f"{HEAD}/cond/block/00/audio/av_attn"], 0.3)
    lines = explanation_lines(explain(diff, flow, Floors(flow, "bf16"), bits_expected=False, runner="diffusers"))
    assert any(
        line.startswith(
            "diffusers: diffusers.models.transformers.transformer_ltx2.LTX2VideoTransformerBlock.video_to_audio"
        )
        for line in lines
    )
    assert not any(line.startswith("native:") for line in lines)


def test_a_stream_that_is_wrong_before_the_cross_modal_attentions_is_told_from_what_they_share(flow: Dataflow) -> None:
    sources = [f"{HEAD}/{name}/block/00/{stream}/av_attn" for name in PASSES[:3] for stream in ("video", "audio")]
    sources.append(f"{HEAD}/isolated/block/00/audio/ff")
    assert looked_at(told(flow, spread(flow, sources, 0.3))) == (
        "what audio brings there, which departs in the isolated pass too: the gate of its text attention"
    )


def elsewhere(diff: TraceDiff) -> TraceDiff:
    """The same from two environments."""
    other = Finding(code="environment_mismatch", where="environment", message="torch: 1 against 2")
    return replace(diff, findings=(other,))


@pytest.mark.parametrize("apart", [False, True], ids=["here", "environments differ"])
def test_one_tap_alone_is_pointed_at_whatever_the_environments(flow: Dataflow, apart: bool) -> None:
    diff = spread(flow, ["decode/waveform"], 1e-3)  # far less than harmless noise
    found = told(flow, elsewhere(diff) if apart else diff, bits_expected=False)
    assert explanation_lines(found)[0].startswith(
        "186 of 187 taps equal in every bit; `decode/waveform` alone differs although its input `decode/mel` is equal: "
        "look at the vocoder and its resampling filters"
    )
    second, third, *_ = [*explanation_lines(found)[1:], ""]
    assert (third if apart else second).startswith("nothing departs beyond harmless noise")


def test_where_few_bits_are_equal_in_another_environment_the_first_line_points_nowhere_by_bits(flow: Dataflow) -> None:
    # equal: 3 of the negative prompt, audio's start, its self-attention in block 0 of 4 passes, 1 text attention
    quiet = elsewhere(spread(flow, ["text/pos/hidden", "init/video"], 1e-4))
    assert story(told(flow, quiet, bits_expected=False)) == (
        "9 of 187 taps equal in every bit, as may be where environments differ"
    )
    departs = {**quiet.taps, "decode/mel": SketchDiff(bit_equal=False, estimate=0.9, low=0.9, high=0.9)}
    assert story(told(flow, replace(quiet, taps=departs), bits_expected=False)) == (
        "9 of 187 taps equal in every bit, as may be where environments differ; the first beyond harmless noise is "
        "`decode/mel`: look at the audio VAE's decoder or its latent statistics"
    )
    here = replace(quiet, findings=())  # the same numbers of one environment: then the first difference tells
    assert story(told(flow, here, bits_expected=False)).startswith(
        "9 of 187 taps equal in every bit; the first to differ is `text/pos/hidden`: look at tokens"
    )
    loud = elsewhere(spread(flow, flow.taps[:8], 0.9))  # beyond noise at once: that no environment explains
    assert story(told(flow, loud, bits_expected=False)).startswith(
        "0 of 187 taps equal in every bit; the first to differ is `text/pos/hidden`: look at tokens"
    )


def test_inputs_that_were_not_compared_are_not_said_to_be_equal(flow: Dataflow) -> None:
    diff = spread(flow, ["decode/waveform"], 0.3)
    taps = {tap: one for tap, one in diff.taps.items() if tap != "decode/mel"}
    found = told(flow, replace(diff, taps=taps, is_wanted=lambda tap: tap != "decode/mel"))
    assert story(found).startswith("185 of 186 taps equal in every bit; `decode/waveform` alone differs: look at")
    found = told(flow, replace(diff, taps=taps))
    assert story(found).startswith("185 of 187 taps equal in every bit, 1 missing; `decode/waveform` alone differs: ")


def test_a_tap_with_two_inputs_names_both(flow: Dataflow) -> None:
    assert (
        "`denoise/001/cond/x0/audio` alone differs although its inputs `denoise/000/latent/audio` and "
        "`denoise/001/cond/block/01/audio/out` are equal: look at the output head"
    ) in story(told(flow, only(flow, "denoise/001/cond/x0/audio")))


def test_what_isolated_errors_show_of_all_blocks_comes_before_the_pattern_of_the_free_run(flow: Dataflow) -> None:
    shared = Cause(kind="every_kernel", part="self_attn")

    def line(source: str) -> str:
        return story(
            explain(spread(flow, [source], 0.3), flow, Floors(flow, "bf16"), bits_expected=True, shared=shared)
        )

    assert "look at the attention kernel, since attention alone" in line(f"{HEAD}/cond/block/00/video/self_attn")
    assert "the attention kernel, since" not in line("decode/mel")  # no block departs


def only(flow: Dataflow, tap: str) -> TraceDiff:
    """A trace in which one tap differs and nothing inherits it."""
    clean = spread(flow, [], 0.0)
    return replace(clean, taps={**clean.taps, tap: SketchDiff(bit_equal=False, estimate=0.3, low=0.3, high=0.3)})
