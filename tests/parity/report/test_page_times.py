"""Times on the page, in digits and words that a reader takes in at a glance."""

import pytest

from parity.report.page_times import change_words
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
