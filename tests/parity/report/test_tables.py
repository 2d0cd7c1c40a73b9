"""Tables say what, how much and why at any width, and obey nobody's escape codes."""

import io

import msgspec
import pytest

from parity.diff.comparison import Comparison, Finding
from parity.judge.perf import PerfChange, PerfVerdict
from parity.judge.proposal import propose
from parity.judge.registry import DEFAULTS, Registry
from parity.judge.rules import judge
from parity.judge.verdict import Verdict
from parity.report.tables import draw_changes, draw_gate, draw_perf_changes
from parity.report.terminal import Terminal
from parity.report.words import folded, head_and_list, in_words, next_steps


def console(width: int) -> Terminal:
    return Terminal(file=io.StringIO(), width=width)


def shown(target: Terminal) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


@pytest.mark.parametrize("width", [20, 60, 80, 130, 200])
def test_every_number_is_whole_at_any_width(verdict: Verdict, width: int) -> None:
    target = console(width)
    draw_gate(target, in_words(verdict), whole=True)
    text = shown(target)
    for whole in (
        "video_latent.relative_l2",
        "0.123457",  # value
        "<= 0.1",  # limit: sqrt(0.01 * 1)
        "-0.0234568",  # by how much
        "123 %",
        ">= 30 dB",
        "+inf dB",
        "= 0 frames",
        "missing_channel in audio_waveform",
    ):
        assert whole in text, whole
    assert "…" not in text
    assert "\x1b" not in text and "\u202e" not in text
    assert text.splitlines()[-1] == "VERDICT: NOT AT PARITY"


def test_a_wide_terminal_gets_a_table_and_a_narrow_one_lines(verdict: Verdict) -> None:
    wide, narrow = console(200), console(60)
    draw_gate(wide, in_words(verdict), whole=True)
    draw_gate(narrow, in_words(verdict), whole=True)
    assert "why this limit" in shown(wide) and "why this limit" not in shown(narrow)
    assert "video_latent.relative_l2 is 0.123457, wanted <= 0.1" in shown(narrow)


def test_every_metric_comes_in_the_order_of_what_is_wrong(verdict: Verdict) -> None:
    target = console(60)
    draw_gate(target, in_words(verdict), whole=True)
    states = [line.split(" ")[0] for line in shown(target).splitlines() if ", wanted " in line]
    assert len(states) == len(verdict.rows) and states[0] == "FAIL" and "FAIL" not in states[1:]


def test_a_note_that_ends_in_names_is_parted_before_them_and_no_other_note() -> None:
    names = ", ".join(f"drift.block.video.ff.step_{number}" for number in range(30))
    assert head_and_list(f"OVERLAP by 30 metrics, on which no case passes: {names}") == (
        "OVERLAP by 30 metrics, on which no case passes",
        names,
    )
    prose = f"limits were measured elsewhere (threads: 1 -> 2): they pass nothing; {'run there ' * 30}"
    assert head_and_list(prose) == (prose, "")


@pytest.mark.parametrize("width", [60, 200])
def test_reasons_states_and_waivers_are_shown(verdict: Verdict, width: int) -> None:
    target = console(width)
    draw_gate(target, in_words(verdict), whole=True)
    text = " ".join(shown(target).split())
    for words in (
        "harmless 40 dB (threads), weakest defect 20 dB (gelu)",
        "uncalibrated",
        "OVERLAP",
        "waived",
        "one byte says nothing",
        "FAIL",
    ):
        assert words in text, words


@pytest.mark.parametrize("width", [20, 80, 200])
def test_only_the_worst_five_are_shown_unless_all_are_asked_for(verdict: Verdict, width: int) -> None:
    row = next(row for row in verdict.rows if row.failed)
    beyond = [
        msgspec.structs.replace(row, metric=f"drift.{name}", value=used * row.limit, used=used)
        for name, used in (("c", 3.0), ("a", 40.0), ("f", 1.5), ("b", 7.0), ("g", 1.25), ("d", 2.5), ("e", 2.0))
    ]
    words = in_words(msgspec.structs.replace(verdict, rows=(*verdict.rows, *beyond)), first="step 1 · video, 12x noise")
    target = console(width)
    draw_gate(target, words, steps=["next: parity explain RUN"])
    text = " ".join(shown(target).split())
    first = shown(target).splitlines()[0]
    assert first.startswith("VERDICT: NOT AT PARITY: 8 of 12 metrics beyond their limits and 1 finding, first ")
    assert "first divergence at step 1 · video, 12x noise (judged by limits" in first
    places = [text.index(f"drift.{name} ") for name in "abcde"]
    assert places == sorted(places) and "drift.f" not in text and "drift.g" not in text
    assert "40x" in text and "<= 0.1" in text and "0.7" in text  # ratio, limit and value of what is beyond
    assert "3 more beyond their limits, 4 within; -v shows every metric" in text
    assert "next: parity explain RUN" in text and "missing_channel in audio_waveform" in text


