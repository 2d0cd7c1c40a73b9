"""Times on the page, in digits and words that a reader takes in at a glance."""

import pytest

from parity.judge.perf import Machine, Times
from parity.judge.perf_history import HistoryLine
from parity.report.page_times import bar, bar_axis, change_words, chart, curve
from parity.report.words import short


@pytest.mark.parametrize(
    ("now", "before", "words"),
    [(3.0, 2.0, "+50.0 %"), (1.9, 2.0, "-5.0 %"), (2.0, 2.0, "+0.0 %"), (9.0, 2.0, "4.5×"), (0.5, 2.0, "0.25×")],
)
def test_a_time_is_a_share_of_a_close_one_and_a_multiple_of_another(now: float, before: float, words: str) -> None:
    assert change_words(now, before) == words


def test_a_measurement_has_four_digits_and_its_unit() -> None:
    assert short(21.0876, "s") == "21.09 s"
    assert short(0.0360407, "s") == "0.03604 s"
    assert short(5 << 29, "bytes") == "2.5000 GiB"
    assert short(None, "s") == "-"


def test_a_bar_stands_on_one_axis_with_the_others() -> None:
    # 198 wide at 2 times the reference run's 4 s: 3 s are 74.25, the reference 99, and 9 s end at the edge.
    assert 'width="74.2"' in bar(3.0, 4.0, None) and 'class="before" x1="99.0" x2="99.0"' in bar(3.0, 4.0, None)
    assert 'class="over"' in bar(9.0, 4.0, 5.0) and 'width="198.0"' in bar(9.0, 4.0, 5.0)
    assert bar(3.0, None, 5.0) == ""
    assert all(words in bar_axis() for words in (">0</text>", ">1×</text>", ">≥2×</text>"))


def test_a_chart_begins_at_zero_and_names_its_axes() -> None:
    drawn = chart("two steps", [((1.0, 4.0), "now"), ((2.0,), "before")], ("step 0", "step 1"))
    # 640 x 150: from 52 to 630 across, from 128 (zero) up to 12 (the longest).
    assert 'class="now" points="52.0,99.0 630.0,12.0"' in drawn
    for words in (">4 s</text>", ">2 s</text>", ">0 s</text>", ">step 0</text>", ">step 1</text>"):
        assert words in drawn
    assert '<circle cx="52.0" cy="70.0" r="3"/>' in drawn  # one value is no line


def test_a_history_of_one_entry_is_no_curve() -> None:
    def entry(created_utc: str, end_to_end_s: float) -> HistoryLine:
        return HistoryLine(
            case="micro",
            runner="native",
            tier="exact",
            machine=Machine(device="cpu", driver="", cpu="x", threads=1, torch="2.13"),
            work={},
            created_utc=created_utc,
            code_version="c",
            baseline=True,
            runs=(Times(end_to_end_s=end_to_end_s, stage_s={}, step_s=(), peak_bytes=1),),
        )

    first, second = entry("2026-01-02T03:04:05+00:00", 4.0), entry("2026-02-03T03:04:05+00:00", 2.0)
    assert curve([first]) == []
    text = "".join(curve([first, second]))
    assert "2026-01-02" in text and "2026-02-03" in text and 'points="52.0,12.0 630.0,70.0"' in text
