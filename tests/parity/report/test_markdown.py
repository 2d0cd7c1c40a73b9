"""Summaries and annotations say the same as the verdict, and nothing in a name becomes a command."""

import io
from pathlib import Path

import msgspec
import pytest

from parity.judge.perf import PerfVerdict
from parity.judge.verdict import Verdict
from parity.report.markdown import annotation, annotations, error_markdown, say_in_workflow, verdict_markdown
from parity.report.terminal import Terminal
from parity.report.words import in_words, next_steps


def test_the_summary_opens_with_the_decision_and_shows_what_failed_first(verdict: Verdict) -> None:
    text = verdict_markdown(in_words(verdict), next_steps("mine", "ref"))
    assert text.startswith(
        "### VERDICT\\: NOT AT PARITY\\: 1 of 5 metrics beyond their limits and 1 finding \\(judged by limits on "
    )
    assert "**missing\\_channel** in audio\\_waveform" in text
    before, after = text.split("<details>")
    assert "video\\_latent.relative\\_l2" in before and "frames.ssim.min |" not in before
    assert "frames.ssim.min |" in after
    assert "- next\\: parity explain mine --against ref\n- next\\: parity report mine" in before
    states = [line.split(" | ")[0] for line in after.splitlines() if line.startswith("| ") and " | " in line]
    assert states[2] == "| FAIL" and "| FAIL" not in states[3:]  # below head and rule the worst, then the others
    assert all(line.replace("\\|", "").count("|") == 8 for line in text.splitlines() if line.startswith("|"))


def test_nothing_in_a_message_becomes_markup(verdict: Verdict) -> None:
    text = verdict_markdown(in_words(verdict))
    assert "<b>" not in text and "&lt;b&gt;" in text
    assert "[link](x)" not in text and "\x1b" not in text


def test_speed_is_part_of_the_summary(passing: Verdict, slow: PerfVerdict) -> None:
    text = verdict_markdown(in_words(passing, slow))
    assert text.startswith("### VERDICT\\: PARITY, TOO SLOW \\(judged by ")
    assert "12.12 s" in text and "10.605 s" in text


def test_each_wrong_thing_is_one_annotation_on_one_line(verdict: Verdict, passing: Verdict, slow: PerfVerdict) -> None:
    lines = annotations(in_words(verdict))
    assert len(lines) == 2
    assert all(line.startswith("::error title=parity astronaut::") and "\n" not in line for line in lines)
    assert annotations(in_words(passing)) == []
    too_slow = annotations(in_words(passing, slow))
    assert [line.split("::")[2].split(",")[0] for line in too_slow] == ["end_to_end is 12.12 s"]
    other = msgspec.structs.replace(slow, outcome="not_comparable", rows=(), reason="device: a -> b")
    assert annotations(in_words(passing, other))[0].endswith("::not_comparable: device: a -> b")
    assert len(annotations(in_words(msgspec.structs.replace(passing, outcome="undecided")))) == 1


def test_the_worst_come_first_and_there_are_ten_at_most(verdict: Verdict) -> None:
    row = next(row for row in verdict.rows if row.failed)
    more = [msgspec.structs.replace(row, metric=f"drift.m{n:02d}", used=2.0 + n) for n in range(20)]
    words = in_words(msgspec.structs.replace(verdict, rows=(*verdict.rows, *more)), why="look there")
    lines = annotations(words)
    assert len(lines) == 10 and "look there" in lines[0] and "missing_channel" in lines[1]
    assert "drift.m19 is" in lines[2] and "drift.m13 is" in lines[8]
    assert lines[9].endswith("::and 14 more; the job summary has them all")  # 1 + 1 + 21 wrong things in all
    before, after = verdict_markdown(words).split("<details>")
    assert [name in before for name in ("drift.m19", "drift.m15", "drift.m14")] == [True, True, False]
    assert "16 more are beyond their limits" in before and "drift.m00" in after


def test_an_annotation_cannot_start_another() -> None:
    assert annotation("a:b,c", "50 %0A::error::x\n::set-env::y") == (
        "::error title=a%3Ab%2Cc::50 %250A::error::x\\n::set-env::y"
    )


def test_summaries_are_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    terminal = Terminal(file=io.StringIO())
    say_in_workflow(error_markdown("astronaut", "no <golden>"), [], terminal)
    say_in_workflow("second", [], terminal)
    assert path.read_text() == "### VERDICT: COULD NOT JUDGE\n\nCase astronaut: no &lt;golden&gt;\n\nsecond\n"