def test_nothing_is_to_be_typed_next_at_parity(passing: Verdict) -> None:
    target = console(100)
    draw_gate(target, in_words(passing), steps=["next: parity explain RUN"])
    assert "next" not in shown(target) and "-v" not in shown(target)


def test_a_command_to_type_can_be_typed() -> None:
    assert next_steps("a run", None)[0] == "next: parity explain 'a run'"
    assert next_steps("b", "ref;x")[1] == "next: parity report b --against 'ref;x' --out page.html"


def test_the_last_line_is_the_decision(passing: Verdict, slow: PerfVerdict) -> None:
    target = console(100)
    draw_gate(target, in_words(passing))
    assert shown(target).splitlines()[-1] == "VERDICT: PARITY"
    target = console(100)
    draw_gate(target, in_words(passing, slow))
    assert shown(target).splitlines()[-1] == "VERDICT: PARITY, TOO SLOW"
    undecided = msgspec.structs.replace(passing, outcome="undecided")
    target = console(100)
    draw_gate(target, in_words(undecided))
    assert shown(target).splitlines()[-1] == "VERDICT: COULD NOT JUDGE"


@pytest.mark.parametrize("width", [50, 200])
def test_speed_shows_medians_allowance_and_interval(passing: Verdict, slow: PerfVerdict, width: int) -> None:
    target = console(width)
    draw_gate(target, in_words(passing, slow))
    text = shown(target)
    for whole in ("12.12 s", "10.1 s", "10.605 s", "+20 %", "3.0000 GiB", "reading weights"):
        assert whole in text, whole


@pytest.mark.parametrize("width", [50, 200])
def test_changes_show_old_against_new(registry: Registry, width: int) -> None:
    tighter = dict(registry.defaults)
    tighter["frames.psnr_db.min"] = msgspec.structs.replace(tighter["frames.psnr_db.min"], value=25.0)
    del tighter["video_latent.cosine"]
    target = console(width)
    draw_changes(target, propose(registry, {DEFAULTS: tighter}, {}).changes)
    text = shown(target)
    for whole in ("loosened", "30 dB", "25 dB", "removed", "0.875 (OVERLAP)", "3 limits are unchanged"):
        assert whole in text, whole
    target = console(width)
    draw_perf_changes(target, [PerfChange(title="a", quantity="end_to_end", old=1.5, new=None, loosened=True)])
    assert "1.5 s" in shown(target) and "loosened" in shown(target)


def test_the_largest_change_of_a_limit_stands_first(registry: Registry) -> None:
    moved = dict(registry.defaults)
    for metric, value in (("video_latent.relative_l2", 0.11), ("frames.psnr_db.min", 10.0), ("frames.ssim.min", 0.97)):
        moved[metric] = msgspec.structs.replace(moved[metric], value=value)
    target = console(200)
    draw_changes(target, propose(registry, {DEFAULTS: moved}, {}).changes)
    text = shown(target)
    places = [text.index(words) for words in ("10x looser", "1.33x tighter", "1.1x looser")]  # 20 dB; 0.04 to 0.03
    assert places == sorted(places)
    target = console(200)
    draw_changes(target, propose(registry, {DEFAULTS: registry.defaults}, {}).changes)
    assert shown(target) == "note 5 limits are unchanged\n"


@pytest.mark.parametrize("width", [100, 120, 130, 140, 150, 160])
def test_a_reason_is_never_cut_off(verdict: Verdict, width: int) -> None:
    rows = tuple(
        msgspec.structs.replace(
            row,
            unit="elements",
            metric="drift.block.video.text_attn.second_half",
            reason="w " * 20 + "end.",
            floor=None,
        )
        for row in verdict.rows
    )
    target = console(width)
    draw_gate(target, in_words(msgspec.structs.replace(verdict, rows=rows)), whole=True)
    assert shown(target).count("end.") == len(rows)


def test_many_failures_of_one_code_are_said_once_and_counted(registry: Registry) -> None:
    gone = [Finding(code="missing_tensor", where=f"denoise/00{n}/guided/video", message="lacks") for n in range(5)]
    named = [Finding(code="nan_candidate", where=f"init/{n}", message="3 elements") for n in range(3)]
    verdict = judge(
        Comparison(
            case="astronaut",
            metrics={},
            findings=(
                *named,
                *gone,
            ),
            environment_of_candidate={},
        ),
        "limits",
        registry=registry,
    )
    lines = [
        (failure.where, words)
        for failure, words in folded(verdict.failures)
        if failure.message in ("lacks", "3 elements")
    ]
    assert lines == [
        ("denoise/000/guided/video", "lacks"),
        ("denoise/001/guided/video", "lacks"),
        ("denoise/002/guided/video", "lacks (and 2 more)"),  # in the order of the data flow
        *((f"init/{n}", "3 elements") for n in range(3)),
    ]
